"""Sharing one model: turns on it, and long work that outlives the page that started it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from thinkswitch.errors import UserError

TURN_SECONDS = 0.06  # how long one decode has the model while others wait

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class FairLock:
    """A lock whose longest waiter gets it next."""

    def __init__(self) -> None:
        self._waiting: deque[object] = deque()  # the first one holds the lock
        self._changed = threading.Condition()
        self._turn_began = time.monotonic()

    @property
    def in_line(self) -> int:
        """How many threads hold the lock or wait for it."""
        return len(self._waiting)

    @contextmanager
    def turn(self) -> Iterator[None]:
        self._acquire()
        try:
            yield
        finally:
            self._release()

    def yield_turn(self) -> None:
        """Called by the holder between two steps: once its turn is over, let the others go first.

        A turn is a time, not a step, so that the wide steps of a sweep do not starve a question's quick ones.
        """
        if self.in_line > 1 and time.monotonic() - self._turn_began >= TURN_SECONDS:
            self._release()
            self._acquire()

    def _acquire(self) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket)
            self._turn_began = time.monotonic()

    def _release(self) -> None:
        with self._changed:
            self._waiting.popleft()
            self._changed.notify_all()


Progress = Generator[tuple[str, int, int], None, Result]  # yields (stage, done, total)


class BackgroundTask:
    """Long work in a thread of its own. It goes on when the page is closed, and every page shows it.

    `work` gets a function that says whether the task was cancelled, and returns a generator of
    (stage, done, total). A cancelled generator is closed at its next step, so it can clean up.
    """

    def __init__(self, name: str, work: Callable[[Callable[[], bool]], Progress]) -> None:
        self.name = name
        self.stage, self.done, self.total = "", 0, 0
        self.result: Any = None
        self.error: str | None = None
        self.cancelled = self.ended = False
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def cancel(self) -> None:
        self.cancelled = True

    def _run(self, work: Callable[[Callable[[], bool]], Progress]) -> None:
        try:
            self.result = drain(work(lambda: self.cancelled), self._advance)
        except UserError as error:
            self.error = str(error)
        except Exception as error:
            logger.exception("%s failed", self.name)
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self.ended = True

    def _advance(self, stage: str, done: int, total: int) -> None:
        self.stage, self.done, self.total = stage, done, total
        if self.cancelled:
            raise UserError(f"the {self.name} was stopped")


def drain(steps: Generator[tuple, None, Result], on_progress: Callable[..., None]) -> Result:
    """Run a generator of progress to its end and return its result. It is closed whatever happens."""
    try:
        while True:
            try:
                on_progress(*next(steps))
            except StopIteration as end:
                return end.value
    finally:
        steps.close()
