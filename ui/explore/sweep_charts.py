"""Figures of sweeps: what was scored over the spectrum of t. Sweeps are overlaid, each in its colour."""

from dataclasses import dataclass, field, replace

from markupsafe import escape

from ui.widgets import charts

HEIGHT = 340  # pixels
STAR, GOLD = 15, "#ffd23f"  # size in pixels and colour of the cheapest point near the best
ZONE_OPACITY = 0.1
ZONE_EDGE = 0.02  # of t, so that a zone of one point is seen


@dataclass(frozen=True)
class Curve:
    """A sweep and what evaluate.py finds in it."""

    name: str
    rows: list[dict]  # {t, **Summary}
    flip: float | None  # the t at which thinking sets in
    zone: list[float]  # the ts of the broken zone
    cheapest: dict | None  # the row with the fewest tokens near the best accuracy; None while it goes on
    keys: dict[float, str] = field(default_factory=dict)  # of the points that a click can choose, by their t


def colour(i: int) -> str:
    return charts.COLOURS[i % len(charts.COLOURS)]


def figures(curves: list[Curve]) -> tuple[str, str, str]:
    """Accuracy over tokens, accuracy over t, think rate and tokens over t; empty without curves."""
    return frontier(curves), accuracy(curves), thinking(curves)


def frontier(curves: list[Curve]) -> str:
    """Accuracy over mean tokens: a line per sweep, a point per t, a star at the cheapest near the best."""
    traces: list[charts.Trace] = []
    for i, curve in enumerate(curves):
        tokens, percent = _costs(curve.rows)
        name = curve.name
        if curve.cheapest:
            name += f" ★ t = {curve.cheapest['t']:g}"
        line = charts.markers(tokens, percent, name, {"color": colour(i), "symbol": i, "size": 7})
        traces.append({**line, **_told(curve), "customdata": _keys(curve)})
    traces += [_star(curve, colour(i)) for i, curve in enumerate(curves) if curve.cheapest]  # on top
    x = charts.axis("mean tokens per answer", rangemode="tozero")
    y = charts.axis("%", range=[0, 104])
    return charts.figure("Accuracy against tokens, a point per t", traces, x, y, HEIGHT, showlegend=True)


def _costs(rows: list[dict]) -> tuple[list[float], list[float]]:
    return [row["mean_tokens"] for row in rows], [100 * row["accuracy"] for row in rows]


def _keys(curve: Curve) -> list[str | None]:
    return [curve.keys.get(row["t"]) for row in curve.rows]


def _told(curve: Curve, remark: str = "") -> dict:
    """What is said of each point under the mouse."""
    told = [f"{escape(curve.name)}<br>{_counted(row)}{remark}" for row in curve.rows]
    return {"hovertext": told, "hovertemplate": "%{hovertext}<extra></extra>"}


def _star(curve: Curve, edge: str) -> charts.Trace:
    row = curve.cheapest
    assert row is not None
    marker = {"symbol": "star", "size": STAR, "color": GOLD, "line": {"color": edge, "width": 2}}
    star = charts.markers(*_costs([row]), "", marker)
    alone = replace(curve, rows=[row])
    told = _told(alone, "<br>cheapest within one point of the best")
    drawn = {"mode": "markers", "showlegend": False, "cliponaxis": False, "customdata": _keys(alone)}
    return {**star, **told, **drawn}


def _counted(row: dict) -> str:
    percent, low, high = (100 * row[key] for key in ("accuracy", "low", "high"))
    return f"t = {row['t']:g}: {percent:.1f} % [{low:.1f}, {high:.1f}], {row['mean_tokens']:.0f} tokens"


def accuracy(curves: list[Curve]) -> str:
    """Accuracy over t in its band, with each sweep's own flip and broken zone."""
    traces: list[charts.Trace] = []
    for i, curve in enumerate(curves):
        ts = [row["t"] for row in curve.rows]
        style = {"color": colour(i), "symbol": i}
        band, line = charts.banded(ts, curve.rows, f"{curve.name}{_marks_in_words(curve)}", style)
        traces += [band, {**line, "customdata": _keys(curve)}]
    x, y = charts.axis("t"), charts.axis("%", range=[0, 102])
    shapes = marks(curves)
    return charts.figure(
        "Accuracy over t with 95 % bands", traces, x, y, HEIGHT, shapes=shapes, showlegend=True
    )


def thinking(curves: list[Curve]) -> str:
    """Think rate over t, and the mean tokens of an answer on a scale of their own."""
    traces: list[charts.Trace] = []
    for i, curve in enumerate(curves):
        style = {"color": colour(i), "symbol": i}
        ts = [row["t"] for row in curve.rows]
        rates = [100 * row["think_rate"] for row in curve.rows]
        means = charts.markers(ts, [row["mean_tokens"] for row in curve.rows], "tokens", style)
        traces.append(charts.markers(ts, rates, curve.name, style))
        traces.append({**charts.dotted(means, "y2"), "mode": "lines", "showlegend": False})
    flips = [mark for mark in marks(curves) if mark["type"] == "line"]
    right = charts.right_axis("tokens", rangemode="tozero")
    x, y = charts.axis("t"), charts.axis("%", range=[-3, 103])
    title = "Think rate (lines), tokens (dotted)"
    return charts.figure(title, traces, x, y, HEIGHT, shapes=flips, yaxis2=right, showlegend=True)


def marks(curves: list[Curve]) -> list[dict]:
    """Each sweep's broken zone as a band and its flip as a dashed line, in its colour."""
    shapes = []
    for i, curve in enumerate(curves):
        if curve.zone:
            x0, x1 = min(curve.zone) - ZONE_EDGE, max(curve.zone) + ZONE_EDGE
            band = {"type": "rect", "x0": x0, "x1": x1, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
            fill = charts.rgba(colour(i), ZONE_OPACITY)
            shapes.append({**band, "fillcolor": fill, "line": {"width": 0}})
        if curve.flip is not None:
            line = charts.vertical(curve.flip, "dash")
            shapes.append({**line, "line": {**line["line"], "color": colour(i)}})
    return shapes


def _marks_in_words(curve: Curve) -> str:
    """For the legend, where no curve runs through it."""
    words = ""
    if curve.flip is not None:
        words += f" ┆ flip {curve.flip:.2f}"
    if curve.zone:
        words += f" ▒ broken zone {span(curve.zone)}"
    return words


def span(zone: list[float]) -> str:
    """`0.3`, or `0.3 to 0.5`"""
    low, high = min(zone), max(zone)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
