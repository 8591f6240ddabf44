"""The error caused by a user's input, shown without a traceback. Every other error keeps its traceback."""


class UserError(Exception):
    """One sentence: what was wrong, what was found, what to do next."""


def list_some(items: list[str], limit: int = 3) -> str:
    """The first items of a list, ready for a sentence: 'a, b, c, ...'."""
    listed = ", ".join(items[:limit])
    return f"{listed}, ..." if len(items) > limit else listed


def first_line(error: Exception) -> str:
    """The first line of a library's error message; the name of its class where the message is empty."""
    for text in str(error).splitlines():
        if text.strip():
            return text
    return type(error).__name__
