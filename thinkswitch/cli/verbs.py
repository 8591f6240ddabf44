"""What each verb of the command line does. torch and rich are imported where needed: help answers at once."""

import json
import logging
from argparse import Namespace
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinkswitch import runs
from thinkswitch.cli.push import push_export
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, apply_settings, load_preset
from thinkswitch.remote import distributed
from thinkswitch.text import format_bytes

if TYPE_CHECKING:
    from thinkswitch.rounds import Round
    from thinkswitch.weights.live_blend import Blend
    from thinkswitch.weights.pair import Pair

logger = logging.getLogger(__name__)

EXIT_CODES = {"done": 0, "stopped": 130}


# ---- runs


def run(args: Namespace) -> int:
    given = {"teacher": args.teacher, "engine": args.engine}
    changes = [*args.set, *(f"{name}={value}" for name, value in given.items() if value)]
    preset = apply_settings(load_preset(args.preset), changes)
    folder = args.out or runs.new_folder(runs.ROOT, preset.name)
    print(f"run folder: {folder}", flush=True)
    from thinkswitch import loop

    return _show_run(loop.run(preset, folder), preset, folder)


def resume(args: Namespace) -> int:
    from thinkswitch import loop

    return _show_run(loop.resume(args.run), runs.open_run(args.run), args.run)


def work_for_another() -> int:
    """Run and resume in a process of `accelerate launch` other than the first, which writes the run."""
    from thinkswitch.cli.worker import worker_main

    _silence_libraries()
    worker_main()
    return 0


def _show_run(events: Iterator[runs.Event], preset: Preset, folder: Path) -> int:
    from thinkswitch.cli import terminal

    _silence_libraries()
    try:
        ended = terminal.show(events, preset, folder)
    finally:
        distributed.broadcast(None)  # the other processes may end
    return EXIT_CODES[ended]


def stop(args: Namespace) -> int:
    runs.request_stop(args.run)
    print(f"{args.run} will stop at its next step; go on with: thinkswitch resume {args.run}")
    return 0


def status(args: Namespace) -> int:
    preset = runs.open_run(args.run)
    state = runs.state(args.run)
    events = list(runs.read_events(args.run))
    measured = runs.measured(events)
    last = events[-1] if events else {}
    if args.json:
        report = {"state": state, "preset": preset.name, "rounds": preset.rounds}
        print(json.dumps({**report, "last": last, "measured": measured}))
        return 0
    from thinkswitch.cli import terminal

    parts = [state]
    if last:
        parts.append(f"round {last['round']} of {preset.rounds}")
    if last.get("total") and last["phase"] != "done":
        parts.append(f"{last['phase']} {last['step']}/{last['total']}")
    message = f"; {last['message']}" if "message" in last else ""
    print(f"{args.run}: {', '.join(parts)}{message}")
    terminal.console().print(terminal.scores(measured))
    return 0


# ---- a pair, from file headers alone


def check(args: Namespace) -> int:
    if args.data:
        from thinkswitch.cli import data_report

        if args.instruct:
            raise UserError("check either two checkpoints or --data, not both in one call")
        return data_report.show(args.data, apply_settings(Preset(), args.set), args.json)
    if not args.thinking:
        raise UserError("check wants two checkpoints, INSTRUCT and THINKING, or --data FILE")
    from thinkswitch.weights import pair_report
    from thinkswitch.weights.pair import open_headers, refuse
    from thinkswitch.weights.prompting import prompting_of

    _silence_libraries()
    preset = apply_settings(Preset(instruct=args.instruct, thinking=args.thinking), args.set)
    names = preset.instruct, preset.thinking
    try:
        report = pair_report.report_of(open_headers(*names, prompting_of(preset)), preset)
    except UserError as error:
        if not args.json:
            raise
        report = pair_report.PairReport((), (), (str(error),))
    if args.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False))
        return 1 if report.stops else 0
    refuse(*names, report.stops)
    about_both, about_sides = report.facts[:-2], report.facts[-2:]
    print(f"compatible: {', '.join(value for _, value in about_both)}")
    for what, value in about_sides:
        print(f"{what}: {value}")
    for remark in report.odd:
        print(f"odd: {remark}")
    return 0


