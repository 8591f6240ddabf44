"""The verb that uploads an export to the Hub, and the same after an export."""

import shlex
import sys
from argparse import Namespace
from pathlib import Path

from thinkswitch.errors import UserError


def push(args: Namespace) -> int:
    """Returns the exit code."""
    from thinkswitch.weights.device import silence_libraries

    silence_libraries()
    upload(args.folder, args.name, args.private)
    return 0


def push_export(folder: Path, name: str, private: bool) -> None:
    """As `upload`; an error says that the export is there, and how to push it again."""
    try:
        upload(folder, name, private)
    except UserError as error:
        again = shlex.join(["thinkswitch", "push", str(folder), name, *["--private"] * private])
        raise UserError(f"{error}; the export is in {folder}, and this pushes it: {again}") from None


def upload(folder: Path, name: str, private: bool) -> None:
    """Push with the progress bars of huggingface_hub, and print the address."""
    from huggingface_hub import constants
    from huggingface_hub.utils import enable_progress_bars

    from thinkswitch.export import hub_push

    hub_push.validate_folder(folder)
    there = hub_push.find_repository(name, private)
    print(f"pushing {folder} to {name}", file=sys.stderr, flush=True)
    if not constants.HF_HUB_DISABLE_PROGRESS_BARS:
        enable_progress_bars()  # silence_libraries() turned them off
    try:
        address = hub_push.push(folder, there)
    except UserError:
        print(file=sys.stderr)  # a bar that stopped half-way has not ended its line
        raise
    print(f"pushed: {address}")
