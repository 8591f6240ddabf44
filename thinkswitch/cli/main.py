"""The command line: `python -m thinkswitch <verb>`, the same as `./start.sh <verb>`.

Exit codes: 0 done; 1 something for you to mend, in one sentence; 2 wrong usage; 130 stopped (the run can be resumed).
"""

import argparse
import errno
import logging
import os
import sys
from pathlib import Path

from thinkswitch.cli.verbs import (
    do_ask,
    do_check,
    do_export,
    do_plan,
    do_resume,
    do_run,
    do_status,
    do_stop,
    do_sweep,
    run_worker,
)
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.remote import distributed

DISK = {getattr(errno, name, None) for name in "ENOSPC EROFS EACCES EPERM EDQUOT EFBIG ENOTDIR EISDIR ENOENT ENAMETOOLONG EIO".split()} - {None}


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # calls nobody
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # speaks while it is imported
    try:
        if distributed.rank() and args.verb in (do_run, do_resume):
            return run_worker()
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
    one.epilog = "knobs:\n" + settings_help()
    one = verb("resume", do_resume, "go on with a run that was stopped or killed")
    one.add_argument("run", type=Path)
    one = verb("stop", do_stop, "ask a run to stop; it can be resumed")
    one.add_argument("run", type=Path)
    one = verb("status", do_status, "say where a run stands")
    one.add_argument("run", type=Path)
    one.add_argument("--json", action="store_true", help="as one JSON object")

    one = verb("ask", do_ask, "let points of the spectrum answer a prompt side by side, decoded as one batch")
    add_source_arguments(one)
    one.add_argument("--prompt", required=True, help="what to ask")
    one.add_argument("--t", nargs="+", type=float, default=[0.0, 0.5, 1.0], help="points: 0 = instruct, 1 = thinking")
    one.add_argument("--greedy", action="store_true", help="take the likeliest token always")
    one.add_argument("--tokens", type=int, help="most new tokens; default as the preset has it")
    one.add_argument("--template", choices=("auto", "instruct", "thinking"), default="auto",
                     help="chat template; auto = the parents their own, blends the preset's")
    one.add_argument("--json", action="store_true", help="one JSON list instead of columns")
    one = verb("sweep", do_sweep, "accuracy, think rate and tokens over t, all under one chat template")
    add_source_arguments(one)
    one.add_argument("--t", nargs="+", type=float, default=[i / 10 for i in range(11)], help="points of the spectrum")
    one.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    one = verb("plan", do_plan, "say what every phase takes of this machine's memory, from headers alone")
    one.add_argument("source", metavar="PRESET|RUN", help="a preset, or the folder of a run")
    one.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change knobs")
    one = verb("export", do_export, "write a point of the spectrum as a folder that transformers loads, verified by reloading")
    add_source_arguments(one)
    one.add_argument("--point", type=parse_point, required=True, metavar="instruct|thinking|T", help="instruct is t = 0, thinking is t = 1")
    one.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    one.add_argument("--shard", type=float, default=5.0, metavar="GB", help="size of a file; default 5")
    one.add_argument("--adapter", action="store_true", help="as a PEFT adapter: only the instruct point of a round above 0")
    one.add_argument("--replace", action="store_true", help="an earlier export may be replaced")
    one = verb("check", do_check, "say whether two checkpoints can be interpolated, from their headers alone")
    one.add_argument("instruct")
    one.add_argument("thinking")
    return top


def add_source_arguments(one) -> None:
    one.add_argument("source", metavar="PRESET|RUN", help="a preset, or the folder of a run")
    one.add_argument("--round", type=int, help="round of the run; default the last one finished")
    one.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change knobs")


def parse_point(text: str) -> float:
    return float({"instruct": 0, "thinking": 1}.get(text, text))


def settings_help() -> str:
    import dataclasses
    lines = []
    for f in dataclasses.fields(Preset):
        if f.metadata["group"]:
            lines.append(f"  {f.metadata['group']}")
        shown = "auto" if f.default is None else "..." if dataclasses.is_dataclass(f.default) else f.default
        choices = f" ({'|'.join(f.metadata['choices'])})" if f.metadata["choices"] else ""
        lines.append(f"    {f.name + '=' + str(shown):34} {f.metadata['help']}{choices}".replace("%", "%%"))
    return "\n".join(lines)
