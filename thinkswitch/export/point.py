"""What is exported: a point of a round, in a form, to a folder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from thinkswitch.preset import Preset
from thinkswitch.recipe import Recipe, Schedule
from thinkswitch.rounds import Round
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.offload import LARGE_BYTES
from thinkswitch.weights.pair import Pair

SHARD_BYTES = 5_000_000_000  # the largest file of weights, as other libraries write them


@dataclass(frozen=True)
class ExportPoint:
    """A point of a round: as a whole checkpoint, or as a LoRA adapter for the instruct checkpoint."""

    pair: Pair
    round: Round
    t: float  # 0 instruct, 1 thinking
    schedule: Schedule
    preset: Preset
    adapter: bool = False

    @cached_property
    def recipe(self) -> Recipe:
        return self.round.point(self.t, self.schedule)

    @property
    def template(self) -> str:
        """instruct | thinking: the checkpoint whose tokenizer and chat template are exported."""
        if self.t == 0:
            return "instruct"
        if self.t == 1:
            return "thinking"
        return self.preset.template

    @property
    def template_source(self) -> Checkpoint:
        return self.pair.instruct if self.template == "instruct" else self.pair.thinking

    @property
    def ranks(self) -> list[int]:
        """The rank of each round's update."""
        return [max(len(a) for a, _ in adapter.low_rank.values()) for adapter in self.round.adapters]

    @property
    def basis(self) -> list[str]:
        """What a recipe's coefficients multiply."""
        return ["instruct", "thinking", *(f"update {j}" for j in range(1, len(self.round.adapters) + 1))]

    @property
    def is_large(self) -> bool:
        """Too large to be loaded for a comparison: its matrices stay on the disk instead."""
        return 4 * self.pair.parameters > LARGE_BYTES

    def __str__(self) -> str:
        return f"round {self.round.number}, t = {self.t:g}"


@dataclass(frozen=True)
class ExportRequest:
    """A point and where it goes."""

    point: ExportPoint
    out: Path
    replace: bool = False  # an earlier export of that name
    run: Path | None = None  # the folder whose scores the model card shows
    shard_bytes: int = SHARD_BYTES


def is_local(checkpoint: Checkpoint) -> bool:
    return checkpoint.folder == Path(checkpoint.name)  # the folder of a Hub id is in the Hub's cache


def public_name(checkpoint: Checkpoint) -> str:
    """A whole Hub id, or the last two parts of a local path, which say nothing about this machine."""
    if not is_local(checkpoint):
        return checkpoint.name
    path = checkpoint.folder.resolve()
    return "/".join(part for part in path.parts[-2:] if part != path.anchor)
