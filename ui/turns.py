"""What keeps many visitors of one model apart: turns on it, what each has asked for last, and work that outlives a page."""

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from thinkswitch.errors import UserError

BURST = 0.06  # seconds of a turn on the model, while others wait


class Lane:
    """One model, many visitors: who has waited longest goes first, and at every step the next one gets a turn."""

    def __init__(self):
        self._line: deque = deque()  # its head has the model
        self._moved, self._since = threading.Condition(), 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def pass_on(self) -> None:
        """Called by the holder between two steps: quick ones are many a turn, so a sweep's wide steps do not starve a question."""
        if len(self._line) > 1 and time.monotonic() - self._since >= BURST:
            self._leave()
            self._enter()

    def _enter(self) -> None:
        mine = object()
        with self._moved:
            self._line.append(mine)
            self._moved.wait_for(lambda: self._line[0] is mine)
            self._since = time.monotonic()

    def _leave(self) -> None:
        with self._moved:
            self._line.popleft()
            self._moved.notify_all()


class Task:
    """Long work in a thread of its own: it goes on when the page is closed, and every page shows it.

    `work` is a generator of (stage, done, total) that returns the result; closing it is how it is cancelled.
    """

    def __init__(self, name: str, work: Callable[[Callable[[], bool]], Generator]):
        self.name, self.stage, self.done, self.total = name, "", 0, 0
        self.result, self.error, self.cancelled, self.ended = None, None, False, False
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def cancel(self) -> None:
        self.cancelled = True

    def _run(self, work) -> None:
        try:
            self.result = yield_all(work(lambda: self.cancelled), self._told)
        except UserError as error:
            self.error = str(error)
        except Exception as error:
            traceback.print_exc()
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self.ended = True

    def _told(self, stage: str, done: int, total: int) -> None:
        self.stage, self.done, self.total = stage, done, total
        if self.cancelled:
            raise UserError(f"{self.name} was stopped")


def yield_all(steps: Generator, told: Callable):
    """Drain a generator of progress; returns what it returns. Closed whatever happens, so it can clean up."""
    try:
        while True:
            try:
                told(*next(steps))
            except StopIteration as end:
                return end.value
    finally:
        steps.close()


class Visitor:
    """What one open page has asked for last. Whoever works for an earlier wish of the same name gives up."""

    def __init__(self):
        self.stops, self._wishes = 0, {}

    def wish(self, name: str) -> Callable[[], bool]:
        """A new wish; returns `is there a newer one?`"""
        mine = self._wishes[name] = self._wishes.get(name, 0) + 1
        return lambda: self._wishes[name] != mine

    def stop(self) -> None:
        self.stops += 1
