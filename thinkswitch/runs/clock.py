"""A clock that stands still while the machine sleeps."""

import threading
import time
from collections.abc import Callable

ASLEEP_SECONDS = 60.0  # so long between two looks of one who looks every few seconds, the machine slept


class AwakeClock:
    """Seconds awake, for somebody who asks every few seconds.

    time.monotonic() stands still in a sleep on Linux and macOS, but not on Windows or in virtual machines.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._awake = 0.0
        self._lock = threading.Lock()  # a progress bar is drawn by a thread of its own

    def __call__(self) -> float:
        with self._lock:
            now = self._clock()
            passed = now - self._last
            self._last = now
            self._awake += passed if passed < ASLEEP_SECONDS else 0.0
            return self._awake
