"""Heat maps of one value per tensor: modules across, layers down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from thinkswitch import recipe
from thinkswitch.recipe import Schedule
from ui.widgets import charts, html
from ui.widgets.theme import INSTRUCT, THINKING

if TYPE_CHECKING:
    from thinkswitch.rounds import Round


def angles(round_: Round) -> tuple[str, Markup]:
    """The angle between instruct and thinking per tensor as a chart, and what follows for SLERP in words."""
    a, b, gram = round_.instruct, round_.thinking, round_.gram
    cosines = {name: recipe.cosine(gram[name], a[name], b[name]) for name in gram}
    gaps = {name: recipe.slerp_gap(gram[name], a[name], b[name]) for name in gram}
    degrees = {name: recipe.degrees(cosine) for name, cosine in cosines.items()}
    columns, rows = grid(degrees)
    scale = [[0, charts.rgba(INSTRUCT, 0.06)], [1, INSTRUCT]]
    chart = charts.heatmap("Angle between instruct and thinking", columns, rows, "°", scale, zmin=0)
    return chart, _verdict(cosines, gaps, degrees)


def _verdict(cosines: dict[str, float], gaps: dict[str, float], degrees: dict[str, float]) -> Markup:
    visible = sum(gap > recipe.BF16_ROUNDING for gap in gaps.values())
    lerped = sum(cosine > recipe.LERP_ABOVE for cosine in cosines.values())
    worst = max(gaps, key=gaps.__getitem__)
    rounding = f"bf16 rounding ({recipe.BF16_ROUNDING:.1e})"
    text = f"SLERP and LERP differ by less than {rounding} in every tensor: either will do."
    if visible:
        text = f"SLERP and LERP differ by more than {rounding} in {visible} of {len(gaps)} tensors."
    more = html.quiet(
        f"The largest difference at t = 0.5 is {gaps[worst]:.1e} of the norm, in {worst}. "
        f"Angles range from {min(degrees.values()):.2f}° to {max(degrees.values()):.2f}°. "
        f"{lerped} of {len(gaps)} tensors are so close that LERP is used for them, as mergekit does."
    )
    return Markup("{} {}").format(text, more)


def scheduled(names: list[str], schedule: Schedule, t: float) -> str:
    """The t that each tensor gets when the slider stands at `t`."""
    layers = recipe.count_layers(names)
    columns, rows = grid({name: recipe.scheduled_t(name, t, schedule, layers) for name in names})
    scale = [[0, INSTRUCT], [1, THINKING]]
    title = f"t of each tensor with the slider at {t:g}"
    return charts.heatmap(title, columns, rows, "t", scale, zmin=0, zmax=1)


def grid(values: dict[str, float]) -> tuple[list[str], list[list[float | None]]]:
    """{tensor: value} as (modules, one row per layer). Tensors outside the layers are left out."""
    cells = {}
    for name, value in values.items():
        layer = recipe.layer_of(name)
        if layer is not None:
            cells[layer, module_of(name)] = value
    columns = sorted({module for _, module in cells}, key=lambda module: ("norm" in module, module))
    layers = range(1 + max((layer for layer, _ in cells), default=-1))
    return columns, [[cells.get((layer, module)) for module in columns] for layer in layers]


def module_of(name: str) -> str:
    """`model.layers.2.mlp.down_proj.weight` -> `down_proj`"""
    _, _, inside = name.partition(".layers.")
    _, _, module = inside.partition(".")
    return module.removesuffix(".weight").removeprefix("self_attn.").removeprefix("mlp.")
