"""What one open page has asked for last."""

from collections.abc import Callable


class Session:
    """What one open page has asked for last. Whoever works for an earlier wish of the same name gives up."""

    def __init__(self):
        self.stops, self._wishes = 0, {}

    def wish(self, name: str) -> Callable[[], bool]:
        """A new wish; returns `is there a newer one?`"""
        mine = self._wishes[name] = self._wishes.get(name, 0) + 1
        return lambda: self._wishes[name] != mine

    def stop(self) -> None:
        self.stops += 1
