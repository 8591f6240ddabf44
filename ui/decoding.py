"""Decodes of many visitors on one model: a queue, then turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ui import scheduling

if TYPE_CHECKING:
    from thinkswitch.generate import Chunk, Row
    from ui.pair_loader import Loaded

AT_ONCE = 4  # decodes that share the model; later ones wait
UPDATE_SECONDS = 0.1  # between two messages to a page
SLOW_UPDATE_SECONDS = 0.35  # and for a larger pair, which may share its machine with the browser
LOOK_SECONDS = 0.1  # how often a waiting decode looks whether it is its turn


@dataclass(eq=False)
class QueuedDecode:
    """A decode at work or in the queue."""

    given_up: Callable[[], bool]  # nobody waits for it any more
    session_hash: str | None = None


@dataclass(frozen=True)
class Waiting:
    """A decode waits for its turn."""

    ahead: int  # how many others must end first; 0: it begins


@dataclass(frozen=True)
class Came:
    """When the engine had so many tokens of a row, on the monotonic clock."""

    tokens: int
    at: float


@dataclass
class DecodeUpdate:
    """The latest chunk of each row that has a new one, and what the page cannot see from it."""

    chunks: dict[int, Chunk] = field(default_factory=dict)
    first: dict[int, Came] = field(default_factory=dict)
    latest: dict[int, Came] = field(default_factory=dict)
    trace_tokens: dict[int, int] = field(default_factory=dict)  # tags included

    def add(self, chunk: Chunk) -> None:
        came = Came(chunk.tokens, time.monotonic())
        self.chunks[chunk.row] = chunk
        self.first.setdefault(chunk.row, came)
        self.latest[chunk.row] = came
        if chunk.thinking:
            self.trace_tokens[chunk.row] = chunk.tokens

    def merge(self, later: DecodeUpdate) -> None:
        self.chunks |= later.chunks
        self.first = later.first | self.first
        self.latest |= later.latest
        self.trace_tokens |= later.trace_tokens

    def speed(self, row: int) -> float | None:
        """Tokens a second, from the first to the latest; None before there are two."""
        first, latest = self.first[row], self.latest[row]
        seconds = latest.at - first.at
        tokens = latest.tokens - first.tokens  # fewer than none where a batch that did not fit began again
        return tokens / seconds if tokens > 0 and seconds > 0 else None


class DecodeQueue:
    """The decodes at work and in the queue, oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decodes: list[QueuedDecode] = []

    def __len__(self) -> int:
        return len(self._decodes)

    @contextmanager
    def join(self, decode: QueuedDecode) -> Iterator[None]:
        with self._lock:
            self._decodes.append(decode)
        try:
            yield
        finally:
            with self._lock:
                self._decodes.remove(decode)

    def ahead(self, decode: QueuedDecode) -> int:
        """How many decodes came before this one. Those that were given up do not count."""
        with self._lock:
            return sum(not other.given_up() for other in self._decodes[: self._decodes.index(decode)])

    def wait(self, decode: QueuedDecode) -> Iterator[Waiting]:
        """Until there is room; a message whenever the queue has moved, 0 when a decode that waited begins."""
        told = 0
        while True:
            must_end = max(0, self.ahead(decode) - AT_ONCE + 1)
            if must_end and decode.given_up():
                return
            if must_end != told:
                told = must_end
                yield Waiting(must_end)
            if must_end == 0:
                return
            time.sleep(LOOK_SECONDS)

    def of_others(self, session_hash: str | None) -> int:
        """How many decodes belong to other pages."""
        with self._lock:
            others = [decode for decode in self._decodes if decode.session_hash != session_hash]
            return sum(not decode.given_up() for decode in others)


def read_in_turns(chunks: Iterator[Chunk], turn: Callable, every: float) -> Iterator[DecodeUpdate]:
    """Run a decode turn by turn. Updates come `every` so many seconds, but the first and last at once."""
    update = DecodeUpdate()
    sent_at: float | None = None
    while (burst := one_turn(chunks, turn)) is not None:
        update.merge(burst)
        if sent_at is None or time.monotonic() - sent_at >= every:
            yield update
            update, sent_at = DecodeUpdate(), time.monotonic()
    if update.chunks:
        yield update


def one_turn(chunks: Iterator[Chunk], turn: Callable) -> DecodeUpdate | None:
    """What is decoded in one turn on the model; None when the decode has ended."""
    update = DecodeUpdate()
    with turn():
        until = time.monotonic() + scheduling.TURN_SECONDS
        for chunk in chunks:
            update.add(chunk)
            if time.monotonic() > until:
                break
    return update if update.chunks else None


def rows_that_fit(loaded: Loaded, rows: list[Row]) -> int:
    """How many of these rows may decode as one batch in the memory that is free now; at least one."""
    from thinkswitch import memory_plan

    # the weights are in memory already, so it makes no difference here whether they take 4 bits
    setup = memory_plan.read_setup(loaded.pair, replace(loaded.preset, four_bit=False), memory_plan.LIVE)
    prompt = max(len(row.ids) for row in rows)
    tokens = max(row.sampling.max_new_tokens for row in rows)
    fit = int(setup.device_free // memory_plan.row_bytes(setup, tokens, prompt))
    return max(1, min(len(rows), fit))
