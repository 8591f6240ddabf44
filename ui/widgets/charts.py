"""Figures for Plotly as JSON, drawn by `Chart` in components.py.

Plain dictionaries instead of plotly.graph_objects, whose validation costs tens of milliseconds per figure.
Instruct and thinking have one colour and one marker each, so they can be told apart without colour.
"""

from typing import Any

import orjson
from markupsafe import escape

from ui.widgets.theme import INSTRUCT, THINKING

MAX_POINTS = 800  # of one line; more cannot be seen
ROLE_STYLES = {
    "instruct": {"color": INSTRUCT, "symbol": "circle"},
    "thinking": {"color": THINKING, "symbol": "diamond"},
}
COLOURS = ("#7b8794", "#2f7ed8", "#8e5bd0", "#c2408f", "#d9822b", "#4e9a51", "#a04020", "#008b9a")  # in turn
GREY = "#808893"
GRID = "rgba(128,136,147,.22)"
SLIDER_INSET = 23  # pixels from the edge of the slider to the middle of its thumb at t = 0 and at 1
CLEAR = "rgba(0,0,0,0)"
STRIP_HEIGHT = 74  # pixels

Trace = dict[str, Any]
Axis = dict[str, Any]


# ---- one prompt


def probability(ts: list[float], p: list[float], t: float, scores: list[dict]) -> str:
    """Probability that the answer to one prompt begins with a trace, at every t of `ts`.

    A line marks `t`, where the slider stands. The accuracy of a sweep's `scores` lies faintly behind.
    """
    line = {
        "type": "scatter",
        "x": ts,
        "y": p,
        "mode": "lines+markers",
        "line": {"color": THINKING, "width": 2},
        "marker": {"color": THINKING, "size": 5},
        "cliponaxis": False,
        "fill": "tozeroy",
        "fillcolor": rgba(THINKING, 0.18),
        "hovertemplate": "t = %{x:.2f}: %{y:.3f}",
    }
    said = "Probability of a <think> trace" + (", dotted: accuracy in the sweep" if scores else "")
    caption = note(escape(said), x=0, y=0.9, font={"size": 11})
    x, y = axis("", range=[0, 1], dtick=0.1), axis("", range=[0, 1.04], dtick=0.5)
    layout = {
        "margin": {"l": SLIDER_INSET, "r": SLIDER_INSET, "t": 4, "b": 18},
        "shapes": [vertical(t, "dot", width=2)],
        "meta": {"slider": "#compare-t input[type=range]"},  # chart.js moves the line there
        "annotations": [{**caption, "xref": "paper"}],
    }
    lines = [_faint_accuracy(scores), line] if scores else [line]
    return figure("", lines, x, y, STRIP_HEIGHT, **{**layout, "showlegend": False})


def _faint_accuracy(scores: list[dict]) -> Trace:
    """A sweep's accuracy, on the same scale from 0 to 1."""
    return {
        "type": "scatter",
        "x": [row["t"] for row in scores],
        "y": [row["accuracy"] for row in scores],
        "mode": "lines",
        "line": {"color": GREY, "width": 2, "dash": "dot"},
        "opacity": 0.7,
        "hovertemplate": "t = %{x:.2f}: accuracy %{y:.3f} in the sweep<extra></extra>",
    }


# ---- parts of figures


def banded(x: list, rows: list[dict], name: str, style: dict) -> list[Trace]:
    """Accuracy in per cent as a line within its 95 % band; the band's outline goes there and back."""
    low, middle, high = ([100 * row[key] for row in rows] for key in ("low", "accuracy", "high"))
    band = {
        "type": "scatter",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": rgba(style["color"], 0.15),
        "hoverinfo": "skip",
        "showlegend": False,
    }
    line = markers(x, middle, name, {"size": 8, **style})
    return [band, {**line, "text": [_counted(row) for row in rows], "hovertemplate": "%{text}"}]


def _counted(row: dict) -> str:
    percent, low, high = (100 * row[key] for key in ("accuracy", "low", "high"))
    text = f"{row['correct']}/{row['n']} = {percent:.1f} % [{low:.1f}, {high:.1f}]"
    change = row.get("since_start")
    if not change:
        return text
    return f"{text}<br>+{change['gained']} −{change['lost']} against round 0, p = {change['p']:.1g}"


def line(points: list[tuple[Any, Any]], name: str, colour: str, width: float, hovertemplate: str) -> Trace:
    return {
        "type": "scatter",
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "name": escape(name),
        "mode": "lines",
        "line": {"color": colour, "width": width},
        "hovertemplate": hovertemplate,
    }


def markers(x: list, y: list, name: str, marker: dict) -> Trace:
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "name": escape(name),
        "mode": "lines+markers",
        "marker": marker,
        "line": {"color": marker["color"]},
    }


def dotted(trace: Trace, yaxis: str) -> Trace:
    return {**trace, "yaxis": yaxis, "line": {**trace["line"], "dash": "dot"}}


def vertical(x: float, dash: str, width: float = 2) -> dict:
    line = {"color": GREY, "dash": dash, "width": width}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def note(text: str, **place: Any) -> dict:
    return {"text": text, "yref": "paper", "showarrow": False, "xanchor": "left", **place}


def axis(title: str, **settings: Any) -> Axis:
    standoff = {"text": title, "standoff": 5}
    return {"title": standoff, "gridcolor": GRID, "zerolinecolor": GRID, **settings}


def right_axis(title: str, **settings: Any) -> Axis:
    """A second scale on the right, without a grid of its own."""
    return {
        "title": {"text": title},
        "overlaying": "y",
        "side": "right",
        "showgrid": False,
        "zeroline": False,
        "tickmode": "auto",  # round numbers; Plotly would place them at the left scale's lines
        **settings,
    }


def figure(title: str, traces: list[Trace], x: Axis, y: Axis, height: int, **layout: Any) -> str:
    """JSON of a figure; empty without traces, so that the chart shows its hint. NaN becomes null."""
    if not traces:
        return ""
    several = len(traces) > 1
    heading = {"text": title, "font": {"size": 14}, "x": 0, "xref": "container", "xanchor": "left"}
    usual = {
        "title": {**heading, "pad": {"l": 8}, "y": 0.97, "yanchor": "top"},
        "height": height,
        "margin": {"l": 52, "r": 52 if "yaxis2" in layout else 14, "t": 36, "b": 70 if several else 44},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"size": 12},
        "hovermode": "closest",
        "uirevision": "kept",  # zoom survives an update
        "showlegend": several,
        "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 11}},
        "xaxis": x,
        "yaxis": y,
    }
    return orjson.dumps({"data": traces, "layout": {**usual, **layout}}).decode()


def rgba(colour: str, alpha: float) -> str:
    """`#rrggbb` with an opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def thinned(rows: list) -> list:
    """At most MAX_POINTS + 1 rows, evenly spaced, with the first and the last."""
    step = -(-len(rows) // MAX_POINTS)
    return rows if step <= 1 else [*rows[:-1:step], rows[-1]]
