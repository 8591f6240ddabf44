"""The folder an export goes to: checked first, filled under a hidden name, renamed when it is complete.

While an export runs, its destination's parent holds

    .thinkswitch-export-ID.lock        locked by the process, and released by the system however that ends
    .thinkswitch-export-ID/new/        the export that is being written
    .thinkswitch-export-ID/replaced/   an earlier export, for the moment between the two renames

`runs.atomic_folder` is simpler because everything in a run folder is ours. Here the user chooses the place.
"""

import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from thinkswitch import json_text
from thinkswitch.errors import UserError, list_some
from thinkswitch.paths import pasted_target
from thinkswitch.runs.files import fsync, patiently, set_mode
from thinkswitch.runs.process import NO_LOCKS

MADE_BY = "ThinkSwitch Studio export"  # in recipe.json: marks a folder that an export may replace
HIDDEN = ".thinkswitch-export-"

logger = logging.getLogger(__name__)


# ---- before the work


def resolve_path(out: Path) -> Path:
    """An absolute path without links; a UserError where the system cannot have such a folder."""
    try:
        resolved = pasted_target(str(out)).resolve()
        resolved.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL character, a loop of links
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{str(out)[:100]!r} cannot be a folder: {reason}") from None
    return resolved


def nearest_existing(out: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    return next(path for path in (out, *out.parents) if path.exists())


def validate_target(sources: list[Path], out: Path, replace: bool) -> None:
    """Raise a UserError unless an export that reads `sources` may go to `out` (a resolved path)."""
    for source in sources:
        folder = source.resolve()
        if out.is_relative_to(folder) or folder.is_relative_to(out):
            raise UserError(f"{out} would mix with {source}, which the export reads; name another folder")
    ground = nearest_existing(out)
    if not ground.is_dir():
        raise UserError(f"{ground} is a file; name a folder")
    if ground == out:
        validate_replacement(out, replace)
        ground = out.parent
    if not os.access(ground, os.W_OK | os.X_OK):
        raise UserError(f"{ground} is not writable; name another folder")


def validate_replacement(out: Path, replace: bool) -> None:
    """Raise a UserError unless the existing folder `out` may be replaced."""
    if not replace:
        raise UserError(f"{out} already exists; name a new folder, or replace it, if it is an earlier export")
    foreign = foreign_files(out)
    if foreign:
        raise UserError(
            f"{out} holds what no export has written ({list_some(foreign)}), so it is not replaced; "
            "name another folder"
        )


def foreign_files(folder: Path) -> list[str]:
    """Names in a folder that no earlier export wrote."""
    try:
        recipe = json_text.read(folder / "recipe.json")
        ours = set(recipe["files"]) if recipe["made_by"] == MADE_BY else set()
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    return sorted(path.name for path in folder.iterdir() if path.name not in ours or path.is_dir())


# ---- under a hidden name


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """A hidden folder to fill. When the block ends, it takes the name `out`; what had that name is removed.

    An exception leaves nothing behind, not even folders made above `out`; an OSError becomes a UserError.
    """
    absent = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _hidden_folder(out.parent) as hidden:
            new = hidden / "new"
            new.mkdir()
            set_mode(new, 0o755)  # whatever the umask
            yield new
            swap_into_place(new, out, hidden / "replaced")
    except OSError as error:
        if error.errno is None:  # raised by transformers, and no failure of the system
            raise
        raise UserError(
            f"the export to {out} failed ({error.strerror}) and nothing is left of it; "
            "remove the cause or name another folder"
        ) from None
    finally:
        for parent in absent:
            with suppress(OSError):  # not empty: it holds the export
                parent.rmdir()


@contextmanager
def _hidden_folder(parent: Path) -> Iterator[Path]:
    hidden = parent / f"{HIDDEN}{secrets.token_hex(8)}"
    lock = _writer_lock(hidden)
    try:
        lock.acquire()  # before the folder exists, so it is never seen without its lock
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("%s is on a file system without file locks: what a killed export leaves stays", parent)
    try:
        hidden.mkdir(mode=0o700)
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        lock.release()
        _remove_lock_file(lock)


def swap_into_place(new: Path, out: Path, replaced: Path) -> None:
    """Rename `new` to `out`. What had that name goes into the folder `replaced`, or back if that fails."""
    if not out.exists():
        patiently(lambda: os.rename(new, out))
    else:
        replaced.mkdir()
        patiently(lambda: os.rename(out, replaced / out.name))
        try:
            patiently(lambda: os.rename(new, out))
        except BaseException:
            os.rename(replaced / out.name, out)
            raise
    fsync(out.parent)


def fsync_tree(folder: Path) -> None:
    """Make the files of a folder readable by all, and force them to the disk."""
    for path in folder.iterdir():
        set_mode(path, 0o644)
        fsync(path)
    fsync(folder)


# ---- what killed exports left


def stale_folders(parent: Path) -> list[Path]:
    """Hidden folders of exports that were killed: those whose lock nobody holds. Removes nothing."""
    hidden = (lock_file.with_suffix("") for lock_file in parent.glob(f"{HIDDEN}*.lock"))
    return sorted(folder for folder in hidden if _is_stale(folder))


def _is_stale(hidden: Path) -> bool:
    try:
        with _writer_lock(hidden).acquire(timeout=0):
            return True
    except OSError:  # a Timeout, since the lock is held; or it cannot be opened
        return False


def stale_bytes(parent: Path) -> int:
    """Bytes on the disk that `remove_stale` would free."""
    return sum(
        _allocated_bytes(path)
        for folder in stale_folders(parent)
        for path in folder.rglob("*")
        if path.is_file()
    )


def _allocated_bytes(path: Path) -> int:
    """A file being written has its final length from the start, but not yet the blocks on the disk."""
    status = path.stat()
    return 512 * status.st_blocks if hasattr(status, "st_blocks") else status.st_size


def remove_stale(parent: Path) -> None:
    """Remove what killed exports left in a folder; an earlier export that one had moved aside is restored."""
    for hidden in stale_folders(parent):
        lock = _writer_lock(hidden)
        with suppress(OSError), lock.acquire(timeout=0):
            _restore_replaced(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        _remove_lock_file(lock)


def _restore_replaced(hidden: Path) -> None:
    """Killed between the two renames: the earlier export is not replaced, so it gets its name back."""
    for earlier in (hidden / "replaced").glob("*"):
        if not (hidden.parent / earlier.name).exists():
            os.rename(earlier, hidden.parent / earlier.name)


def _writer_lock(hidden: Path) -> FileLock:
    # A generator may be closed by another thread than the one that started it.
    # Windows alone would delete the file at each release, and so make a stale folder look like nobody's.
    # A lock that a kill leaves behind is none, so there is no soft one where the file system has no locks.
    return FileLock(
        f"{hidden}.lock",
        thread_local=False,
        preserve_lock_file=os.name == "nt",
        fallback_to_soft=False,
    )


def _remove_lock_file(lock: FileLock) -> None:
    with suppress(OSError):
        Path(lock.lock_file).unlink()
