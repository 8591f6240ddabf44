"""Rows of a file of problems, each with where it stands: JSONL, JSON, CSV or Parquet. Torch-free."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinkswitch import json_text
from thinkswitch.errors import UserError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
EXAMPLE = '{"prompt": "...", "answer": "..."}'
BATCH = 256  # rows of a Parquet file in memory

Entry = tuple[str, dict | UserError]  # where it stands; the row, or what is wrong with it


def rows(path: Path) -> Iterator[tuple[str, dict]]:
    """(where it stands, row) of every row. Raises UserError at the first one that is none."""
    for where, row in entries(path):
        if isinstance(row, UserError):
            raise row
        yield where, row


def entries(path: Path) -> Iterator[Entry]:
    """Every row; one that cannot be read is an error in its place, and those after it follow."""
    if not path.exists():
        raise UserError(f"no problems at {path}: the file does not exist")
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"no problems at {path}: it is no file; name a file of problems")
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    text = _text(path)
    if path.suffix.lower() == ".csv":
        return _csv(path, text)
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        return _json(path, text)
    return _jsonl(path, text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark before the first cell
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from None


def _jsonl(path: Path, text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also split at U+2028 in a text
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json_text.parse(line)
        except ValueError as error:  # also a number of thousands of digits
            yield where, UserError(f"{where} is not JSON ({error}): {line[:60]!r}")
            continue
        yield where, _object(row, where, "a line")


def _json(path: Path, text: str) -> Iterator[Entry]:
    try:
        listed = json_text.parse(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    for number, row in enumerate(listed, 1):
        where = f"{path} row {number}"
        yield where, _object(row, where, "a row")


def _object(row: Any, where: str, what: str) -> dict | UserError:
    if isinstance(row, dict):
        return row
    return UserError(f"{where} is a {type(row).__name__}; {what} must be an object such as {EXAMPLE}")


def _csv(path: Path, text: str) -> Iterator[Entry]:
    """The first line names the columns. Spreadsheets separate with commas, semicolons or tabs."""
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)
    line = 2
    try:
        for row in reader:
            where = f"{path} line {line}"
            line = reader.line_num + 1  # a cell may hold several lines
            yield where, _cells(row, where, len(reader.fieldnames or []))
    except csv.Error as error:
        raise UserError(f"{path} line {line} is not CSV: {error}") from None


def _cells(row: dict, where: str, columns: int) -> dict | UserError:
    extra = row.get(None)
    if extra is None:
        return row
    found = columns + len(extra)
    return UserError(
        f"{where} has {found} cells, the first line has {columns}; put texts with commas in quotes"
    )


def _parquet(path: Path) -> Iterator[Entry]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path} is a Parquet file: pip install datasets") from None
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())}") from None
