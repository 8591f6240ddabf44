"""The one exception meant for a person. Everything else keeps its traceback."""


class UserError(Exception):
    """One sentence: what was wrong, what was found, what to do next."""


def some(items: list[str], n: int = 3) -> str:
    """A list in a sentence."""
    return ", ".join(items[:n]) + (", ..." if len(items) > n else "")


def line(error: Exception) -> str:
    """What a library says, as a part of a sentence."""
    return next(filter(str.strip, str(error).splitlines()), type(error).__name__)
