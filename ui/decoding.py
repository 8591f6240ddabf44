"""Decodes of many visitors on one model: a line to wait in, then turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ui import scheduling
from ui.live_rounds import Key

if TYPE_CHECKING:
    from thinkswitch.generate import Chunk, Row
    from ui.pair_loader import Loaded

AT_ONCE = 4  # decodes that share the model; later ones wait in line
NEWS_SECONDS = 0.15  # between two messages to a page: each costs Gradio 50 ms in a slow browser
LOOK_SECONDS = 0.1  # how often a waiting decode looks whether it is its turn


@dataclass(eq=False)
class Place:
    """A decode in line."""

    given_up: Callable[[], bool]  # nobody waits for it any more
    session_hash: str | None = None
    round: Key | None = None  # whose adapters it uses


@dataclass(frozen=True)
class Waiting:
    """News of a decode that has not begun: how many are before it."""

    ahead: int


@dataclass
class News:
    """News of a decode: the latest chunk of each row that has a new one, and when rows ended."""

    chunks: dict[int, Chunk] = field(default_factory=dict)
    ended_at: dict[int, float] = field(default_factory=dict)  # on the monotonic clock

    def add(self, chunk: Chunk) -> None:
        self.chunks[chunk.row] = chunk
        if chunk.finish:
            self.ended_at[chunk.row] = time.monotonic()

    def merge(self, later: News) -> None:
        self.chunks |= later.chunks
        self.ended_at |= later.ended_at


class DecodeLine:
    """The decodes at work and in line, oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: list[Place] = []

    def __len__(self) -> int:
        return len(self._places)

    @contextmanager
    def join(self, place: Place) -> Iterator[None]:
        with self._lock:
            self._places.append(place)
        try:
            yield
        finally:
            with self._lock:
                self._places.remove(place)

    def ahead(self, place: Place) -> int:
        """How many decodes are before this one. Those that were given up do not count."""
        with self._lock:
            return sum(not other.given_up() for other in self._places[: self._places.index(place)])

    def wait(self, place: Place) -> Iterator[Waiting]:
        """Until there is room; news for the page meanwhile."""
        while (ahead := self.ahead(place) - AT_ONCE + 1) > 0 and not place.given_up():
            yield Waiting(ahead)
            time.sleep(LOOK_SECONDS)

    def rounds_in_use(self) -> set[Key]:
        with self._lock:
            return {place.round for place in self._places if place.round is not None}

    def of_others(self, session_hash: str | None) -> int:
        """How many decodes belong to other pages."""
        with self._lock:
            others = [place for place in self._places if place.session_hash != session_hash]
            return sum(not place.given_up() for place in others)

    def drain(self, seconds: float) -> None:
        """Wait until no decode is left, but not for ever: a page that has stalled holds its decode."""
        deadline = time.monotonic() + seconds
        while self._places and time.monotonic() < deadline:
            time.sleep(0.02)


def read_in_turns(chunks: Iterator[Chunk], turn: Callable) -> Iterator[News]:
    """Run a decode turn by turn. News at most every NEWS_SECONDS, but the first and last at once."""
    news = News()
    sent_at: float | None = None
    while (burst := one_turn(chunks, turn)) is not None:
        news.merge(burst)
        if sent_at is None or time.monotonic() - sent_at >= NEWS_SECONDS:
            yield news
            news, sent_at = News(), time.monotonic()
    if news.chunks:
        yield news


def one_turn(chunks: Iterator[Chunk], turn: Callable) -> News | None:
    """What is decoded in one turn on the model; None when the decode has ended."""
    news = News()
    with turn():
        until = time.monotonic() + scheduling.TURN_SECONDS
        for chunk in chunks:
            news.add(chunk)
            if time.monotonic() > until:
                break
    return news if news.chunks else None


def rows_that_fit(loaded: Loaded, rows: list[Row]) -> int:
    """How many of these rows may decode as one batch in the memory that is free now; at least one."""
    from thinkswitch import memory_plan

    # the weights are in memory already, so it makes no difference here whether they take 4 bits
    setup = memory_plan.read_setup(loaded.pair, replace(loaded.preset, four_bit=False))
    tokens = max(row.sampling.max_new_tokens for row in rows)
    fit = int(setup.device_free // memory_plan.row_bytes(setup, tokens))
    return max(1, min(len(rows), fit))
