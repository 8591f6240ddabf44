"""The command line: `python -m thinkswitch <verb>`, the same as `./start.sh <verb>`.

Exit codes: 0 done; 1 something for you to mend, in one sentence; 2 wrong usage; 130 stopped (the run can be resumed).
"""

import argparse
import errno
import json
import logging
import os
import sys
from pathlib import Path

from . import preset as presets
from . import runs, team
from .errors import UserError

DISK = {getattr(errno, name, None) for name in "ENOSPC EROFS EACCES EPERM EDQUOT EFBIG ENOTDIR EISDIR ENOENT ENAMETOOLONG EIO".split()} - {None}


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # calls nobody
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # speaks while it is imported
    try:
        if team.rank() and args.verb in (do_run, do_resume):
            return help_along()
        return args.verb(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except RuntimeError as error:
        if "CUDA error" not in str(error):  # torch.AcceleratorError among them: unplugged, driver restarted, laptop woken up
            raise
        print(f"error: the GPU stopped working ({str(error).splitlines()[0]}); what is done is kept: restart the machine if nvidia-smi fails, "
              "then resume", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"error: {error.filename or 'a file'} cannot be used: {error.strerror}; what is there is unharmed, and a run can be resumed",
              file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; a run can be resumed", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="thinkswitch", formatter_class=argparse.RawDescriptionHelpFormatter,
                                  description="Teach an instruct checkpoint what its thinking twin works out.",
                                  epilog=__doc__.partition("\n\n")[2])
    verbs = top.add_subparsers(required=True, metavar="verb", title="verbs")

    def verb(name, do, help):
        one = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".",
                               formatter_class=argparse.RawDescriptionHelpFormatter)
        one.set_defaults(verb=do)
        return one

    one = verb("run", do_run, "run the loop of a preset in a new folder")
    one.add_argument("preset", help="a YAML file, or the name of one that ships (tiny)")
    one.add_argument("--out", type=Path, help="the run's folder; default runs/<preset>-<date and time>")
    one.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change knobs: --set rounds=2 t=0.7")
    one.add_argument("--teacher", metavar="URL", help="an OpenAI-compatible server that thinks instead, such as http://127.0.0.1:8000/v1")
    one.epilog = "knobs:\n" + knobs()
    one = verb("resume", do_resume, "go on with a run that was stopped or killed")
    one.add_argument("run", type=Path)
    one = verb("stop", do_stop, "ask a run to stop; it can be resumed")
    one.add_argument("run", type=Path)
    one = verb("status", do_status, "say where a run stands")
    one.add_argument("run", type=Path)
    one.add_argument("--json", action="store_true", help="as one JSON object")

    one = verb("ask", do_ask, "let points of the spectrum answer a prompt side by side, decoded as one batch")
    point_of(one)
    one.add_argument("--prompt", required=True, help="what to ask")
    one.add_argument("--t", nargs="+", type=float, default=[0.0, 0.5, 1.0], help="points: 0 = instruct, 1 = thinking")
    one.add_argument("--greedy", action="store_true", help="take the likeliest token always")
    one.add_argument("--tokens", type=int, help="most new tokens; default as the preset has it")
    one.add_argument("--template", choices=("auto", "instruct", "thinking"), default="auto",
                     help="chat template; auto = the parents their own, blends the preset's")
    one.add_argument("--json", action="store_true", help="one JSON list instead of columns")
    one = verb("sweep", do_sweep, "accuracy, think rate and tokens over t, all under one chat template")
    point_of(one)
    one.add_argument("--t", nargs="+", type=float, default=[i / 10 for i in range(11)], help="points of the spectrum")
    one.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    one = verb("plan", do_plan, "say what every phase takes of this machine's memory, from headers alone")
    one.add_argument("source", metavar="PRESET|RUN", help="a preset, or the folder of a run")
    one.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change knobs")
    one = verb("export", do_export, "write a point of the spectrum as a folder that transformers loads, verified by reloading")
    point_of(one)
    one.add_argument("--point", type=point, required=True, metavar="instruct|thinking|T", help="instruct is t = 0, thinking is t = 1")
    one.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    one.add_argument("--shard", type=float, default=5.0, metavar="GB", help="size of a file; default 5")
    one.add_argument("--adapter", action="store_true", help="as a PEFT adapter: only the instruct point of a round above 0")
    one.add_argument("--replace", action="store_true", help="an earlier export may be replaced")
    one = verb("check", do_check, "say whether two checkpoints can be interpolated, from their headers alone")
    one.add_argument("instruct")
    one.add_argument("thinking")
    return top


