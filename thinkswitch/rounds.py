"""A round: two checkpoints as recipes, and what it takes to reach any point between them."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.recipe import (
    INSTRUCT,
    THINKING,
    Gram,
    Recipe,
    Schedule,
    instruct_point,
    interpolate,
    uniform_recipe,
)
from thinkswitch.weights.adapter import Adapter, load_adapter
from thinkswitch.weights.gram import base_gram, extend_gram
from thinkswitch.weights.pair import Pair


@dataclass(frozen=True)
class Round:
    """The two checkpoints after a round, and what it takes to reach any point between them."""

    number: int
    adapters: list[Adapter]
    instruct: Recipe
    thinking: Recipe
    gram: Gram

    def point(self, t: float, schedule: Schedule = Schedule()) -> Recipe:
        """From instruct (0) to thinking (1)."""
        return interpolate(self.gram, self.instruct, self.thinking, t, schedule)


def start(pair: Pair) -> Round:
    """Round 0: the pair as it came."""
    return Round(0, [], uniform_recipe(pair.names, INSTRUCT), uniform_recipe(pair.names, THINKING), base_gram(pair))


def rebuild(pair: Pair, before: Round, adapter: Adapter, t: float, anchor: str, schedule: Schedule) -> Round:
    """The next round: instruct has learnt `adapter`, thinking = SLERP(new instruct, anchor; t)."""
    adapters = [*before.adapters, adapter]
    gram = extend_gram(before.gram, pair, adapters)
    instruct = instruct_point(pair.names, len(adapters))
    end = before.thinking if anchor == "previous" else uniform_recipe(pair.names, THINKING)
    return Round(before.number + 1, adapters, instruct, interpolate(gram, instruct, end, t, schedule), gram)


def write(folder: Path, round: Round) -> None:
    data = dict(round=round.number, instruct=round.instruct, thinking=round.thinking, gram=round.gram)
    runs.write_atomic(runs.round_dir(folder, round.number) / "recipe.json", json.dumps(data))


def read(folder: Path, number: int) -> Round:
    """A round of a run, from its recipe and the adapters up to it."""
    path = runs.round_dir(folder, number) / "recipe.json"
    if not path.is_file():
        raise UserError(f"{folder} has no round {number}; the last one finished is {runs.rounds_done(folder)}")
    try:
        data = json.loads(path.read_text())
        points = {k: {n: tuple(c) for n, c in data[k].items()} for k in ("instruct", "thinking")}
        adapters = [load_adapter(runs.round_dir(folder, r) / "adapter") for r in range(1, number + 1)]
        return Round(number, adapters, **points, gram=data["gram"])
    except (FileNotFoundError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"round {number} of {folder} is damaged ({type(error).__name__}: {error}); use an earlier round, or run again") from None
