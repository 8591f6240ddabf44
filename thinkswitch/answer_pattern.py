r"""Answer pattern: a regular expression that takes an answer out of a longer text. Torch-free.

GSM8K's answers are worked solutions that end in `#### 72`; `####\s*(.+)` takes out the 72. The last match
counts, and of it the first group, if there is one.
"""

import regex  # not re: a pattern of somebody else's may go back and forth for ever on what a model writes

from thinkswitch.errors import UserError

SECONDS = 1.0  # that a search may take


def check(pattern: str) -> None:
    """Refuse a pattern that is none."""
    try:
        regex.compile(pattern)
    except regex.error as error:
        example = r"####\s*(.+)"
        raise UserError(
            f"answer_pattern {pattern!r} is no regular expression ({error}); write for example {example}"
        ) from None


def take(pattern: str, text: str) -> str | None:
    """What the last match holds; None without a match, and when the search takes too long."""
    try:
        matches = list(regex.compile(pattern).finditer(text, timeout=SECONDS))
    except TimeoutError:
        return None
    if not matches:
        return None
    groups = [group for group in matches[-1].groups() if group is not None]
    return (groups[0] if groups else matches[-1][0]).strip()


def is_asked_for(pattern: str, prompt: str) -> bool:
    """Whether a prompt shows the form of the pattern: a match, or the characters that it begins with."""
    beginning = regex.match(r"[^\\.^$*+?{}\[\]|()]*", pattern)[0].strip()
    if len(beginning) > 1 and beginning in prompt:
        return True
    return bool(pattern) and take(pattern, prompt) is not None