def point_of(one) -> None:
    one.add_argument("source", metavar="PRESET|RUN", help="a preset, or the folder of a run")
    one.add_argument("--round", type=int, help="round of the run; default the last one finished")
    one.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change knobs")


def point(text: str) -> float:
    return float({"instruct": 0, "thinking": 1}.get(text, text))


def knobs() -> str:
    import dataclasses
    lines = []
    for f in dataclasses.fields(presets.Preset):
        if f.metadata["group"]:
            lines.append(f"  {f.metadata['group']}")
        shown = "auto" if f.default is None else "..." if dataclasses.is_dataclass(f.default) else f.default
        choices = f" ({'|'.join(f.metadata['choices'])})" if f.metadata["choices"] else ""
        lines.append(f"    {f.name + '=' + str(shown):34} {f.metadata['help']}{choices}".replace("%", "%%"))
    return "\n".join(lines)


# ---- verbs


def do_run(args) -> int:
    preset = presets.from_settings(presets.load(args.preset), args.set + ([f"teacher={args.teacher}"] if args.teacher else []))
    out = args.out or runs.new_folder(runs.ROOT, preset.name)
    from . import loop
    print(f"run folder: {out}", flush=True)
    return show(loop.run(preset, out), preset, out)


def do_resume(args) -> int:
    from . import loop
    return show(loop.resume(args.run), runs.open_run(args.run), args.run)


def help_along() -> int:
    from . import loop
    from .materialise import quiet
    quiet()
    loop.assist()
    return 0


def show(events, preset, folder: Path) -> int:
    from . import terminal
    from .materialise import quiet
    quiet()
    try:
        ended = terminal.show(events, preset, folder)
    finally:
        team.tell(None)  # lets the others go
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
    from . import terminal
    terminal.console().print(terminal.scores(measured))
    return 0


def do_check(args) -> int:
    from .materialise import quiet
    from .pair import open_pair
    quiet()
    pair = open_pair(args.instruct, args.thinking, headers_only=True)
    config, kinds = pair.config, {e.dtype for c in (pair.instruct, pair.thinking) for e in c.entries.values()}
    print(f"compatible: {config.model_type}, {pair.parameters:,} parameters in {len(pair.names)} tensors ({', '.join(sorted(kinds))}), "
          f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, vocabulary {config.vocab_size:,}, "
          f"{'tied' if config.tie_word_embeddings else 'untied'} embeddings")
    for role in ("instruct", "thinking"):
        print(f"{role}: its chat template {'opens' if getattr(pair, role).prefills_think else 'does not open'} the trace")
    return 0


def opened(args):
    """(preset, pair, round, live blend) of a preset or a run."""
    if not all(0 <= t <= 1 for t in args.t):
        raise UserError(f"t must lie between 0 and 1, it is {' '.join(f'{t:g}' for t in args.t)}")
    from . import hardware
    from .blend import Blend
    from .materialise import machine
    preset, pair, round = found(args)
    return preset, pair, round, Blend(pair, round.adapters, **machine(hardware.settled(pair, preset, hardware.LIVE)))


def do_plan(args) -> int:
    from . import hardware, terminal
    from .materialise import quiet
    from .pair import open_pair
    quiet()
    preset = presets.from_settings(presets.load(args.source), args.set)
    phases = hardware.plan(open_pair(preset.instruct, preset.thinking, headers_only=True), preset)
    terminal.console().print(terminal.memory(phases))
    return 0


