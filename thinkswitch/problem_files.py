"""Rows of a file of problems, each with where it stands: JSON, tables, Parquet, lines. Torch-free.

What a file holds is read off its content: a .json may hold lines, a .txt JSON, and any of them may be
gzipped, or in UTF-16 as PowerShell and Excel write it.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinkswitch import json_text
from thinkswitch.errors import UserError, list_some
from thinkswitch.problem_rows import CHAT_COLUMNS, PROMPT_COLUMNS

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet", ".gz")
TABLES = (".csv", ".tsv", ".txt")
EXAMPLE = '{"prompt": "...", "answer": "..."}'
BATCH = 256  # rows of a Parquet file in memory
MOST_UNPACKED = 4 * 10**9  # bytes: a gzipped file of megabytes can unpack to terabytes
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"  # how these files begin
NEXT_MARK = re.compile(r"\S")
SEPARATOR = re.compile(r"sep=(.)\r?\n", re.I)  # Excel's own first line

Entry = tuple[str, dict | UserError]  # where it stands; the row, or what is wrong with it


def rows(path: Path) -> Iterator[tuple[str, dict]]:
    """(where it stands, row) of every row. Raises UserError at the first one that is none."""
    for where, row in entries(path):
        if isinstance(row, UserError):
            raise row
        yield where, row


def entries(path: Path) -> Iterator[Entry]:
    """Every row; one that cannot be read is an error in its place, and those after it follow."""
    content = _content(path)
    if content.startswith(PARQUET) or suffix_of(path) == ".parquet":
        return _parquet(path, content)
    text = _text(path, content)
    begins = text.lstrip()[:1]
    if begins in ("{", "[") or suffix_of(path) not in TABLES:
        return _json(path, text)
    if suffix_of(path) == ".txt" and not _is_table(text):
        return _prompts(path, text)
    return _csv(path, text)


def suffix_of(path: Path) -> str:
    """The suffix that says the format: .jsonl of `a.jsonl.gz`; .csv of a `.gz` without one."""
    if path.suffix.lower() != ".gz":
        return path.suffix.lower()
    return Path(path.stem).suffix.lower() or ".csv"


# ---- bytes and text


def _content(path: Path) -> bytes:
    if path.is_dir():
        found = sorted(each.name for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
        advice = f"name a file in it, such as {list_some(found)}" if found else "name a file"
        raise UserError(f"{path} is a folder; {advice}")
    if not path.exists():
        raise UserError(f"no problems at {path}: the file does not exist")
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"no problems at {path}: it is no file; name a file of problems")
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            with gzip.open(io.BytesIO(content)) as packed:
                content = packed.read(MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if len(content) > MOST_UNPACKED:
        raise UserError(f"{path} unpacks to more than {MOST_UNPACKED // 10**9} GB; take a part of it")
    if content and not content.strip(b"\0"):
        raise UserError(f"{path} holds nothing but zero bytes, as a power failure leaves it; copy it anew")
    return content


def _text(path: Path, content: bytes) -> str:
    encoding = json.detect_encoding(content)  # by the mark or the zeros of UTF-16; else UTF-8
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} line {line} cannot be read as {encoding.upper().removesuffix('-SIG')} text "
            f"({error.reason}); save the file as UTF-8"
        ) from None


# ---- JSON


def _json(path: Path, text: str) -> Iterator[Entry]:
    """One value a line; or one array or object, or several of them, over as many lines as they like."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and _parses(lines[0]):
        return _jsonl(path, text)
    try:
        values = _values(text)
    except (ValueError, RecursionError) as error:
        if _begins_pretty(lines[0]):
            line = getattr(error, "lineno", 1)
            raise UserError(f"{path} line {line} is not JSON ({error})") from None
        return _jsonl(path, text)
    listed = _rows_within(path, values[0][1]) if len(values) == 1 else None
    if listed is not None:
        return _checked(((f"{path} row {number}", row) for number, row in enumerate(listed, 1)), "a row")
    return _checked(((f"{path} line {line}", value) for line, value in values), "a line")


def _parses(line: str) -> bool:
    try:
        json_text.parse(line)
    except ValueError:
        return False
    return True


def _begins_pretty(line: str) -> bool:
    """Whether a first line begins a value that goes on below it, rather than being a broken line."""
    return line.lstrip().startswith("[") or line.rstrip().endswith(("{", "[", ","))


def _values(text: str) -> list[tuple[int, Any]]:
    """(line, value) of every JSON value in a text."""
    decoder = json.JSONDecoder()
    found = []
    line, at = 1, 0
    while mark := NEXT_MARK.search(text, at):
        begin = mark.start()
        line += text.count("\n", at, begin)
        value, at = decoder.raw_decode(text, begin)
        found.append((line, value))
        line += text.count("\n", begin, at)
    return found


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


def _checked(found: Iterator[tuple[str, Any]], what: str) -> Iterator[Entry]:
    return ((where, _object(row, where, what)) for where, row in found)


def _object(row: Any, where: str, what: str) -> dict | UserError:
    if isinstance(row, dict):
        return row
    return UserError(f"{where} is a {type(row).__name__}; {what} must be an object such as {EXAMPLE}")


def _rows_within(path: Path, value: Any) -> list | None:
    """A list; or the one that an object holds, or its columns as pandas writes them. None: it is a row."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or any(name in value for name in CHAT_COLUMNS):
        return None
    prompts = [value[name] for name in PROMPT_COLUMNS if name in value]
    if any(isinstance(prompt, str) or _is_list_of_objects(prompt) for prompt in prompts):
        return None
    lists = [name for name, listed in value.items() if _is_list_of_objects(listed)]
    if len(lists) == 1:
        return value[lists[0]]
    if lists:
        raise UserError(f"{path} holds several lists ({list_some(lists)}); save each as a file of its own")
    columns = list(value.values())
    if columns and all(isinstance(column, dict) for column in columns):
        columns = [list(column.values()) for column in columns]
    if columns and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return None


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


# ---- tables and lines


def _csv(path: Path, text: str) -> Iterator[Entry]:
    """The first line names the columns. Spreadsheets separate with commas, semicolons or tabs."""
    line = 2
    delimiter = _delimiter(text)
    if told := SEPARATOR.match(text):
        delimiter, text, line = told[1], text[told.end() :], 3
    before = line - 2
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        for row in reader:
            where = f"{path} line {line}"
            line = reader.line_num + 1 + before  # a cell may hold several lines
            yield where, _cells(row, where, len(reader.fieldnames))
    except csv.Error as error:
        raise UserError(f"{path} line {line} is not CSV: {error}") from None


def _delimiter(text: str) -> str:
    header = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", text, maxsplit=1)[0])
    return max(",;\t|", key=header.count)


def _is_table(text: str) -> bool:
    """Whether the first line names a column of prompts."""
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]
    return any(name.strip('" ').casefold() in PROMPT_COLUMNS for name in header.split(_delimiter(text)))


def _cells(row: dict, where: str, columns: int) -> dict | UserError:
    extra = row.get(None)
    if extra is None:
        return row
    found = columns + len(extra)
    return UserError(
        f"{where} has {found} cells, the first line has {columns}; put texts with commas in quotes"
    )


def _prompts(path: Path, text: str) -> Iterator[Entry]:
    """A text file without columns: a prompt a line."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path} line {number}", {"prompt": line.strip()}


def _parquet(path: Path, content: bytes) -> Iterator[Entry]:
    try:
        from pyarrow import ArrowException, BufferReader
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path} is a Parquet file: pip install datasets") from None
    number = 0
    try:
        with ParquetFile(BufferReader(content)) as file:
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())}") from None
