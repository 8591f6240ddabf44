"""Splits a growing text into reasoning trace and answer. Torch-free.

A thinking checkpoint writes `<think>`, its trace, `</think>`, its answer (or other tags: see think_tags.py);
its chat template may have written the first tag already. Models also forget the closing tag, write it twice,
or write `<tool_call>` instead (seen between two checkpoints, arXiv 2510.10977). One rule covers all of these:
the answer is what follows the *last* closing tag, and there is no answer while a trace is open.

Some models wrap the answer after a trace once more, as in `<answer>42</answer>`: these tags go, too.
"""

from thinkswitch.think_tags import THINK, Tags, tags_between

WRONG_CLOSE = "<tool_call>"


class ThinkParser:
    """Fed piece by piece; `trace` and `answer` never contain a tag, or the beginning of one.

    Read both again after each `feed`: a late `</think>` turns what was the answer into trace. `state` is one
    of none (no trace yet), open (in the trace, or cut off there), closed, wrong close (by `<tool_call>`),
    doubled (more than one opening or closing tag).
    """

    def __init__(self, prefilled: bool = False, tags: Tags = THINK):
        """`prefilled`: the chat template has opened the trace."""
        self.tags = tags
        self.trace = ""
        self.answer = ""
        self.state = "open" if prefilled else "none"
        self.answer_start = 0  # where in the text the answer begins
        self._reopened = False
        self._unwrapping = ""  # the tag that ends the wrapper in which the answer stands
        self._wrappable = False  # a wrapper may begin: after a trace, before the answer's first word
        self._pending = ""  # received but not shown: it may become a tag
        self._taken = 0  # characters of the text before `_pending`

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
            self._show(start)
            self._drop(tag)
        self._show(len(self._pending) - self._undecided())

    def close(self) -> None:
        """End the text: what was held back is no tag."""
        self._show(len(self._pending))
        self.trace = self.trace.rstrip()
        self.answer = self.answer.rstrip()

    def _active_tags(self) -> list[str]:
        tags = self.tags
        if self.thinking:
            return [tags.open, tags.close, WRONG_CLOSE]
        active = [tags.open, tags.close]  # an answer may well call a tool
        if self._unwrapping:
            active.append(self._unwrapping)
        if self._wrappable:
            active += [opening for opening, _ in tags.wrappers if opening]
        return active

    def _find_tag(self) -> tuple[int, str]:
        """Position and name of the first tag in the pending text; (-1, "") if there is none."""
        found = [(self._pending.find(tag), tag) for tag in self._active_tags()]
        return min(
            ((start, tag) for start, tag in found if start >= 0 and self._may_begin(tag, start)),
            default=(-1, ""),
        )

    def _undecided(self) -> int:
        """How many characters at the end of the pending text may be the beginning of a tag."""
        active = self._active_tags()
        longest = min(len(self._pending), max(map(len, active)) - 1)
        for length in range(longest, 0, -1):
            start = len(self._pending) - length
            end = self._pending[start:]
            if any(tag.startswith(end) and self._may_begin(tag, start) for tag in active):
                return length
        return 0

    def _may_begin(self, tag: str, start: int) -> bool:
        """A wrapper must be the first thing after the trace: elsewhere it belongs to the answer."""
        is_own = tag in (self.tags.open, self.tags.close, WRONG_CLOSE, self._unwrapping)
        return is_own or not self._pending[:start].strip()

    def _show(self, length: int) -> None:
        """Show the pending text up to there where it belongs, without space before its first word."""
        text = self._pending[:length]
        self._pending = self._pending[length:]
        if self.thinking:
            self.trace += text if self.trace else text.lstrip()
        elif self.answer:
            self.answer += text
        else:
            self.answer = text.lstrip()
            self.answer_start = self._taken + len(text) - len(self.answer)
            if self.answer:
                self._wrappable = False
        self._taken += length

    def _drop(self, tag: str) -> None:
        """Take a tag, with which the pending text begins, for what it means."""
        self._pending = self._pending[len(tag) :]
        self._taken += len(tag)
        if tag == self.tags.open:
            self._open()
        elif tag in (self.tags.close, WRONG_CLOSE):
            self._close(tag)
        elif tag == self._unwrapping:
            self._unwrapping = ""
        else:
            self._wrappable = False
            self._unwrapping = dict(self.tags.wrappers)[tag]

    def _open(self) -> None:
        if self.state == "open" and not self.trace:
            return  # the chat template had opened it already
        self._reopened |= self.state != "none"
        self._move_answer_to_trace()
        if self.trace:
            self.trace += "\n"
        self.state = "open"

    def _close(self, tag: str) -> None:
        self._wrappable = True
        self._unwrapping = dict(self.tags.wrappers).get("", "")
        if self.state != "open":  # a closing tag without an opening one: all before it was trace
            self.state = "closed" if self.state in ("none", "wrong close") else "doubled"
            self._move_answer_to_trace()
            return
        self.trace = self.trace.rstrip()
        if self._reopened:
            self.state = "doubled"
        else:
            self.state = "closed" if tag == self.tags.close else "wrong close"

    def _move_answer_to_trace(self) -> None:
        if self.answer:
            moved = self.answer.rstrip()
            self.trace = f"{self.trace}\n{moved}" if self.trace else moved
            self.answer = ""


def parse_response(text: str, prefilled: bool = False, tags: Tags = THINK) -> ThinkParser:
    """Parse a whole text at once; `.answer` is what may be trained on."""
    parser = ThinkParser(prefilled, tags)
    parser.feed(text)
    parser.close()
    return parser


def parse_sample(sample: dict) -> ThinkParser:
    """Parse the text of a line of samples.jsonl, by the tags that it names."""
    tags = tags_between(*sample["tags"]) if "tags" in sample else THINK
    return parse_response(sample["text"], sample["prefilled"], tags)
