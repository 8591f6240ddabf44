"""What keeps many visitors of one model apart: turns on it, what each has asked for last, and work that outlives a page."""

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from thinkswitch.errors import UserError

TURN_SECONDS = 0.06  # seconds of a turn on the model, while others wait


class FairLock:
    """One model, many visitors: who has waited longest goes first, and at every step the next one gets a turn."""

    def __init__(self):
        self._line: deque = deque()  # its head has the model
        self._moved = threading.Condition()
        self._since = time.monotonic()  # when the holder's turn began

    @contextmanager
    def turn(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def pass_on(self) -> None:
        """Called by the holder between two steps: quick ones are many a turn, so a sweep's wide steps do not starve a question."""
        if len(self._line) > 1 and time.monotonic() - self._since >= TURN_SECONDS:
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


class BackgroundTask:
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
            self.result = drain(work(lambda: self.cancelled), self._told)
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


def drain(steps: Generator, told: Callable):
    """Drain a generator of progress; returns what it returns. Closed whatever happens, so it can clean up."""
    try:
        while True:
            try:
                told(*next(steps))
            except StopIteration as end:
                return end.value
    finally:
        steps.close()
