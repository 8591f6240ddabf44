"""A round: its two checkpoints as recipes, and its files.

rounds/R/{samples.jsonl, adapter/, recipe.json, scores.jsonl}    round 0: recipe.json and scores.jsonl only
"""

import json
import logging
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from thinkswitch import json_text, runs
from thinkswitch.errors import UserError, first_line, quote
from thinkswitch.evaluate import Score, compare_scores, summarise
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

logger = logging.getLogger(__name__)

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Round:
    """The two checkpoints after a round, and all it takes to reach any point between them."""

    number: int
    adapters: list[Adapter]  # of rounds 1 to `number`
    instruct: Recipe
    thinking: Recipe
    gram: Gram

    def point(self, t: float, schedule: Schedule = Schedule()) -> Recipe:
        """From instruct (t = 0) to thinking (t = 1)."""
        return interpolate(self.gram, self.instruct, self.thinking, t, schedule)


def start(pair: Pair) -> Round:
    """Round 0: the pair as it came."""
    instruct = uniform_recipe(pair.names, INSTRUCT)
    thinking = uniform_recipe(pair.names, THINKING)
    return Round(0, [], instruct, thinking, base_gram(pair))


def rebuild(pair: Pair, before: Round, adapter: Adapter, t: float, anchor: str, schedule: Schedule) -> Round:
    """The next round: instruct gains `adapter`, and thinking = SLERP(new instruct, anchor; t)."""
    adapters = [*before.adapters, adapter]
    gram = extend_gram(before.gram, pair, adapters)
    instruct = instruct_point(pair.names, len(adapters))
    end = before.thinking if anchor == "previous" else uniform_recipe(pair.names, THINKING)
    thinking = interpolate(gram, instruct, end, t, schedule)
    return Round(before.number + 1, adapters, instruct, thinking, gram)


# ---- files


def is_written(folder: Path, number: int) -> bool:
    """Whether the recipe of a round is there and whole; one that a power failure took is made again."""
    path = runs.round_dir(folder, number) / "recipe.json"
    try:
        return isinstance(json_text.read(path), dict)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); move it away, then resume") from None
    except ValueError:
        logger.warning("%s is damaged, as a power failure leaves it; it is made again", path)
        return False


def has_adapter(folder: Path) -> bool:
    """Whether a round's adapter is there and whole; that of the last round is trained again if it is not."""
    adapter = folder / "adapter"
    if not adapter.is_dir():
        return False
    try:
        load_adapter(adapter)
    except (UserError, *DAMAGE) as error:
        if (folder.with_name(str(int(folder.name) + 1)) / "adapter").is_dir():
            problem = f"{adapter} is damaged ({first_line(error)}), and later rounds build on it"
            raise UserError(f"{problem}; copy it back from elsewhere, or run again") from None
        logger.warning("%s is damaged, as a power failure leaves it; it is trained again", adapter)
        return False
    return True


def write(folder: Path, state: Round) -> None:
    """recipe.json of a round. Its adapter is there already."""
    data = {"round": state.number, "instruct": state.instruct, "thinking": state.thinking, "gram": state.gram}
    runs.write_atomic(runs.round_dir(folder, state.number) / "recipe.json", json.dumps(data))


def read(folder: Path, number: int) -> Round:
    """A round of a run, from its recipe and all adapters up to it."""
    path = runs.round_dir(folder, number) / "recipe.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has no round {number}; the last finished one is {runs.rounds_done(folder)}"
        )
    try:
        data = json_text.read(path)
        instruct = {name: tuple(c) for name, c in data["instruct"].items()}
        thinking = {name: tuple(c) for name, c in data["thinking"].items()}
        refuse_odd_numbers(instruct, thinking, data["gram"], 2 + number)
        adapters = [load_adapter(runs.round_dir(folder, r) / "adapter") for r in range(1, number + 1)]
        return Round(number, adapters, instruct, thinking, data["gram"])
    except UserError as error:
        reason = str(error).partition("; ")[0]  # its advice is for a published adapter
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
    raise UserError(f"round {number} of {folder} is damaged ({reason}); use an earlier round, or run again")


def refuse_odd_numbers(instruct: Recipe, thinking: Recipe, gram: Gram, width: int) -> None:
    """ValueError unless both recipes and the Gram matrices are finite numbers over one basis of `width`."""
    if not instruct.keys() == thinking.keys() == gram.keys():
        raise ValueError("its recipes and Gram matrices are of different tensors")
    for name, rows in gram.items():
        is_square = len(rows) == width and all(len(row) == width for row in rows)
        fits = is_square and max(len(instruct[name]), len(thinking[name])) <= width
        numbers = [*instruct[name], *thinking[name], *(x for row in rows for x in row)]
        if not fits or not all(isinstance(x, float | int) and math.isfinite(x) for x in numbers):
            raise ValueError(f"the numbers of {quote(name)} are no recipe of {width} parts")


def read_last(folder: Path, pair: Pair) -> Round:
    """The last round that can be read; the pair as it came where there is none yet."""
    for number in runs.rounds_written(folder):
        try:
            return read(folder, number)
        except UserError as error:
            logger.warning("%s; round %d is used", str(error).partition(";")[0], max(0, number - 1))
    return start(pair)


def append_score(folder: Path, number: int, role: str, score: Score) -> None:
    """One line of scores.jsonl: how `role` (instruct | thinking) answered one held-out problem."""
    runs.append(runs.round_dir(folder, number) / "scores.jsonl", {"checkpoint": role, **asdict(score)})


def read_scores(folder: Path, number: int, role: str) -> dict[int, Score]:
    """The scores of one checkpoint, by question."""
    scores = {}
    for line in runs.read_scores(runs.round_dir(folder, number) / "scores.jsonl"):
        if line["checkpoint"] == role:
            scores[line["question"]] = Score(**{field.name: line[field.name] for field in fields(Score)})
    return scores


def score_figures(role: str, scores: dict[int, Score], at_start: dict[int, Score]) -> dict:
    """What an event says of the questions answered so far, compared with the same questions in round 0."""
    figures: dict = {"checkpoint": role}
    if scores:
        figures |= asdict(summarise(list(scores.values())))
    both = [q for q in scores if q in at_start]  # a line of round 0 may have been taken out by hand
    if both:
        compared = compare_scores([at_start[q] for q in both], [scores[q] for q in both])
        figures["since_start"] = asdict(compared)
    return figures
