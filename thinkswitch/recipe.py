"""A checkpoint is a recipe: for every tensor a handful of scalars over a fixed basis.

    W(point) = c_I * W_instruct + c_T * W_thinking + sum_j c_j * dW_j        dW_j = scale_j * B_j @ A_j

A `Recipe` maps a tensor's name to (c_I, c_T, c_1, ...); coefficients left off at the end are zero. With the Gram
matrix of {W_I, W_T, dW_1, ...} per tensor, the angle and the SLERP of any two points is arithmetic on scalars: no
weights are read. SLERP is mergekit's: the whole flattened tensor, LERP where |cos| > 0.9995.
"""

import json
import math
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from . import runs
from .errors import UserError
from .pair import Pair
from .preset import Schedule

Coefficients = tuple[float, ...]
Recipe = dict[str, Coefficients]
Gram = dict[str, list[list[float]]]  # per tensor, (k, k), symmetric

INSTRUCT, THINKING = (1.0, 0.0), (0.0, 1.0)
LERP_ABOVE = 0.9995  # mergekit's DOT_THRESHOLD
CHUNK = 1 << 19  # elements of a tensor multiplied at once: in a core's cache
BF16_ROUNDING = 2**-9  # largest relative error of one rounding to bf16's 8 bits


@dataclass(frozen=True)
class Adapter:
    """A LoRA update: per tensor name, A (rank, in) and B (out, rank) in float32, scale already in B."""

    low_rank: dict[str, tuple[torch.Tensor, torch.Tensor]]

    def delta(self, name: str) -> torch.Tensor:
        a, b = self.low_rank[name]
        return b @ a


def load_adapter(folder: Path) -> Adapter:
    """From a folder in PEFT's format (adapter_config.json, adapter_model.safetensors)."""
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("use_dora") or config.get("rank_pattern") or config.get("alpha_pattern") or config.get("bias", "none") != "none":
        raise UserError(f"{folder} is not a plain LoRA adapter (DoRA, biases or per-layer ranks); a recipe cannot hold it")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    low_rank = {}
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        for key in sorted(file.keys()):
            if key.endswith(".lora_A.weight"):
                name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
                b = file.get_tensor(key.replace(".lora_A.", ".lora_B.")).float()
                low_rank[name] = (file.get_tensor(key).float(), b * scale)
    return Adapter(low_rank)


# ---- points


def constant(names: list[str], coefficients: Coefficients) -> Recipe:
    return dict.fromkeys(names, coefficients)


def instruct_point(names: list[str], rounds: int) -> Recipe:
    """The instruct checkpoint after some rounds: its base and every adapter so far."""
    return constant(names, INSTRUCT + (1.0,) * rounds)


def moved(recipe: Recipe, places: list[int]) -> Recipe:
    """The same point in a basis where adapter j stands at `places[j]`: one live blend serves many runs."""
    def one(c: Coefficients) -> Coefficients:
        wide = [*c[:2], *[0.0] * (1 + max(places, default=-1))]
        for at, x in zip(places, c[2:]):
            wide[2 + at] = x
        return tuple(wide)
    distinct = {c: one(c) for c in set(recipe.values())}
    return {name: distinct[c] for name, c in recipe.items()}


def between(gram: Gram, a: Recipe, b: Recipe, t: float, schedule: Schedule = Schedule()) -> Recipe:
    """The point at t on the way from `a` (0) to `b` (1), tensor by tensor."""
    depth = layers(gram)
    return {name: slerp(gram[name], a[name], b[name], scheduled(name, t, schedule, depth)) for name in gram}


def slerp(gram: list[list[float]], p: Coefficients, q: Coefficients, t: float) -> Coefficients:
    """Spherical interpolation of two points of one tensor, in closed form."""
    s0, s1 = weights(cosine(gram, p, q), t)
    p, q = _pad(p, len(gram)), _pad(q, len(gram))
    return tuple(s0 * x + s1 * y for x, y in zip(p, q))


def weights(cos: float, t: float) -> tuple[float, float]:
    """The two coefficients of SLERP, or of LERP where the angle is too small (or too near pi) for it."""
    if t == 0 or t == 1 or abs(cos) > LERP_ABOVE:
        return 1.0 - t, float(t)
    theta = math.acos(cos)
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


def cosine(gram: list[list[float]], p: Coefficients, q: Coefficients) -> float:
    """cos of the angle between two points of one tensor; 1 where one of them is zero (so LERP)."""
    norms = math.sqrt(max(0.0, inner(gram, p, p)) * max(0.0, inner(gram, q, q)))
    return max(-1.0, min(1.0, inner(gram, p, q) / norms)) if norms > 0 else 1.0


def degrees(cos: float) -> float:
    return math.degrees(math.acos(cos))


def slerp_gap(gram: list[list[float]], p: Coefficients, q: Coefficients, t: float = 0.5) -> float:
    """How far SLERP and LERP lie apart: ||slerp - lerp|| / ||lerp|| of one tensor. bf16 alone rounds at BF16_ROUNDING."""
    s0, s1 = weights(cosine(gram, p, q), t)
    p, q = _pad(p, len(gram)), _pad(q, len(gram))
    lerp = tuple((1 - t) * x + t * y for x, y in zip(p, q))
    apart = tuple((s0 - (1 - t)) * x + (s1 - t) * y for x, y in zip(p, q))
    norm = inner(gram, lerp, lerp)
    return math.sqrt(max(0.0, inner(gram, apart, apart)) / norm) if norm > 0 else 0.0


def inner(gram: list[list[float]], p: Coefficients, q: Coefficients) -> float:
    return math.fsum(x * y * gram[i][j] for i, x in enumerate(p) if x for j, y in enumerate(q) if y)


