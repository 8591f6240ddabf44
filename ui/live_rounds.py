"""Rounds whose adapters are in the live blend: those that somebody looked at last."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinkswitch.rounds import Round
    from thinkswitch.weights.live_blend import Blend

DRAIN_LOOK_SECONDS = 0.02
KEPT_ROUNDS = 4  # each holds all adapters up to it; at 4 B parameters and rank 16 one adapter is 132 MB

Key = tuple[Path, int]  # (run folder, round)


class LiveRounds:
    """Adds the adapters of a round to the blend when it is first looked at, and removes those of old ones.

    Rounds of one run share their adapters.
    """

    def __init__(self, blend: Blend) -> None:
        self._blend = blend
        self._rounds: OrderedDict[Key, Round] = OrderedDict()  # the last used one is the last
        self._slots: dict[Key, int] = {}  # where in the blend's basis the adapter of a round is
        self._pins: dict[object, Key | None] = {}
        self._pins_lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rounds)

    @contextmanager
    def pin(self, key: Key | None) -> Iterator[None]:
        """Somebody uses the pair at this round (None: the pair itself): its adapters stay in the blend."""
        pin = object()
        with self._pins_lock:
            self._pins[pin] = key
        try:
            yield
        finally:
            with self._pins_lock:
                del self._pins[pin]

    def pinned(self) -> set[Key | None]:
        with self._pins_lock:
            return set(self._pins.values())

    def drain(self, seconds: float) -> None:
        """Wait until nobody uses the pair any more, but not for ever."""
        deadline = time.monotonic() + seconds
        while self.pinned() and time.monotonic() < deadline:
            time.sleep(DRAIN_LOOK_SECONDS)

    def find(self, key: Key) -> Round:
        """The round, read from disk unless it is in memory. Needs no turn on the model."""
        from thinkswitch import rounds

        return self._rounds.get(key) or rounds.read(*key)

    def use(self, key: Key, round_: Round) -> list[int]:
        """Have the round's adapters in the blend; returns their slots. The caller has a turn on the model.

        The adapters stay as long as the caller pins the round.
        """
        self._rounds[key] = round_
        self._rounds.move_to_end(key)
        for adapter_key, adapter in zip(adapters_of(key), round_.adapters, strict=True):
            if adapter_key not in self._slots:
                self._slots[adapter_key] = self._blend.add(adapter)
        self._forget_old()
        return [self._slots[adapter_key] for adapter_key in adapters_of(key)]

    def forget(self, folder: Path) -> None:
        """A run was renamed or deleted: another one may take its name. The caller has a turn on the model."""
        for key in [key for key in self._rounds if key[0] == folder]:
            del self._rounds[key]
        self._forget_old()

    def _forget_old(self) -> None:
        kept = {*list(self._rounds)[-KEPT_ROUNDS:], *self.pinned()}
        for key in [key for key in self._rounds if key not in kept]:
            del self._rounds[key]
        needed = {adapter_key for key in self._rounds for adapter_key in adapters_of(key)}
        for adapter_key in [key for key in self._slots if key not in needed]:
            self._blend.remove(self._slots.pop(adapter_key))


def adapters_of(key: Key) -> list[Key]:
    """Round N is made of the adapters of rounds 1 to N."""
    folder, number = key
    return [(folder, r) for r in range(1, number + 1)]
