"""Files that grow by whole lines of JSON, and files and folders that are whole or absent.

On file systems as people have them: some refuse modes or syncing, Windows a file that somebody reads.
"""

import errno
import json
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import psutil

from thinkswitch import json_text
from thinkswitch.errors import UserError

TEMPORARY = re.compile(r"\.tmp-(?P<pid>\d+)-")  # how the name of a file that is being written begins
# Seconds between tries to take a file that somebody has open: two in all, for slow antivirus programs.
BUSY_WAITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.7)
READERS_ARE_REFUSED = os.name == "nt"  # while a file is replaced
NOT_OFFERED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)
TAIL_BYTES = 4096  # more than one event
Problem = Callable[[dict], str]  # what is wrong with a row; empty if nothing is


T = TypeVar("T")
logger = logging.getLogger(__name__)


# ---- what some systems refuse


def patiently(act: Callable[[], T]) -> T:
    """`act()`, tried again for two seconds: Windows refuses a file that somebody, or a scanner, has open."""
    for wait in BUSY_WAITS:
        try:
            return act()
        except PermissionError:
            time.sleep(wait)
    return act()


def open_to_read(path: Path) -> BinaryIO:
    """A file that another process may be replacing at this moment."""
    if READERS_ARE_REFUSED:
        return patiently(lambda: open(path, "rb"))
    return open(path, "rb")


def set_mode(path: Path, mode: int) -> None:
    """Who may read a file or folder, where that can be said: exFAT, SMB and many FUSE systems refuse it."""
    try:
        path.chmod(mode)
    except OSError as error:
        logger.debug("%s keeps the mode that its file system gives it: %s", path, error)


def fsync(path: Path) -> None:
    """Force a file or folder to the disk: else a power failure leaves the new name, and nothing in it."""
    on_windows = os.name == "nt"
    if on_windows and path.is_dir():  # Windows cannot sync folders
        return
    descriptor = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
    finally:
        os.close(descriptor)


def is_blank(path: Path) -> bool:
    """Whether a file is as a power failure leaves it: empty, or filled with zeros."""
    with open_to_read(path) as file:
        return not file.read(TAIL_BYTES).strip(b"\0")


# ---- files that grow


def to_line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def append(path: Path, *rows: dict) -> None:
    """Append rows as whole lines or not at all: what a full disk cut short is removed again."""
    _status(path)  # refuses what is no file
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with patiently(lambda: open(path, "a", encoding="utf-8", newline="\n")) as file:
            file.write("".join(to_line(row) for row in rows))
    except OSError:
        truncate_partial_line(path)
        raise


def truncate_partial_line(path: Path) -> None:
    """Cut off a last line that a kill or a full disk left half written."""
    if not path.is_file():
        return
    with open(path, "rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)


def no_problem(row: dict) -> str:
    return ""


def read_lines(path: Path, problem: Problem = no_problem) -> Iterator[dict]:
    """Every whole line; a last one that is still being written is left out.

    Raises UserError at a line that is not a JSON object in UTF-8, or with which there is a `problem`.
    """
    file = _open(path)
    if file is None:
        return
    with file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield _parse(line, path, f"line {number}", problem)


def last_line(path: Path, problem: Problem = no_problem) -> dict | None:
    """The last whole line, or None. Read from the end of the file: the page asks every second."""
    file = _open(path)
    if file is None:
        return None
    with file:
        lines = _last_lines(file)
    return _parse(lines[-1], path, "last line", problem) if lines else None


def _open(path: Path) -> BinaryIO | None:
    """The open file; None if there is none. UserError for what cannot be read."""
    if _status(path) is None:
        return None
    try:
        return open_to_read(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give this user the right to it") from None


def _status(path: Path) -> os.stat_result | None:
    """Of a file; None if there is none. UserError for what has its name and is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_symlink():
            return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise UserError(
                f"{path} cannot be read: {error.strerror}; put it right, then try again"
            ) from None
    else:
        if stat.S_ISREG(status.st_mode):
            return status
    # opening a pipe would wait for ever
    raise UserError(f"{path} is a folder, a pipe or a broken link; move it away, then try again")


def _last_lines(file: BinaryIO) -> list[bytes]:
    """The last few whole lines; the first of them may have lost its beginning, unless it is the only one."""
    size = file.seek(0, os.SEEK_END)
    wanted = TAIL_BYTES
    while True:
        start = max(0, size - wanted)
        file.seek(start)
        lines = file.read(size - start).split(b"\n")[:-1]
        if start == 0 or len(lines) > 1:
            return lines
        wanted *= 2


def _parse(line: bytes, path: Path, where: str, problem: Problem) -> dict:
    try:
        row = json_text.parse(line)
    except ValueError:  # not JSON, or not UTF-8
        row = None
    if not isinstance(row, dict):
        shown = line[:60].decode("utf-8", "replace")
        raise UserError(f"{path} {where} is damaged: {shown!r}; take that line out")
    wrong = problem(row)
    if wrong:
        raise UserError(f"{path} {where} is damaged: {wrong}; take that line out")
    return row


class Follower:
    """Reads a file of lines as it grows; `read` parses only what is new. Safe between threads."""

    def __init__(self, path: Path, problem: Problem = no_problem) -> None:
        self.path = path
        self.problem = problem
        self.lines: list[dict] = []  # all lines so far; a new list whenever it grows
        self._offset = 0  # bytes of `lines`
        self._inode: int | None = None
        self._lock = threading.Lock()

    def read(self) -> list[dict]:
        """All whole lines so far. Raises UserError at a damaged line, as `read_lines` does."""
        with self._lock:
            status = _status(self.path)
            if status is None:
                return []
            replaced = self._inode not in (None, status.st_ino) or status.st_size < self._offset
            if replaced:
                self._restart()
            self._inode = status.st_ino
            if status.st_size > self._offset:
                self._read_more()
            return self.lines

    def _restart(self) -> None:
        self.lines = []
        self._offset = 0

    def _read_more(self) -> None:
        with open_to_read(self.path) as file:
            file.seek(self._offset)
            content = file.read()
        whole_lines = content.split(b"\n")[:-1]
        first_number = len(self.lines) + 1
        try:
            parsed = [
                _parse(line, self.path, f"line {number}", self.problem)
                for number, line in enumerate(whole_lines, first_number)
            ]
        except UserError:
            self._restart()  # the file may be repaired in place
            raise
        self.lines = [*self.lines, *parsed]
        self._offset += content.rfind(b"\n") + 1


# ---- files and folders that are whole or absent


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path to write; it replaces `path` when the block ends: readers see the old or the new."""
    if path.is_dir():
        raise UserError(f"{path} is a folder and should be a file; move it away, then try again")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f".tmp-{writer}-{path.name}")
    try:
        yield temporary
        fsync(temporary)
        patiently(lambda: os.replace(temporary, path))
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def remove_temporary_files(folder: Path) -> None:
    """Remove what interrupted writes left below a folder; a living process keeps its files."""
    for path in folder.rglob(".tmp-*"):
        name = TEMPORARY.match(path.name)
        if name is None or not path.is_file():
            continue
        pid = int(name["pid"])
        if pid == os.getpid() or not psutil.pid_exists(pid):
            path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; it replaces `path` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in (each for each in temporary.rglob("*") if each.is_file()):
            fsync(file)
        shutil.rmtree(path, ignore_errors=True)
        patiently(lambda: os.replace(temporary, path))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
