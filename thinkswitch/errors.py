"""The error caused by a user's input, shown without a traceback. Every other error keeps its traceback."""

import reprlib


class UserError(Exception):
    """One sentence: what was wrong, what was found, what to do next."""


def list_some(items: list[str], limit: int = 3) -> str:
    """The first items of a list, ready for a sentence: 'a, b, c, ...'."""
    listed = ", ".join(items[:limit])
    return f"{listed}, ..." if len(items) > limit else listed


def quote(value: object, limit: int = 60) -> str:
    """A value from outside for a sentence: as Python writes it, cut short, however large it is."""
    brief = (
        reprlib.Repr()
    )  # leaves out what is deep inside: an alias of YAML may stand for millions of values
    brief.maxlevel = 3
    brief.maxstring = brief.maxother = brief.maxlong = 2 * limit
    text = brief.repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def first_line(error: Exception) -> str:
    """The first line of a library's error message; the name of its class where the message is empty."""
    for text in str(error).splitlines():
        if text.strip():
            return text
    return type(error).__name__
