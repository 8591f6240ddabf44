"""Where a growing text stands: in the trace or in the answer. Torch-free.

A thinking checkpoint writes `<think>`, its trace, `</think>`, its answer; a template may have written `<think>`
already. Models also forget the closing tag, write it twice, or close with `<tool_call>` (seen between two
checkpoints, arXiv 2510.10977). The rule that covers all of it: the answer is what follows the *last* closing tag,
and nothing is an answer while a trace is open.
"""


OPEN, CLOSE, WRONG_CLOSE = "<think>", "</think>", "<tool_call>"
TAGS = (OPEN, CLOSE, WRONG_CLOSE)


class ThinkParser:
    """Splits a text as it arrives. `trace` and `answer` never hold a tag, nor the beginning of one.

    Read `trace` and `answer` whole after each `feed`: a late `</think>` turns an answer into trace.
    `state` says how the text is built: 'none' (no trace), 'open' (in it, or cut off there), 'closed',
    'wrong close' (`<tool_call>`), 'doubled' (more than one opening or closing tag).
    """

    def __init__(self, prefilled: bool = False):
        self.trace = self.answer = ""
        self.state = "open" if prefilled else "none"
        self._reopened = False
        self._held = ""  # may be the beginning of a tag, or space around one

    @property
    def thinking(self) -> bool:
        return self.state == "open"

    def feed(self, text: str) -> None:
        self._held += text
        while self._held:
            at, tag = min(((i, t) for t in self._meant() if (i := self._held.find(t)) >= 0), default=(-1, ""))
            if tag:
                self._say(self._held[:at])
                self._held = self._held[at + len(tag):]
                self._turn(tag)
                continue
            keep = self._undecided()
            self._say(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep:]
            return

    def close(self) -> None:
        """The text has ended: what was held back was no tag."""
        self._say(self._held)
        self._held = ""
        self.trace, self.answer = self.trace.rstrip(), self.answer.rstrip()

    def _meant(self) -> tuple[str, ...]:
        return TAGS if self.thinking else (OPEN, CLOSE)  # an answer may well call a tool

    def _undecided(self) -> int:
        """How many characters at the end of `_held` might still become a tag."""
        longest = min(len(self._held), max(map(len, TAGS)) - 1)
        for n in range(longest, 0, -1):
            if any(tag.startswith(self._held[-n:]) for tag in self._meant()):
                return n
        return 0

    def _say(self, text: str) -> None:
        if self.thinking:
            self.trace += text if self.trace else text.lstrip()
        else:
            self.answer += text if self.answer else text.lstrip()

    def _turn(self, tag: str) -> None:
        if tag == OPEN:
            if self.state == "open" and not self.trace:
                return  # the template had opened it already
            self._reopened |= self.state != "none"
            self._to_trace()
            self.trace += "\n" if self.trace else ""
            self.state = "open"
        elif self.state == "open":
            self.state = "doubled" if self._reopened else "closed" if tag == CLOSE else "wrong close"
            self.trace = self.trace.rstrip()
        else:  # a close where none was due: all before it was trace
            self.state = "closed" if self.state in ("none", "wrong close") else "doubled"
            self._to_trace()

    def _to_trace(self) -> None:
        if self.answer:
            self.trace = f"{self.trace}\n{self.answer.rstrip()}" if self.trace else self.answer.rstrip()
            self.answer = ""


def parse_response(text: str, prefilled: bool = False) -> ThinkParser:
    """A whole text at once: `split(text).answer` is what may be trained on."""
    stream = ThinkParser(prefilled)
    stream.feed(text)
    stream.close()
    return stream
