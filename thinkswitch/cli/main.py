"""The command line: `python -m thinkswitch VERB`, the same as `./start.sh VERB`.

Exit codes: 0 done; 1 invalid input or a problem of this machine, explained in one line; 2 wrong usage;
130 stopped, and the run can be resumed.
"""

import argparse
import dataclasses
import errno
import io
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from thinkswitch.cli import verbs
from thinkswitch.cli.push import push
from thinkswitch.errors import UserError, first_line
from thinkswitch.export.gguf_kinds import KINDS
from thinkswitch.paths import full_path, pasted, pasted_folder, pasted_target
from thinkswitch.preset import Preset
from thinkswitch.remote import distributed
from thinkswitch.text import print_utf8

DISK_ERRORS = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENAMETOOLONG", "ELOOP")


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    print_utf8()
    args = parser().parse_args(argv)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    set_up_logging(args.verbose)
    try:
        if distributed.rank() and args.do in (verbs.run, verbs.resume):
            return verbs.work_for_another()
        return args.do(args)
    except KeyboardInterrupt:
        print("interrupted; a run can be resumed", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has ended, such as `head`
        return 1
    except Exception as error:
        explanation = explain(error)
        if explanation is None:
            raise
        print(f"error: {explanation}", file=sys.stderr)
        return 1


def explain(error: Exception) -> str | None:
    """One sentence about an error that a person can do something about; None for a defect of this program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, RuntimeError) and "CUDA error" in str(error):  # unplugged, or its driver restarted
        advice = "progress is saved; if nvidia-smi fails as well, reboot, then resume"
        return f"the GPU stopped working ({first_line(error)}); {advice}"
    if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in DISK_ERRORS:
        where = error.filename or "a file"
        return f"{where} cannot be used: {error.strerror}; what is there is kept, and a run can be resumed"
    return None


# ---- logging


class CurrentStderr(io.TextIOBase):
    """sys.stderr, looked up at each write: rich replaces it while it draws a progress bar."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def set_up_logging(verbose: bool) -> None:
    """Log to stderr. Lines have times when they go to a file such as a run's log.txt, or with --verbose."""
    handler = logging.StreamHandler(CurrentStderr())
    handler.name = "thinkswitch"
    with_times = verbose or not sys.stderr.isatty()
    pattern = "%(asctime)s %(levelname)s %(name)s: %(message)s" if with_times else "%(message)s"
    handler.setFormatter(logging.Formatter(pattern))
    ours = logging.getLogger(
        "thinkswitch"
    )  # not the root: libraries that print by themselves would print twice
    for earlier in [known for known in ours.handlers if known.name == handler.name]:
        ours.removeHandler(earlier)
    ours.addHandler(handler)
    ours.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns while it is imported


# ---- the parser


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="thinkswitch",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Teach an instruct checkpoint what its thinking twin works out.",
        epilog=(__doc__ or "").partition("\n\n")[2],
    )
    add_verbose(top, default=False)
    choices = top.add_subparsers(required=True, metavar="verb", title="verbs")
    for verb in VERBS:
        verb_parser = choices.add_parser(
            verb.name,
            help=verb.summary,
            description=verb.summary[0].upper() + verb.summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(verb_parser)
        add_verbose(verb_parser, default=argparse.SUPPRESS)  # keeps what stands before the verb
        verb_parser.set_defaults(do=verb.do)
    return top


def add_verbose(parser: argparse.ArgumentParser, default: bool | str) -> None:
    parser.add_argument(
        "--verbose", action="store_true", default=default, help="log details to stderr, with times"
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=pasted, metavar="PRESET|RUN", help="a preset, or the folder of a run")
    parser.add_argument("--round", type=int, help="round of the run; default the last one finished")
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change settings: --set rounds=2 t=0.7",
    )


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=pasted_folder, metavar="RUN", help="the folder of a run")


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", type=pasted, help="a YAML file, or the name of one that ships (tiny)")
    parser.add_argument(
        "--out", type=pasted_target, help="the run's folder; default runs/<preset>-<date and time>"
    )
    add_settings(parser)
    parser.add_argument(
        "--teacher",
        metavar="URL",
        help="an OpenAI-compatible server that thinks instead, such as http://127.0.0.1:8000/v1",
    )
    parser.add_argument(
        "--engine",
        choices=Preset.__dataclass_fields__["engine"].metadata["choices"],
        help="what runs the thinking checkpoint while it labels; default as the preset has it",
    )
    parser.epilog = "settings:\n" + settings_help()


