"""What each verb of the command line does."""

import json
from pathlib import Path

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import apply_settings, load_preset
from thinkswitch.remote import distributed


def do_run(args) -> int:
    preset = apply_settings(load_preset(args.preset), args.set + ([f"teacher={args.teacher}"] if args.teacher else []))
    out = args.out or runs.new_folder(runs.ROOT, preset.name)
    from thinkswitch import loop
    print(f"run folder: {out}", flush=True)
    return show_run(loop.run(preset, out), preset, out)


def do_resume(args) -> int:
    from thinkswitch import loop
    return show_run(loop.resume(args.run), runs.open_run(args.run), args.run)


def run_worker() -> int:
    from thinkswitch.remote.worker import worker_main
    from thinkswitch.weights.device import silence_libraries
    silence_libraries()
    worker_main()
    return 0


def show_run(events, preset, folder: Path) -> int:
    from thinkswitch.cli import terminal
    from thinkswitch.weights.device import silence_libraries
    silence_libraries()
    try:
        ended = terminal.show(events, preset, folder)
    finally:
        distributed.broadcast(None)  # lets the others go
    return {"done": 0, "stopped": 130}[ended]


def do_stop(args) -> int:
    runs.request_stop(args.run)
    print(f"{args.run} will stop at its next step; go on with: thinkswitch resume {args.run}")
    return 0


def do_status(args) -> int:
    preset = runs.open_run(args.run)
    events = list(runs.read_lines(args.run / "events.jsonl"))
    measured = runs.measured(events)
    last = events[-1] if events else {}
    if args.json:
        print(json.dumps(dict(state=runs.state(args.run), preset=preset.name, rounds=preset.rounds, last=last, measured=measured)))
        return 0
    print(f"{args.run}: {runs.state(args.run)}" + (f", round {last['round']} of {preset.rounds}" if last else "")
          + (f", {last['phase']} {last['step']}/{last['total']}" if last.get("total") and last["phase"] != "done" else "")
          + (f"; {last['message']}" if "message" in last else ""))
    from thinkswitch.cli import terminal
    terminal.console().print(terminal.scores(measured))
    return 0


def do_check(args) -> int:
    from thinkswitch.weights.device import silence_libraries
    from thinkswitch.weights.pair import open_pair
    silence_libraries()
    pair = open_pair(args.instruct, args.thinking, headers_only=True)
    config, kinds = pair.config, {e.dtype for c in (pair.instruct, pair.thinking) for e in c.entries.values()}
    print(f"compatible: {config.model_type}, {pair.parameters:,} parameters in {len(pair.names)} tensors ({', '.join(sorted(kinds))}), "
          f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, vocabulary {config.vocab_size:,}, "
          f"{'tied' if config.tie_word_embeddings else 'untied'} embeddings")
    for role in ("instruct", "thinking"):
        print(f"{role}: its chat template {'opens' if getattr(pair, role).template_opens_think else 'does not open'} the trace")
    return 0


def load_live_blend(args):
    """(preset, pair, round, live blend) of a preset or a run."""
    if not all(0 <= t <= 1 for t in args.t):
        raise UserError(f"t must lie between 0 and 1, it is {' '.join(f'{t:g}' for t in args.t)}")
    from thinkswitch.weights import memory_plan
    from thinkswitch.weights.live_blend import Blend
    preset, pair, round = load_pair_and_round(args)
    return preset, pair, round, Blend(pair, round.adapters, **memory_plan.resolve_machine(pair, preset, memory_plan.LIVE))


def do_plan(args) -> int:
    from thinkswitch.cli import terminal
    from thinkswitch.weights import memory_plan
    from thinkswitch.weights.device import silence_libraries
    from thinkswitch.weights.pair import open_pair
    silence_libraries()
    preset = apply_settings(load_preset(args.source), args.set)
    phases = memory_plan.plan_memory(open_pair(preset.instruct, preset.thinking, headers_only=True), preset)
    terminal.console().print(terminal.memory(phases))
    return 0


def load_pair_and_round(args):
    """(preset, pair, round) of a preset or a run; no weights are in memory."""
    from thinkswitch import rounds
    from thinkswitch.weights.device import silence_libraries
    from thinkswitch.weights.pair import open_pair
    silence_libraries()
    folder = Path(args.source)
    is_run = (folder / "preset.yaml").is_file()
    preset = apply_settings(load_preset(args.source), args.set)
    pair = open_pair(preset.instruct, preset.thinking)
    if not is_run and args.round:
        raise UserError(f"{args.source} is a preset, so it has no round {args.round}; name a run's folder")
    number = runs.rounds_done(folder) if args.round is None else args.round
    has_recipe = is_run and (runs.round_dir(folder, number) / "recipe.json").is_file()
    return preset, pair, rounds.read(folder, number) if has_recipe or number else rounds.start(pair)