def fetch(args: Namespace) -> int:
    from thinkswitch.weights.pair import fetch_missing, missing_weights, open_pair_of

    _silence_libraries()
    preset = apply_settings(Preset(instruct=args.instruct, thinking=args.thinking), args.set)
    pair = open_pair_of(preset, headers_only=True)
    size = sum(missing.nbytes for missing in missing_weights(pair))
    pair = fetch_missing(pair)
    print(f"downloaded {format_bytes(size)}" if size else "the weights were here already")
    for role, checkpoint in (("instruct", pair.instruct), ("thinking", pair.thinking)):
        print(f"{role}: {checkpoint.folder}")
    return 0


def plan(args: Namespace) -> int:
    from thinkswitch.cli import terminal
    from thinkswitch.memory_plan import plan_memory
    from thinkswitch.weights.pair import open_pair_of

    _silence_libraries()
    preset = apply_settings(load_preset(args.source), args.set)
    pair = open_pair_of(preset, headers_only=True)
    terminal.console().print(terminal.memory(plan_memory(pair, preset)))
    return 0


# ---- a point of the spectrum


@dataclass(frozen=True)
class Source:
    """What the user named: a preset, or a round of a run."""

    preset: Preset
    pair: "Pair"
    round: "Round"
    run: Path | None  # the run's folder


def ask(args: Namespace) -> int:
    _refuse_prompt(args.prompt, args.tokens)
    _refuse_points(args.t)
    source = _open_source(args)
    blend = _load_blend(source)
    from thinkswitch import evaluate
    from thinkswitch.cli import terminal
    from thinkswitch.generate import generate

    preset, pair = source.preset, source.pair
    seed = evaluate.seed_of(preset.seed, "ask")
    rows = []
    for t in args.t:
        role = "instruct" if t == 0 else "thinking"
        settings = evaluate.with_token_limit(evaluate.sampling(preset, role, args.greedy), args.tokens)
        point = source.round.point(t, preset.schedule)
        rows.append(evaluate.question(pair, preset, args.prompt, t, point, args.template, settings, seed))
    stops = pair.instruct.stop_token_ids | pair.thinking.stop_token_ids
    chunks = generate(blend, pair.instruct.tokenizer, rows, stops, len(rows), stream=not args.json)
    if not args.json:
        terminal.columns(args.prompt, args.t, source.round.number, chunks)
        return 0
    last = {chunk.row: asdict(chunk) for chunk in chunks}
    shown = ("trace", "answer", "tokens", "finish", "state")
    answers = [{"t": t} | {key: last[row][key] for key in shown} for row, t in enumerate(args.t)]
    print(json.dumps(answers, ensure_ascii=False))
    return 0


def sweep(args: Namespace) -> int:
    if args.json:
        _refuse_output_file(args.json, "--json")
    _refuse_points(args.t)
    source = _open_source(args)
    blend = _load_blend(source)
    from thinkswitch import evaluate, problems
    from thinkswitch.cli import terminal

    preset, number = source.preset, source.round.number
    _, held_out = problems.train_and_held_out(preset)
    points = {t: source.round.point(t, preset.schedule) for t in args.t}
    template = getattr(source.pair, preset.template)
    table = terminal.progress(evaluate.sweep(blend, template, points, held_out, preset), "sweep")
    title = f"round {number}, {len(held_out)} problems, {preset.template} template"
    terminal.console().print(terminal.spectrum(table, title))
    if args.json:
        report = {"round": number, "template": preset.template, "preset": preset.name, "seed": preset.seed}
        runs.write_atomic(args.json, json.dumps({**report, "points": table}, indent=1) + "\n")
    return 0


