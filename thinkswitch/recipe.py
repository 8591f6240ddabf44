"""A checkpoint is a recipe: for every tensor a handful of scalars over a fixed basis.

    W(point) = c_I * W_instruct + c_T * W_thinking + sum_j c_j * dW_j        dW_j = scale_j * B_j @ A_j

A `Recipe` maps a tensor's name to (c_I, c_T, c_1, ...); coefficients left off at the end are zero. With the Gram
matrix of {W_I, W_T, dW_1, ...} per tensor, the angle and the SLERP of any two points is arithmetic on scalars: no
weights are read. SLERP is mergekit's: the whole flattened tensor, LERP where |cos| > 0.9995.
"""

import math
import re
from dataclasses import dataclass

Coefficients = tuple[float, ...]
Recipe = dict[str, Coefficients]
Gram = dict[str, list[list[float]]]  # per tensor, (k, k), symmetric
INSTRUCT, THINKING = (1.0, 0.0), (0.0, 1.0)
LERP_ABOVE = 0.9995  # mergekit's DOT_THRESHOLD
BF16_ROUNDING = 2**-9  # largest relative error of one rounding to bf16's 8 bits


@dataclass(frozen=True)
class Schedule:
    """Multipliers of t: one per module kind, and a curve from the first to the last layer (the product is cut to 0..1)."""

    attention: float = 1.0
    mlp: float = 1.0
    norm: float = 1.0
    embedding: float = 1.0  # and the output head
    depth: tuple[float, ...] = (1.0,)  # interpolated over the layers, as mergekit's gradients


def uniform_recipe(names: list[str], coefficients: Coefficients) -> Recipe:
    return dict.fromkeys(names, coefficients)


def instruct_point(names: list[str], rounds: int) -> Recipe:
    """The instruct checkpoint after some rounds: its base and every adapter so far."""
    return uniform_recipe(names, INSTRUCT + (1.0,) * rounds)


def remap_adapters(recipe: Recipe, places: list[int]) -> Recipe:
    """The same point in a basis where adapter j stands at `places[j]`: one live blend serves many runs."""
    def one(c: Coefficients) -> Coefficients:
        wide = [*c[:2], *[0.0] * (1 + max(places, default=-1))]
        for at, x in zip(places, c[2:]):
            wide[2 + at] = x
        return tuple(wide)
    distinct = {c: one(c) for c in set(recipe.values())}
    return {name: distinct[c] for name, c in recipe.items()}


def interpolate(gram: Gram, a: Recipe, b: Recipe, t: float, schedule: Schedule = Schedule()) -> Recipe:
    """The point at t on the way from `a` (0) to `b` (1), tensor by tensor."""
    depth = count_layers(gram)
    return {name: slerp(gram[name], a[name], b[name], scheduled_t(name, t, schedule, depth)) for name in gram}


def slerp(gram: list[list[float]], p: Coefficients, q: Coefficients, t: float) -> Coefficients:
    """Spherical interpolation of two points of one tensor, in closed form."""
    s0, s1 = slerp_coefficients(cosine(gram, p, q), t)
    p, q = _pad(p, len(gram)), _pad(q, len(gram))
    return tuple(s0 * x + s1 * y for x, y in zip(p, q))


def slerp_coefficients(cos: float, t: float) -> tuple[float, float]:
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
    s0, s1 = slerp_coefficients(cosine(gram, p, q), t)
    p, q = _pad(p, len(gram)), _pad(q, len(gram))
    lerp = tuple((1 - t) * x + t * y for x, y in zip(p, q))
    apart = tuple((s0 - (1 - t)) * x + (s1 - t) * y for x, y in zip(p, q))
    norm = inner(gram, lerp, lerp)
    return math.sqrt(max(0.0, inner(gram, apart, apart)) / norm) if norm > 0 else 0.0


def inner(gram: list[list[float]], p: Coefficients, q: Coefficients) -> float:
    return math.fsum(x * y * gram[i][j] for i, x in enumerate(p) if x for j, y in enumerate(q) if y)


def _pad(p: Coefficients, k: int) -> Coefficients:
    return tuple(p) + (0.0,) * (k - len(p))


def module_kind(name: str) -> str:
    """attention | mlp | norm | embedding, from a tensor's name."""
    if "norm" in name:
        return "norm"
    return "attention" if ".self_attn." in name else "mlp" if ".mlp." in name else "embedding"


def layer_of(name: str) -> int | None:
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def count_layers(names) -> int:
    return 1 + max((layer_of(n) or 0 for n in names), default=0)


def scheduled_t(name: str, t: float, schedule: Schedule, depth: int) -> float:
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
