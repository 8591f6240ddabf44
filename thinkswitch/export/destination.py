"""Where an export goes: checked before work, filled in hiding, named when it is whole."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from thinkswitch.errors import UserError
from thinkswitch.weights.pair import Pair

MADE_BY = "ThinkSwitch Studio export"  # in recipe.json: how we know our own folder
HIDDEN = ".thinkswitch-export-"


def resolve_path(out: Path) -> Path:
    try:
        out = Path(os.path.expanduser(out)).resolve()
        out.exists()
        return out
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL, a loop of links
        raise UserError(f"{str(out)[:100]!r} cannot be a folder: {getattr(error, 'strerror', None) or error}") from None


def nearest_existing(out: Path) -> Path:
    """What is there already of a path: itself, or the nearest folder above."""
    return next(p for p in (out, *out.parents) if p.exists())


def validate_target(pair: Pair, out: Path, replace: bool) -> None:
    for checkpoint in (pair.instruct, pair.thinking):
        folder = checkpoint.folder.resolve()
        if out.is_relative_to(folder) or folder.is_relative_to(out):
            raise UserError(f"{out} would mix with {checkpoint.name}, which the export reads; name another folder")
    ground = nearest_existing(out)
    if not ground.is_dir():
        raise UserError(f"{ground} is a file; name a folder")
    if ground == out and not replace:
        raise UserError(f"{out} already exists; name a new folder, or replace it, if it is an earlier export")
    if ground == out and (foreign := foreign_files(out)):
        raise UserError(f"{out} holds what no export has written ({', '.join(foreign[:3])}), so it is not replaced; name another folder")
    ground = out.parent if ground == out else ground
    if not os.access(ground, os.W_OK | os.X_OK):
        raise UserError(f"{ground} is not writable; name another folder")


def foreign_files(folder: Path) -> list[str]:
    """Names in a folder that no earlier export has written."""
    try:
        told = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        ours = set(told["files"]) if told["made_by"] == MADE_BY else set()
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    return sorted(p.name for p in folder.iterdir() if p.name not in ours or p.is_dir())


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """A hidden folder to fill, which takes the name `out` when it is whole; what had that name goes last.

    (`runs.whole_folder` removes what is in its way first: right inside a run, which is ours, but not anywhere.)
    """
    absent, folder = [p for p in out.parents if not p.exists()], None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{HIDDEN}{os.getpid()}-", dir=out.parent))
        folder.chmod(0o755)
        yield folder
        swap_into_place(folder, out)
    except OSError as error:
        if error.errno is None:  # transformers': no trouble of the system's
            raise
        raise UserError(f"the export to {out} failed ({error.strerror}), nothing is left of it; mend that or name another folder") from None
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in absent:
            with suppress(OSError):  # it holds the export
                parent.rmdir()


def swap_into_place(folder: Path, out: Path) -> None:
    aside = folder.with_name(f".replaced-{folder.name.removeprefix(HIDDEN)}")
    if out.exists():
        os.rename(out, aside)
    try:
        os.rename(folder, out)
    except OSError:
        if aside.exists():
            os.rename(aside, out)
        raise
    if aside.exists():
        os.rename(aside, folder)  # waste now: `appearing` removes it, or after a kill `sweep`
    fsync(out.parent)


def remove_stale(parent: Path) -> None:
    """Remove what killed exports left here."""
    for left in parent.glob(f"{HIDDEN}*-*"):
        owner = left.name.removeprefix(HIDDEN).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def fsync_tree(folder: Path) -> None:
    """Readable by all, and on the disk before the folder takes its name."""
    for path in folder.iterdir():
        path.chmod(0o644)
        fsync(path)
    fsync(folder)


def fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # there folders cannot be synced
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