def do_ask(args) -> int:
    if args.tokens is not None and args.tokens < 1:
        raise UserError(f"--tokens must be at least 1, it is {args.tokens}")
    if not args.prompt.strip():
        raise UserError("the prompt is empty")
    if args.prompt != args.prompt.encode("utf-8", "replace").decode("utf-8"):
        raise UserError("the prompt is not valid UTF-8 text")
    preset, pair, round, blend = load_live_blend(args)
    from thinkswitch import evaluate
    from thinkswitch.cli import terminal
    from thinkswitch.generate import generate
    rows = []
    for t in args.t:
        settings = evaluate.with_token_limit(evaluate.sampling(preset, "instruct" if t == 0 else "thinking", args.greedy), args.tokens)
        point, seed = round.point(t, preset.schedule), evaluate.seed_of(preset.seed, "ask")
        rows.append(evaluate.question(pair, preset, args.prompt, t, point, args.template, settings, seed))
    chunks = generate(blend, pair.instruct.tokenizer, rows, pair.instruct.stop_token_ids | pair.thinking.stop_token_ids, len(rows), stream=not args.json)
    if args.json:
        last = {c.row: c for c in chunks}
        print(json.dumps([dict(t=t, trace=last[i].trace, answer=last[i].answer, tokens=last[i].tokens, finish=last[i].finish,
                               state=last[i].state) for i, t in enumerate(args.t)], ensure_ascii=False))
    else:
        terminal.columns(args.prompt, args.t, round.number, chunks)
    return 0


def do_sweep(args) -> int:
    if args.json and args.json.is_dir():
        raise UserError(f"--json {args.json} is a folder; name a file")
    preset, pair, round, blend = load_live_blend(args)
    from thinkswitch import evaluate, problems
    from thinkswitch.cli import terminal
    _, held_out = problems.train_and_held_out(preset)
    points = {t: round.point(t, preset.schedule) for t in args.t}
    table = terminal.progress(evaluate.sweep(blend, getattr(pair, preset.template), points, held_out, preset), "sweep")
    terminal.console().print(terminal.spectrum(table, f"round {round.number}, {len(held_out)} problems, {preset.template} template"))
    if args.json:
        runs.write_atomic(args.json, json.dumps(dict(round=round.number, template=preset.template, preset=preset.name,
                                              seed=preset.seed, points=table), indent=1) + "\n")
    return 0


def do_export(args) -> int:
    if not 0.001 <= args.shard <= 1000:
        raise UserError(f"--shard is the size of a file in GB, from 0.001 to 1000; it is {args.shard:g}")
    preset, pair, round = load_pair_and_round(args)
    from thinkswitch.cli import terminal
    from thinkswitch.export import export as exporter
    from thinkswitch.export.point import ExportPoint, ExportRequest
    from thinkswitch.text import format_bytes
    source = Path(args.source)
    request = ExportRequest(
        ExportPoint(pair, round, args.point, preset.schedule, preset, args.adapter),
        args.out,
        replace=args.replace,
        run=source if (source / "preset.yaml").is_file() else None,
        shard_bytes=int(args.shard * 1e9),
    )
    plan = exporter.plan_export(request)
    print(f"{format_bytes(plan.size)} to write ({plan.tensors} tensors, {plan.dtype}, {plan.template}'s chat template), "
          f"{format_bytes(plan.free)} free", flush=True)
    steps = exporter.export(request)
    done = terminal.progress(as_percent(steps), "export, %")
    print(f"{done.folder}: {done.files} files, {format_bytes(done.size)}, {done.seconds:.1f} s")
    print(f"reloaded, no layer's output differs from the live blend's by more than {done.error:.2g} of its norm; "
          f"{100 * done.same_tokens:.1f} % of the likeliest tokens are the same")
    print(f"\n{done.code}")
    return 0


def as_percent(steps):
    """(stage, done, total) as (done, 100), for one bar; returns what `steps` returns."""
    try:
        while True:
            _, done, total = next(steps)
            yield round(100 * done / total), 100
    except StopIteration as end:
        return end.value
    finally:
        steps.close()  # an interrupt reaches it in time to clean up
