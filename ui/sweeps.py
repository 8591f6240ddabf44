"""A sweep, as all pages share it: what was scored over the spectrum, and what was found."""

from __future__ import annotations

from dataclasses import dataclass, field

from thinkswitch.recipe import Schedule


@dataclass(frozen=True)
class Sweep:
    """Scores of one round over the spectrum, under one schedule."""

    name: str  # as it is shown; one sweep of a name is kept
    choice: str  # the round
    schedule: Schedule
    pair: tuple[str, str]  # instruct and thinking
    problems: int  # that each point is asked
    table: list[dict]  # {t, **Summary}; of a running sweep over the problems answered at every point
    answered: dict[float, int] = field(default_factory=dict)  # of a running sweep: answers at each t

    def at(self, t: float) -> dict | None:
        """The scores at a t that was swept."""
        return next((point for point in self.table if point["t"] == t), None)

    def key(self, t: float) -> str:
        """What a point is called in the browser, where it can be chosen."""
        return f"{t!r} {self.name}"