def export(args: Namespace) -> int:
    if not 0.001 <= args.shard <= 1000:
        raise UserError(f"--shard is the size of a file in GB, from 0.001 to 1000; it is {args.shard:g}")
    source = _open_source(args)
    from thinkswitch.cli import terminal
    from thinkswitch.export import export as exporter
    from thinkswitch.export import hub_push
    from thinkswitch.export.point import ExportPoint, ExportRequest

    preset = source.preset
    request = ExportRequest(
        ExportPoint(
            source.pair, source.round, args.point, preset.schedule, preset, args.adapter, tuple(args.gguf)
        ),
        args.out,
        replace=args.replace,
        run=source.run,
        shard_bytes=int(args.shard * 1e9),
    )
    planned = exporter.plan_export(request)
    if args.push:
        hub_push.find_repository(args.push, args.private)
    content = f"{planned.tensors} tensors, {planned.dtype}, {planned.template}'s chat template"
    sizes = f"{format_bytes(planned.size)} to write ({content}), {format_bytes(planned.free)} free"
    print(sizes, flush=True)
    done = terminal.progress(_as_percent(exporter.export(request)), "export, %")
    print(f"{done.folder}: {done.files} files, {format_bytes(done.size)}, {done.seconds:.1f} s")
    print(f"{done.verified}\n\n{done.code}")
    if args.push:
        push_export(done.folder, args.push, args.private)
    return 0


def _as_percent(steps: Generator[tuple[str, int, int], None, Any]) -> Generator[tuple[int, int], None, Any]:
    """(stage, done, total) as (per cent, 100), for one bar; returns what `steps` returns."""
    try:
        while True:
            _, done, total = next(steps)
            yield round(100 * done / total), 100
    except StopIteration as end:
        return end.value
    finally:
        steps.close()  # an interrupted export cleans up at once


def _open_source(args: Namespace) -> Source:
    """The preset or run that the arguments name. No weights are read."""
    from thinkswitch import rounds
    from thinkswitch.run_context import open_pair_of_run
    from thinkswitch.weights.pair import open_pair_of

    _silence_libraries()
    folder = Path(args.source)
    is_run = (folder / "preset.yaml").is_file()
    preset = apply_settings(load_preset(args.source), args.set)
    if args.round and not is_run:
        raise UserError(f"{args.source} is a preset, so it has no round {args.round}; name a run's folder")
    pair = open_pair_of_run(preset, folder)[0] if is_run else open_pair_of(preset)
    if not is_run:
        return Source(preset, pair, rounds.start(pair), None)
    if args.round is None:
        return Source(preset, pair, rounds.read_last(folder, pair), folder)
    has_begun = args.round or rounds.is_written(folder, 0)
    return Source(preset, pair, rounds.read(folder, args.round) if has_begun else rounds.start(pair), folder)


def _load_blend(source: Source) -> "Blend":
    from thinkswitch import memory_plan
    from thinkswitch.weights.live_blend import Blend

    machine = memory_plan.resolve_machine(source.pair, source.preset, memory_plan.LIVE)
    logger.debug("live blend of round %d with %s", source.round.number, machine)
    return Blend(source.pair, source.round.adapters, **machine)


def _silence_libraries() -> None:
    from thinkswitch.weights.device import silence_libraries

    silence_libraries()


# ---- refusals, before any work


def _refuse_points(ts: list[float]) -> None:
    if not all(0 <= t <= 1 for t in ts):
        raise UserError(f"t must lie between 0 and 1, it is {' '.join(f'{t:g}' for t in ts)}")


def _refuse_prompt(prompt: str, tokens: int | None) -> None:
    if tokens is not None and tokens < 1:
        raise UserError(f"--tokens must be at least 1, it is {tokens}")
    if not prompt.strip():
        raise UserError("the prompt is empty")
    if prompt != prompt.encode("utf-8", "replace").decode("utf-8"):
        raise UserError("the prompt is not valid UTF-8 text")


def _refuse_output_file(path: Path, flag: str) -> None:
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder; name a file")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise UserError(
            f"{flag} {path} cannot be written: {nearest} is a file, not a folder; name another file"
        )
