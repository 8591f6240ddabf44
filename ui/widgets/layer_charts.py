"""Heat maps of one value per tensor: modules across, layers down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from thinkswitch import recipe
from thinkswitch.recipe import Schedule
from ui.widgets import charts, html
from ui.widgets.theme import INSTRUCT, THINKING

if TYPE_CHECKING:
    from thinkswitch.rounds import Round


KINDS = {"attention": "attention", "mlp": "MLP", "norm": "norms", "embedding": "other"}
ORDER = (
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "in_proj", "conv", "out_proj"),
    *("gate_proj", "w1", "up_proj", "w3", "gate_up_proj", "down_proj", "w2"),
    *("input_layernorm", "operator_norm", "q_norm", "q_layernorm", "k_norm", "k_layernorm"),
    *("post_attention_layernorm", "pre_feedforward_layernorm", "ffn_norm", "post_feedforward_layernorm"),
)  # as the data goes through a layer
HEIGHT = 280  # pixels, of few layers
LONG_LABEL = 12  # letters; longer ones take two lines
MANY_LAYERS = 12  # more get no tick each


def angles(round_: Round) -> tuple[str, Markup]:
    """The angle between instruct and thinking per tensor as a chart, and what follows for SLERP in words."""
    a, b, gram = round_.instruct, round_.thinking, round_.gram
    cosines = {name: recipe.cosine(gram[name], a[name], b[name]) for name in gram}
    gaps = {name: recipe.slerp_gap(gram[name], a[name], b[name]) for name in gram}
    degrees = {name: recipe.degrees(cosine) for name, cosine in cosines.items()}
    columns, rows = grid(degrees)
    scale = [[0, charts.rgba(INSTRUCT, 0.06)], [1, INSTRUCT]]
    chart = heatmap("Angle between instruct and thinking", columns, rows, "°", scale, zmin=0)
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
    return heatmap(title, columns, rows, "t", scale, zmin=0, zmax=1)


# ---- the map


def heatmap(
    title: str, columns: list[str], rows: list[list[float | None]], unit: str, scale: list, **limits: float
) -> str:
    """One row per layer, one column per module, kinds side by side. `limits` are Plotly's zmin and zmax."""
    cells = {
        "type": "heatmap",
        "z": rows,
        "x": [label(column) for column in columns],
        "y": list(range(len(rows))),
        "colorscale": scale,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": unit}, "thickness": 12},
        "hovertemplate": f"layer %{{y}}, %{{x}}: %{{z:.4g}} {unit}<extra></extra>",
        **limits,
    }
    plain = {"showgrid": False, "zeroline": False}
    x = charts.axis("", automargin=True, autoangles=[0, -45, -90], tickfont={"size": 11}, **plain)
    y = charts.axis("layer", autorange="reversed", dtick=max(1, len(rows) // MANY_LAYERS), **plain)
    height = HEIGHT + 13 * max(0, len(rows) - 10)
    names, edges = kinds_above(columns)
    margin = {"l": 52, "r": 14, "t": 62, "b": 52}
    return charts.figure(title, [cells], x, y, height, margin=margin, annotations=names, shapes=edges)


def kinds_above(columns: list[str]) -> tuple[list[dict], list[dict]]:
    """The name of each kind of module above its columns, and a line where another one begins."""
    of_column = [kind_of(column) for column in columns]
    names, edges = [], []
    for kind in dict.fromkeys(of_column):
        first, count = of_column.index(kind), of_column.count(kind)
        middle = first + (count - 1) / 2
        names.append(charts.note(KINDS[kind], x=middle, y=1, xanchor="center", yanchor="bottom"))
        if first:
            edges.append(charts.vertical(first - 0.5, "solid", width=1))
    return names, edges


def label(module: str) -> str:
    """A module's own name as text; a long one in two lines, broken after an underscore near its middle."""
    for part in ("self_attn.", "mlp.", "feed_forward."):
        module = module.removeprefix(part)
    breaks = [i + 1 for i, letter in enumerate(module) if letter == "_"]
    if len(module) <= LONG_LABEL or not breaks:
        return str(escape(module))
    at = min(breaks, key=lambda i: abs(i - len(module) / 2))
    return f"{escape(module[:at])}<br>{escape(module[at:])}"


def grid(values: dict[str, float]) -> tuple[list[str], list[list[float | None]]]:
    """{tensor: value} as (modules, one row per layer). Tensors outside the layers are left out."""
    cells = {}
    for name, value in values.items():
        layer = recipe.layer_of(name)
        if layer is not None:
            cells[layer, module_of(name)] = value
    columns = sorted({module for _, module in cells}, key=place_in_layer)
    layers = range(1 + max((layer for layer, _ in cells), default=-1))
    return columns, [[cells.get((layer, module)) for module in columns] for layer in layers]


def place_in_layer(module: str) -> tuple[int, int, str]:
    """Kinds one after the other, and in each the order of the computation; unknown modules last, by name."""
    own_name = module.removesuffix(".bias").rpartition(".")[2]
    known = ORDER.index(own_name) if own_name in ORDER else len(ORDER)
    return list(KINDS).index(kind_of(module)), known, module


def kind_of(module: str) -> str:
    return recipe.module_kind(f".{module}.")


def module_of(name: str) -> str:
    """`model.layers.2.mlp.down_proj.weight` -> `mlp.down_proj`"""
    _, _, inside = name.partition(".layers.")
    _, _, module = inside.partition(".")
    return module.removesuffix(".weight")
