"""A checkpoint is a recipe: for each tensor, a few scalars over a fixed basis.

    W(point) = c_I * W_instruct + c_T * W_thinking + sum_j c_j * dW_j        dW_j = scale_j * B_j @ A_j

A `Recipe` maps a tensor's name to (c_I, c_T, c_1, ...). Coefficients missing at the end are zero.

Given the Gram matrix of {W_I, W_T, dW_1, ...} for a tensor, the angle between any two points and their SLERP
follow from scalars alone; no weights are read. SLERP is mergekit's: over the whole flattened tensor, and LERP
where |cos| > 0.9995.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

Coefficients = tuple[float, ...]
Recipe = dict[str, Coefficients]
TensorGram = list[list[float]]  # (k, k), symmetric: scalar products of the k basis tensors
Gram = dict[str, TensorGram]

INSTRUCT: Coefficients = (1.0, 0.0)
THINKING: Coefficients = (0.0, 1.0)
LERP_ABOVE = 0.9995  # mergekit's DOT_THRESHOLD
BF16_ROUNDING = 2**-9  # largest relative error of rounding once to bf16 (8 significant bits)


@dataclass(frozen=True)
class Schedule:
    """Multipliers of t by module kind and over depth. The product with t is clamped to 0..1."""

    attention: float = 1.0
    mlp: float = 1.0
    norm: float = 1.0
    embedding: float = 1.0  # also the output head
    depth: tuple[float, ...] = (1.0,)  # first to last layer, interpolated like mergekit's gradients


# ---- points


def uniform_recipe(names: Iterable[str], coefficients: Coefficients) -> Recipe:
    """The same coefficients for every tensor."""
    return dict.fromkeys(names, coefficients)


def instruct_point(names: Iterable[str], adapter_count: int) -> Recipe:
    """The instruct checkpoint after some rounds: its base weights plus every adapter so far."""
    return uniform_recipe(names, INSTRUCT + (1.0,) * adapter_count)


def remap_adapters(recipe: Recipe, slots: list[int]) -> Recipe:
    """The same point in a basis that holds adapter j in slot `slots[j]`. One live blend serves many runs."""
    width = 1 + max(slots, default=-1)

    def remap(coefficients: Coefficients) -> Coefficients:
        adapters = [0.0] * width
        for j, c in enumerate(coefficients[2:]):  # missing ones are zero
            adapters[slots[j]] = c
        return (*coefficients[:2], *adapters)

    remapped = {coefficients: remap(coefficients) for coefficients in set(recipe.values())}
    return {name: remapped[coefficients] for name, coefficients in recipe.items()}


def interpolate(gram: Gram, a: Recipe, b: Recipe, t: float, schedule: Schedule = Schedule()) -> Recipe:
    """The point at t on the way from `a` (t = 0) to `b` (t = 1), by SLERP tensor by tensor."""
    layers = count_layers(gram)
    return {
        name: slerp(gram[name], a[name], b[name], scheduled_t(name, t, schedule, layers)) for name in gram
    }


def difference(a: Recipe, b: Recipe) -> Recipe:
    """What has to be added to `b` to come to `a`."""
    return mixed(b, a, -1.0, 1.0)


def straight(a: Recipe, b: Recipe, share: float) -> Recipe:
    """The point at `share` (0 to 1) of the straight way from `a` to `b`, in every tensor."""
    return mixed(a, b, 1.0 - share, share)


def mixed(a: Recipe, b: Recipe, at_a: float, at_b: float) -> Recipe:
    def mix(p: Coefficients, q: Coefficients) -> Coefficients:
        width = max(len(p), len(q))
        return tuple(at_a * x + at_b * y for x, y in zip(_pad(p, width), _pad(q, width), strict=True))

    return {name: mix(p, b[name]) for name, p in a.items()}


# ---- one tensor


def slerp(gram: TensorGram, p: Coefficients, q: Coefficients, t: float) -> Coefficients:
    """Spherical interpolation of two points of one tensor, in closed form."""
    at_p, at_q = slerp_coefficients(cosine(gram, p, q), t)
    p = _pad(p, len(gram))
    q = _pad(q, len(gram))
    return tuple(at_p * x + at_q * y for x, y in zip(p, q, strict=True))


def slerp_coefficients(cos: float, t: float) -> tuple[float, float]:
    """The weights of the two ends: SLERP's, or LERP's where the angle is close to 0 or pi."""
    if t in (0, 1) or abs(cos) > LERP_ABOVE:
        return 1.0 - t, float(t)
    theta = math.acos(cos)
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


def slerp_gap(gram: TensorGram, p: Coefficients, q: Coefficients, t: float = 0.5) -> float:
    """||slerp - lerp|| / ||lerp||: how far the two lie apart. Compare it with BF16_ROUNDING."""
    at_p, at_q = slerp_coefficients(cosine(gram, p, q), t)
    p = _pad(p, len(gram))
    q = _pad(q, len(gram))
    lerp = tuple((1 - t) * x + t * y for x, y in zip(p, q, strict=True))
    gap = tuple((at_p - (1 - t)) * x + (at_q - t) * y for x, y in zip(p, q, strict=True))
    squared_norm = inner(gram, lerp, lerp)
    if squared_norm <= 0:
        return 0.0
    return math.sqrt(max(0.0, inner(gram, gap, gap)) / squared_norm)


def cosine(gram: TensorGram, p: Coefficients, q: Coefficients) -> float:
    """Cosine of the angle between two points of one tensor. 1 where one of them is zero, which means LERP."""
    norms = math.sqrt(max(0.0, inner(gram, p, p)) * max(0.0, inner(gram, q, q)))
    if norms == 0:
        return 1.0
    return max(-1.0, min(1.0, inner(gram, p, q) / norms))


def degrees(cos: float) -> float:
    return math.degrees(math.acos(cos))


def inner(gram: TensorGram, p: Coefficients, q: Coefficients) -> float:
    """Scalar product of two points of one tensor."""
    return math.fsum(x * y * gram[i][j] for i, x in enumerate(p) if x for j, y in enumerate(q) if y)


def _pad(p: Coefficients, width: int) -> Coefficients:
    return p + (0.0,) * (width - len(p))


# ---- schedules


def module_kind(name: str) -> str:
    """attention | mlp | norm | embedding, from a tensor's name.

    LFM2 has convolutions in the place of some attentions: both mix the tokens.
    """
    if "norm" in name:
        return "norm"
    if ".self_attn." in name or ".conv." in name:
        return "attention"
    if ".mlp." in name or ".feed_forward." in name:
        return "mlp"
    return "embedding"


def layer_of(name: str) -> int | None:
    """Index of the layer a tensor belongs to. None for embeddings, the last norm and the head."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def count_layers(names: Iterable[str]) -> int:
    return 1 + max((layer_of(name) or 0 for name in names), default=0)


def scheduled_t(name: str, t: float, schedule: Schedule, layers: int) -> float:
    """t for one tensor. Tensors outside the layers ignore the depth curve."""
    factor = getattr(schedule, module_kind(name))
    layer = layer_of(name)
    if layer is not None:
        factor *= _curve(schedule.depth, layer / max(1, layers - 1))
    return min(1.0, max(0.0, t * factor))


def _curve(values: tuple[float, ...], position: float) -> float:
    """Linear interpolation over evenly spaced values, at `position` in 0..1."""
    last = len(values) - 1
    x = position * last
    low = min(int(x), last)
    high = min(low + 1, last)
    return values[low] + (x - low) * (values[high] - values[low])


def ablations(layers: int) -> dict[str, Schedule]:
    """Schedules of Wu et al. (arXiv 2510.10977, figure 5 and table 3). What they leave out keeps t = 0."""
    first_third = round(layers / 3)
    return {
        "uniform": Schedule(),
        "FFN only": Schedule(attention=0, norm=0, embedding=0),
        "attention only": Schedule(mlp=0, norm=0, embedding=0),
        "last two thirds": Schedule(
            embedding=0, depth=(0.0,) * first_third + (1.0,) * (layers - first_third)
        ),
    }