def _pad(p: Coefficients, k: int) -> Coefficients:
    return tuple(p) + (0.0,) * (k - len(p))


# ---- schedules


def module_kind(name: str) -> str:
    """attention | mlp | norm | embedding, from a tensor's name."""
    if "norm" in name:
        return "norm"
    return "attention" if ".self_attn." in name else "mlp" if ".mlp." in name else "embedding"


def layer_of(name: str) -> int | None:
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def layers(names) -> int:
    return 1 + max((layer_of(n) or 0 for n in names), default=0)


def scheduled(name: str, t: float, schedule: Schedule, depth: int) -> float:
    """t for one tensor. Depth multipliers are spread evenly over the layers; other tensors have no depth."""
    factor = getattr(schedule, module_kind(name))
    layer = layer_of(name)
    if layer is not None:
        place = layer / max(1, depth - 1) * (len(schedule.depth) - 1)
        low = min(int(place), len(schedule.depth) - 1)
        high = min(low + 1, len(schedule.depth) - 1)
        factor *= schedule.depth[low] + (place - low) * (schedule.depth[high] - schedule.depth[low])
    return min(1.0, max(0.0, t * factor))


def ablations(layers: int) -> dict[str, Schedule]:
    """Schedules that Wu et al. (arXiv 2510.10977, figure 5 and table 3) report on; what they leave out stays instruct."""
    first = round(layers / 3)
    return {
        "uniform": Schedule(),
        "FFN only": Schedule(attention=0, norm=0, embedding=0),
        "attention only": Schedule(mlp=0, norm=0, embedding=0),
        "last two thirds": Schedule(embedding=0, depth=(0.0,) * first + (1.0,) * (layers - first)),
    }


# ---- Gram matrices


def base_gram(pair: Pair) -> Gram:
    """One streaming pass over both checkpoints; memory is a few blocks of each.

    Backwards: where both are larger than the system's cache, it then holds the first layers, which whoever reads next begins with.
    """
    def one(name: str) -> list[list[float]]:
        step = max(1, CHUNK // math.prod(pair.instruct.entries[name].shape[1:]))
        ii, it, tt = dots(zip(pair.instruct.stream(name, step), pair.thinking.stream(name, step)))
        return [[ii, it], [it, tt]]

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as hands:  # whole tensors side by side: torch's own threads split work too fine
        names = pair.names[::-1]
        return dict(zip(names, hands.map(one, names)))


def extend_gram(gram: Gram, pair: Pair, adapters: list[Adapter]) -> Gram:
    """The Gram matrices with the last of `adapters` added; `gram` covers the ones before it.

    <W, BA> = sum((B^T W) * A) and <B1 A1, B2 A2> = sum((B1^T B2) * (A1 A2^T)): the update is never formed.
    """
    *earlier, new = adapters
    grown = {}
    for name, matrix in gram.items():
        row = [0.0] * (len(matrix) + 1)
        if name in new.low_rank:
            a, b = (x.double() for x in new.low_rank[name])
            for i, side in enumerate((pair.instruct, pair.thinking)):
                row[i] = float(((b.T.float() @ side.tensor(name).float()).double() * a).sum())
            for j, old in enumerate(earlier):
                if name in old.low_rank:
                    a2, b2 = (x.double() for x in old.low_rank[name])
                    row[2 + j] = float(((b2.T @ b) * (a2 @ a.T)).sum())
            row[-1] = float(((b.T @ b) * (a @ a.T)).sum())
        grown[name] = [[*old_row, row[i]] for i, old_row in enumerate(matrix)] + [row]
    return grown


def dots(blocks: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float, float]:
    """(x.x, x.y, y.y) of two whole tensors that come in blocks of rows: pieces of a row are summed in float32, such sums in float64.

    Within 1e-7 of float64 throughout, and tens of times faster. Few calls: threads that work side by side wait for Python at each.
    """
    parts, product = ([], [], []), None
    for x, y in blocks:
        if x.numel() < CHUNK // 2:  # costs nothing
            x, y = x.double(), y.double()
        piece = 512 if x.shape[-1] % 512 == 0 else x.shape[-1]
        x, y = x.view(-1, piece), y.view(-1, piece)
        product = product if product is not None and product.shape == x.shape and product.dtype == x.dtype else torch.empty_like(x)
        for part, (p, q) in zip(parts, ((x, x), (x, y), (y, y))):
            part.append(torch.mul(p, q, out=product).sum(1))
    return tuple(float(torch.cat([sums.double() for sums in part]).sum()) for part in parts)


# ---- a round as plain data


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
        return between(self.gram, self.instruct, self.thinking, t, schedule)


def start(pair: Pair) -> Round:
    """Round 0: the pair as it came."""
    return Round(0, [], constant(pair.names, INSTRUCT), constant(pair.names, THINKING), base_gram(pair))


def rebuild(pair: Pair, before: Round, adapter: Adapter, t: float, anchor: str, schedule: Schedule) -> Round:
    """The next round: instruct has learnt `adapter`, thinking = SLERP(new instruct, anchor; t)."""
    adapters = [*before.adapters, adapter]
    gram = extend_gram(before.gram, pair, adapters)
    instruct = instruct_point(pair.names, len(adapters))
    end = before.thinking if anchor == "previous" else constant(pair.names, THINKING)
    return Round(before.number + 1, adapters, instruct, between(gram, instruct, end, t, schedule), gram)


def write_round(folder: Path, round: Round) -> None:
    data = dict(round=round.number, instruct=round.instruct, thinking=round.thinking, gram=round.gram)
    runs.write(runs.round_dir(folder, round.number) / "recipe.json", json.dumps(data))


def read_round(folder: Path, number: int) -> Round:
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
