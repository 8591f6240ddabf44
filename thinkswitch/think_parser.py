"""Splits a growing text into reasoning trace and answer. Torch-free.

A thinking checkpoint writes `<think>`, its trace, `</think>`, its answer; its chat template may have written
the first tag already. Models also forget the closing tag, write it twice, or write `<tool_call>` instead
(seen between two checkpoints, arXiv 2510.10977). One rule covers all of these: the answer is what follows the
*last* closing tag, and there is no answer while a trace is open.
"""

OPEN, CLOSE, WRONG_CLOSE = "<think>", "</think>", "<tool_call>"
TAGS = (OPEN, CLOSE, WRONG_CLOSE)


class ThinkParser:
    """Fed piece by piece; `trace` and `answer` never contain a tag, or the beginning of one.

    Read both again after each `feed`: a late `</think>` turns what was the answer into trace. `state` is one
    of none (no trace yet), open (in the trace, or cut off there), closed, wrong close (by `<tool_call>`),
    doubled (more than one opening or closing tag).
    """

    def __init__(self, prefilled: bool = False):
        """`prefilled`: the chat template has opened the trace."""
        self.trace = ""
        self.answer = ""
        self.state = "open" if prefilled else "none"
        self._reopened = False
        self._pending = ""  # received but not shown: it may become a tag

    @property
    def thinking(self) -> bool:
        return self.state == "open"

    def feed(self, text: str) -> None:
        """Add the next piece of the text."""
        self._pending += text
        while True:
            start, tag = self._find_tag()
            if not tag:
                break
            self._emit(self._pending[:start])
            self._pending = self._pending[start + len(tag) :]
            if tag == OPEN:
                self._open()
            else:
                self._close(tag)
        decided = len(self._pending) - self._undecided()
        self._emit(self._pending[:decided])
        self._pending = self._pending[decided:]

    def close(self) -> None:
        """End the text: what was held back is no tag."""
        self._emit(self._pending)
        self._pending = ""
        self.trace = self.trace.rstrip()
        self.answer = self.answer.rstrip()

    def _active_tags(self) -> tuple[str, ...]:
        return TAGS if self.thinking else (OPEN, CLOSE)  # an answer may well call a tool

    def _find_tag(self) -> tuple[int, str]:
        """Position and name of the first tag in the pending text; (-1, "") if there is none."""
        found = [(self._pending.find(tag), tag) for tag in self._active_tags()]
        return min(((start, tag) for start, tag in found if start >= 0), default=(-1, ""))

    def _undecided(self) -> int:
        """How many characters at the end of the pending text may be the beginning of a tag."""
        longest = min(len(self._pending), max(map(len, TAGS)) - 1)
        for length in range(longest, 0, -1):
            if any(tag.startswith(self._pending[-length:]) for tag in self._active_tags()):
                return length
        return 0

    def _emit(self, text: str) -> None:
        """Show text where it belongs, without space before its first word."""
        if self.thinking:
            self.trace += text if self.trace else text.lstrip()
        else:
            self.answer += text if self.answer else text.lstrip()

    def _open(self) -> None:
        if self.state == "open" and not self.trace:
            return  # the chat template had opened it already
        self._reopened |= self.state != "none"
        self._move_answer_to_trace()
        if self.trace:
            self.trace += "\n"
        self.state = "open"

    def _close(self, tag: str) -> None:
        if self.state != "open":  # a closing tag without an opening one: all before it was trace
            self.state = "closed" if self.state in ("none", "wrong close") else "doubled"
            self._move_answer_to_trace()
            return
        self.trace = self.trace.rstrip()
        if self._reopened:
            self.state = "doubled"
        else:
            self.state = "closed" if tag == CLOSE else "wrong close"

    def _move_answer_to_trace(self) -> None:
        if self.answer:
            moved = self.answer.rstrip()
            self.trace = f"{self.trace}\n{moved}" if self.trace else moved
            self.answer = ""


def parse_response(text: str, prefilled: bool = False) -> ThinkParser:
    """Parse a whole text at once; `.answer` is what may be trained on."""
    parser = ThinkParser(prefilled)
    parser.feed(text)
    parser.close()
    return parser
