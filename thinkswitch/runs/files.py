"""Files that grow by whole lines, and files that are whole or absent."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thinkswitch.errors import UserError


class Follower:
    """Reads a file of lines as it grows: `lines` holds all so far, and only what is new is read. Safe between threads."""

    def __init__(self, path: Path):
        self.path, self.lines = path, []
        self._at, self._identity, self._lock = 0, None, threading.Lock()

    def read(self) -> list[dict]:
        with self._lock:
            try:
                status = self.path.stat()
            except FileNotFoundError:
                return []
            if status.st_size < self._at or self._identity not in (None, status.st_ino):  # replaced: from its beginning
                self.lines, self._at = [], 0
            self._identity = status.st_ino
            if status.st_size > self._at:
                with open(self.path, "rb") as file:
                    file.seek(self._at)
                    new = file.read()
                whole = new[: new.rfind(b"\n") + 1]
                before, self.lines, self._at = (self.lines, self._at), [], 0  # what is damaged is read anew, it may be mended in place
                parsed = [_parsed(line, self.path, n) for n, line in enumerate(whole.decode("utf-8", "replace").split("\n")[:-1], len(before[0]) + 1)]
                self.lines, self._at = [*before[0], *parsed], before[1] + len(whole)
            return self.lines


def append(path: Path, *rows: dict) -> None:
    """Whole lines or nothing: what a full disk cut short is taken back."""
    text = "".join(map(to_line, rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        truncate_partial_line(path)
        raise


def to_line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_lines(path: Path) -> Iterator[dict]:
    """Every whole line; a last one that is still being written is left out."""
    if path.is_file():
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n"):
                    yield _parsed(line, path, number)


def last_line(path: Path, most: int = 1 << 16) -> dict | None:
    """The last whole line, read from the end: pages ask for it every second."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - most))
        lines = file.read().split(b"\n")[:-1]
    return _parsed(lines[-1].decode(), path, 0) if lines else None


def _parsed(line: str, path: Path, number: int) -> dict:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError
        return row
    except ValueError:
        raise UserError(f"{path} {f'line {number}' if number else 'last line'} is damaged: {line[:60]!r}; take that line out") from None


def truncate_partial_line(path: Path) -> None:
    """Cut off a last line that a kill or a full disk left half written."""
    if path.is_file():
        with open(path, "rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def write_atomic(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, that takes its name when it is full."""
    beside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)  # from a killed try
    beside.mkdir(parents=True)
    try:
        yield beside
        shutil.rmtree(path, ignore_errors=True)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
