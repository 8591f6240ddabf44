"""What is exported: a point of a round, in a form, to a folder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from thinkswitch.export.gguf_kinds import BASE, LORAS
from thinkswitch.preset import Preset
from thinkswitch.recipe import INSTRUCT, Coefficients, Recipe, Schedule, difference, uniform_recipe
from thinkswitch.rounds import Round
from thinkswitch.weights.adapted import AdaptedCheckpoint
from thinkswitch.weights.adapter import Adapter
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.offload import LARGE_BYTES
from thinkswitch.weights.pair import Pair

SHARD_BYTES = 5_000_000_000  # the largest file of weights, as other libraries write them
ROUNDING = 1e-9  # of the arithmetic of coefficients


@dataclass(frozen=True)
class Update:
    """An adapter that takes part in a point."""

    side: int  # which coefficient of a recipe is its
    adapter: Adapter

    def factor(self, coefficients: Coefficients) -> float:
        return coefficients[self.side] if self.side < len(coefficients) else 0.0  # those left off are zero


@dataclass(frozen=True)
class ExportPoint:
    """A point of a round: as a checkpoint, a LoRA adapter for the instruct checkpoint, or GGUF files."""

    pair: Pair
    round: Round
    t: float  # 0 instruct, 1 thinking
    schedule: Schedule
    preset: Preset
    adapter: bool = False
    gguf: tuple[str, ...] = ()  # kinds of GGUF files, see gguf_kinds.KINDS; empty: none

    @cached_property
    def recipe(self) -> Recipe:
        return self.round.point(self.t, self.schedule)

    @property
    def lora(self) -> str:
        """The kind of the LoRA among the GGUF files; empty: there is none."""
        return next((kind for kind in self.gguf if kind in LORAS), "")

    @property
    def whole_kinds(self) -> tuple[str, ...]:
        """The kinds of the GGUF files with all weights."""
        whole = tuple(kind for kind in self.gguf if kind not in LORAS)
        return whole or ((BASE,) if self.lora else ())

    @cached_property
    def origin(self) -> Recipe:
        """What `updates` are added to: the instruct checkpoint.

        A LoRA in GGUF is the way from the round's instruct point, so that its scale is the slider. To that
        point itself it is the way from the instruct checkpoint.
        """
        if self.lora and self.t:
            return self.round.instruct
        return uniform_recipe(self.pair.names, INSTRUCT)

    @cached_property
    def change(self) -> Recipe:
        """The point less `origin`."""
        return difference(self.recipe, self.origin)

    @property
    def template(self) -> str:
        """instruct | thinking: the checkpoint whose tokenizer and chat template are exported."""
        if self.t == 0:
            return "instruct"
        if self.t == 1 and not self.lora:  # which is of all t between
            return "thinking"
        return self.preset.template

    @property
    def template_source(self) -> Checkpoint:
        return self.pair.instruct if self.template == "instruct" else self.pair.thinking

    @cached_property
    def updates(self) -> list[Update]:
        """The adapters whose sum, added to `origin`, is the point; see `is_update`."""
        sides = list(enumerate(self.round.adapters, 2))
        if self.pair.update and self.pair.update.low_rank:  # W_thinking = W_instruct + update
            sides.insert(0, (1, self.pair.update))
        used = {
            side
            for coefficients in self.change.values()
            for side, c in enumerate(coefficients)
            if abs(c) > ROUNDING
        }
        return [Update(side, adapter) for side, adapter in sides if side in used]

    @property
    def is_update(self) -> bool:
        """Whether the point is `origin` plus `updates` in every tensor.

        Between instruct and an adapter on it that holds where SLERP is LERP; on an arc the coefficients of
        the two add up to more than 1.
        """
        if not self.pair.update and any(thinking for _, thinking, *_ in self.recipe.values()):
            return False
        shares = [instruct + thinking for instruct, thinking, *_ in self.recipe.values()]
        return bool(self.updates) and all(abs(share - 1) <= ROUNDING for share in shares)

    @property
    def ranks(self) -> list[int]:
        return [max(len(a) for a, _ in update.adapter.low_rank.values()) for update in self.updates]

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
    """A whole Hub id, or the last two parts of a local path, which say nothing about this machine.

    With an adapter both names, joined as mergekit does.
    """
    if isinstance(checkpoint, AdaptedCheckpoint):
        return f"{public_name(checkpoint.base)}+{own_name(checkpoint)}"
    return own_name(checkpoint)


def own_name(checkpoint: Checkpoint) -> str:
    if not is_local(checkpoint):
        return checkpoint.name
    path = checkpoint.folder.resolve()
    return "/".join(part for part in path.parts[-2:] if part != path.anchor)
