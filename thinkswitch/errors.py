"""The one exception meant for a person. Everything else keeps its traceback."""


class UserError(Exception):
    """One sentence: what was wrong, what was found, what to do next."""