def add_status(parser: argparse.ArgumentParser) -> None:
    add_run_folder(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def add_ask(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--prompt", required=True, help="what to ask")
    parser.add_argument(
        "--t", nargs="+", type=float, default=[0.0, 0.5, 1.0], help="points: 0 = instruct, 1 = thinking"
    )
    parser.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    parser.add_argument("--tokens", type=int, help="most new tokens; default as the preset has it")
    parser.add_argument(
        "--template",
        choices=("auto", "instruct", "thinking"),
        default="auto",
        help="chat template; auto: each of the two checkpoints has its own, blends the preset's",
    )
    parser.add_argument("--json", action="store_true", help="one JSON list instead of columns")


def add_sweep(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    tenths = [tenth / 10 for tenth in range(11)]
    parser.add_argument("--t", nargs="+", type=float, default=tenths, help="points of the spectrum")
    parser.add_argument("--json", type=pasted_target, metavar="FILE", help="also write the table to a file")


def add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=pasted, metavar="PRESET|RUN", help="a preset, or the folder of a run")
    add_settings(parser)


def add_export(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument(
        "--point",
        type=parse_point,
        required=True,
        metavar="instruct|thinking|T",
        help="instruct is t = 0, thinking is t = 1",
    )
    parser.add_argument("--out", type=pasted_target, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--shard", type=float, default=5.0, metavar="GB", help="size of a file; default 5")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="as a PEFT adapter: the instruct point of a round above 0; and where thinking is an adapter, "
        "points close to it",
    )
    parser.add_argument(
        "--gguf",
        nargs="+",
        type=str.upper,
        choices=KINDS,
        default=[],
        metavar="KIND",
        help=f"as GGUF for llama.cpp, Ollama and LM Studio, one or several of {', '.join(KINDS)}; a LORA "
        "comes with the file that it is added to, and its scale is the slider",
    )
    parser.add_argument("--replace", action="store_true", help="replace an earlier export")
    parser.add_argument("--push", metavar="OWNER/NAME", help="then upload it to this repository of the Hub")
    add_private(parser)


def add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=pasted_folder, metavar="FOLDER", help="an export")
    parser.add_argument("name", metavar="OWNER/NAME", help="a repository of yours on the Hub, or a new one")
    add_private(parser)


def add_private(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--private", action="store_true", help="push to a repository that only you can see")


def add_pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "instruct", type=full_path, help="a folder or a Hub id; owner/name@revision names a commit"
    )
    parser.add_argument("thinking", type=full_path, help="the same, or an adapter on the instruct checkpoint")
    add_settings(parser)


def add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("instruct", nargs="?", type=full_path, help="a folder or a Hub id")
    parser.add_argument("thinking", nargs="?", type=full_path, help="the same, or an adapter on the other")
    parser.add_argument(
        "--data", type=full_path, metavar="FILE", help="problems instead: a file or a Hub set"
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object: is, odd, stops")
    add_settings(parser)


def parse_point(text: str) -> float:
    return float({"instruct": 0, "thinking": 1}.get(text, text))


def settings_help() -> str:
    """Every setting with its default, for the end of the help of `run`."""
    lines = []
    for setting in dataclasses.fields(Preset):
        metadata = setting.metadata
        if metadata["group"]:
            lines.append(f"  {metadata['group']}")
        choices = f" ({'|'.join(metadata['choices'])})" if metadata["choices"] else ""
        assignment = f"{setting.name}={_default_text(setting.default)}"
        lines.append(f"    {assignment:34} {metadata['help']}{choices}")
    return "\n".join(lines).replace("%", "%%")


def _default_text(default) -> str:
    if default is None:
        return "auto"
    return "..." if dataclasses.is_dataclass(default) else str(default)


@dataclass(frozen=True)
class Verb:
    name: str
    do: Callable[[argparse.Namespace], int]  # returns the exit code
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]


VERBS = (
    Verb("run", verbs.run, "run the loop of a preset in a new folder", add_run),
    Verb("resume", verbs.resume, "continue a run that was stopped or killed", add_run_folder),
    Verb("stop", verbs.stop, "ask a run to stop; it can be resumed", add_run_folder),
    Verb("status", verbs.status, "show the state of a run and its scores", add_status),
    Verb("ask", verbs.ask, "answer a prompt at several points of the spectrum, in one batch", add_ask),
    Verb("sweep", verbs.sweep, "accuracy, think rate and tokens over t, with one chat template", add_sweep),
    Verb("plan", verbs.plan, "show how much memory each phase needs; reads only file headers", add_plan),
    Verb("export", verbs.export, "write a point as a folder that transformers loads; verified", add_export),
    Verb("push", push, "upload an export to the Hub; what is there is not sent again", add_push),
    Verb(
        "check",
        verbs.check,
        "check if two checkpoints can be interpolated, or what a file of problems holds",
        add_check,
    ),
    Verb("fetch", verbs.fetch, "download a pair's weights; what is here is kept", add_pair),
)
