"""JSON from outside: one kind of error for all that can be wrong with it. Torch-free."""

import errno
import json
from pathlib import Path
from typing import Any


def parse(text: str | bytes) -> Any:
    """The value of a JSON text, which as bytes is UTF-8. ValueError for whatever is none."""
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError:  # thousands of brackets: no ValueError, so it went past all who expect damage
        raise ValueError("it is nested too deeply") from None


def read(path: Path) -> Any:
    """The value in a file. OSError where that cannot be read, ValueError where it is no JSON in UTF-8."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise OSError(errno.EISDIR, "it is a folder or a pipe, not a file", str(path))
    return parse(path.read_bytes())
