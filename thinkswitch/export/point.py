"""What is exported: a point of a round."""

from dataclasses import dataclass
from functools import cached_property

from thinkswitch.preset import Preset
from thinkswitch.recipe import Recipe, Schedule
from thinkswitch.rounds import Round
from thinkswitch.weights.pair import Pair


@dataclass(frozen=True)
class ExportPoint:
    """What is exported."""

    pair: Pair
    round: Round
    t: float
    schedule: Schedule
    preset: Preset
    adapter: bool  # as updates of the instruct checkpoint alone

    @cached_property
    def recipe(self) -> Recipe:
        return self.round.point(self.t, self.schedule)

    @property
    def template(self) -> str:
        return "instruct" if self.t == 0 else "thinking" if self.t == 1 else self.preset.template

    @property
    def ranks(self) -> list[int]:
        """Of each round's update."""
        return [max(len(a) for a, _ in adapter.low_rank.values()) for adapter in self.round.adapters]

    @property
    def basis(self) -> list[str]:
        """What a recipe's coefficients multiply."""
        return ["instruct", "thinking", *(f"update {j}" for j in range(1, len(self.round.adapters) + 1))]

    def __str__(self) -> str:
        return f"round {self.round.number}, t = {self.t:g}"