def found(args):
    """(preset, pair, round) of a preset or a run; no weights are in memory."""
    from . import recipe
    from .materialise import quiet
    from .pair import open_pair
    quiet()
    folder = Path(args.source)
    is_run = (folder / "preset.yaml").is_file()
    preset = presets.from_settings(presets.load(args.source), args.set)
    pair = open_pair(preset.instruct, preset.thinking)
    if not is_run and args.round:
        raise UserError(f"{args.source} is a preset, so it has no round {args.round}; name a run's folder")
    number = runs.rounds_done(folder) if args.round is None else args.round
    has_recipe = is_run and (runs.round_dir(folder, number) / "recipe.json").is_file()
    return preset, pair, recipe.read_round(folder, number) if has_recipe or number else recipe.start(pair)


def do_ask(args) -> int:
    if args.tokens is not None and args.tokens < 1:
        raise UserError(f"--tokens must be at least 1, it is {args.tokens}")
    if not args.prompt.strip():
        raise UserError("the prompt is empty")
    if args.prompt != args.prompt.encode("utf-8", "replace").decode("utf-8"):
        raise UserError("the prompt is not valid UTF-8 text")
    preset, pair, round, blend = opened(args)
    from . import evaluate, terminal
    from .generate import generate
    rows = []
    for t in args.t:
        settings = evaluate.limited(evaluate.sampling(preset, "instruct" if t == 0 else "thinking", args.greedy), args.tokens)
        point, seed = round.point(t, preset.schedule), evaluate.seed_of(preset.seed, "ask")
        rows.append(evaluate.question(pair, preset, args.prompt, t, point, args.template, settings, seed))
    chunks = generate(blend, pair.instruct.tokenizer, rows, pair.instruct.stops | pair.thinking.stops, len(rows), stream=not args.json)
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
    preset, pair, round, blend = opened(args)
    from . import evaluate, tasks, terminal
    _, held_out = tasks.train_and_held_out(preset)
    points = {t: round.point(t, preset.schedule) for t in args.t}
    table = terminal.progress(evaluate.sweep(blend, getattr(pair, preset.template), points, held_out, preset), "sweep")
    terminal.console().print(terminal.spectrum(table, f"round {round.number}, {len(held_out)} problems, {preset.template} template"))
    if args.json:
        runs.write(args.json, json.dumps(dict(round=round.number, template=preset.template, preset=preset.name,
                                              seed=preset.seed, points=table), indent=1) + "\n")
    return 0


def do_export(args) -> int:
    if not 0.001 <= args.shard <= 1000:
        raise UserError(f"--shard is the size of a file in GB, from 0.001 to 1000; it is {args.shard:g}")
    preset, pair, round = found(args)
    from . import export, terminal
    ask = (pair, round, args.point)
    plan = export.plan(*ask, preset, args.out, args.adapter, args.replace)
    print(f"{terminal.readable(plan.size)} to write ({plan.tensors} tensors, {plan.dtype}, {plan.template}'s chat template), "
          f"{terminal.readable(plan.free)} free", flush=True)
    run = Path(args.source) if (Path(args.source) / "preset.yaml").is_file() else None
    steps = export.export(*ask, preset.schedule, preset, args.out, adapter=args.adapter, replace=args.replace, run=run,
                          shard=int(args.shard * 1e9))
    done = terminal.progress(percent(steps), "export, %")
    print(f"{done.folder}: {done.files} files, {terminal.readable(done.size)}, {done.seconds:.1f} s")
    print(f"reloaded, no layer's output differs from the live blend's by more than {done.error:.2g} of its norm; "
          f"{100 * done.same_tokens:.1f} % of the likeliest tokens are the same")
    print(f"\n{done.code}")
    return 0


def percent(steps):
    """(stage, done, total) as (done, 100), for one bar; returns what `steps` returns."""
    try:
        while True:
            _, done, total = next(steps)
            yield round(100 * done / total), 100
    except StopIteration as end:
        return end.value
    finally:
        steps.close()  # an interrupt reaches it in time to clean up


if __name__ == "__main__":
    sys.exit(main())
