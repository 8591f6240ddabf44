"""Figures for Plotly as JSON, drawn by `Chart` in components.py.

Plain dictionaries instead of plotly.graph_objects, whose validation costs tens of milliseconds per figure.
Instruct and thinking have one colour and one marker each, so they can be told apart without colour.
"""

from typing import Any

import orjson
from markupsafe import escape

from ui.widgets.theme import INSTRUCT, THINKING

MEAN_STEPS = 20  # steps of the running mean of the loss
MAX_POINTS = 800  # of one line; more cannot be seen
ROLE_STYLES = {
    "instruct": {"color": INSTRUCT, "symbol": "circle"},
    "thinking": {"color": THINKING, "symbol": "diamond"},
}
COLOURS = ("#7b8794", "#2f7ed8", "#8e5bd0", "#c2408f", "#d9822b", "#4e9a51", "#a04020", "#008b9a")  # in turn
GREY = "#808893"
GRID = "rgba(128,136,147,.22)"
BROKEN_FILL, BROKEN_TEXT = "rgba(179,38,30,.10)", "#c0584f"
SLIDER_INSET = 23  # pixels from the edge of the slider to the middle of its thumb at t = 0 and at 1
CLEAR = "rgba(0,0,0,0)"
LOOP_HEIGHT, SWEEP_HEIGHT, STRIP_HEIGHT, HEATMAP_HEIGHT = 300, 340, 74, 300  # pixels

Trace = dict[str, Any]
Axis = dict[str, Any]


# ---- the loop


def loss(events: list[dict]) -> str:
    """Training loss by step over all rounds, one line per round. `events` are those of a run."""
    distil = [event for event in events if event["phase"] == "distil"]
    traces: list[Trace] = []
    before = 0  # steps of earlier rounds
    for number in sorted({event["round"] for event in distil}):
        by_step = {
            event["step"]: event for event in distil if event["round"] == number
        }  # resuming repeats some
        steps = [by_step[step] for step in sorted(by_step)]
        points = [(before + event["step"], event["loss"]) for event in steps]
        traces += _loss_lines(points, f"round {number}", COLOURS[number % len(COLOURS)])
        before += steps[-1]["total"]
    return _figure(
        "Loss (nats per answer token)", traces, _axis("step"), _axis("", rangemode="tozero"), LOOP_HEIGHT
    )


def _loss_lines(points: list[tuple[int, float]], name: str, colour: str) -> list[Trace]:
    """Every step; a long round gets its running mean too, since single steps are noise around it."""
    single = _line(thinned(points), name, colour, width=1.5, hovertemplate="step %{x}: %{y:.3f}")
    if len(points) <= 2 * MEAN_STEPS:
        return [single]
    values = [value for _, value in points]
    windows = (values[end - MEAN_STEPS : end] for end in range(MEAN_STEPS, len(values) + 1))
    means = [sum(window) / MEAN_STEPS for window in windows]
    steps = [step for step, _ in points[MEAN_STEPS - 1 :]]
    text = f"mean of {MEAN_STEPS} steps up to %{{x}}: %{{y:.3f}}"
    mean = _line(thinned(list(zip(steps, means, strict=True))), name, colour, width=2.5, hovertemplate=text)
    return [{**single, "opacity": 0.3, "showlegend": False}, mean]


def accuracy(measured: list[dict]) -> str:
    """Held-out accuracy of both checkpoints by round. `measured` are the events that end a measurement."""
    traces: list[Trace] = []
    for role, style in ROLE_STYLES.items() if measured else ():
        rows = [event for event in measured if event["checkpoint"] == role]
        traces += banded([row["round"] for row in rows], rows, role, style)
    x, y = _axis("round", dtick=1), _axis("%", range=[0, 102])
    return _figure("Held-out accuracy with 95 % bands", traces, x, y, LOOP_HEIGHT)


def tokens(measured: list[dict]) -> str:
    """Mean tokens of an answer and think rate of both checkpoints by round."""
    traces: list[Trace] = []
    for role, style in ROLE_STYLES.items() if measured else ():
        rows = [event for event in measured if event["checkpoint"] == role]
        rounds = [row["round"] for row in rows]
        means = [row["mean_tokens"] for row in rows]
        rates = [100 * row["think_rate"] for row in rows]
        open_marker = {**style, "symbol": f"{style['symbol']}-open"}
        traces.append(_markers(rounds, means, f"{role} tokens", style))
        traces.append(_dotted(_markers(rounds, rates, f"{role} rate", open_marker), "y2"))
    right = _right_axis("%", range=[0, 104], dtick=25)
    x, y = _axis("round", dtick=1), _axis("tokens", rangemode="tozero")
    return _figure("Tokens (lines), think rate (dotted)", traces, x, y, LOOP_HEIGHT, yaxis2=right)


# ---- one prompt, and the sweep


def probability(ts: list[float], p: list[float], t: float) -> str:
    """Probability that one prompt opens a trace, at every t in `ts`, and where the slider stands."""
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
    caption = _note("Probability that this prompt opens a trace", x=0, y=0.9, font={"size": 11})
    x, y = _axis("", range=[0, 1], dtick=0.1), _axis("", range=[0, 1.04], dtick=0.5)
    layout = {
        "margin": {"l": SLIDER_INSET, "r": SLIDER_INSET, "t": 4, "b": 18},
        "shapes": [_vertical(t, "dot", width=2)],
        "annotations": [{**caption, "xref": "paper"}],
    }
    return _figure("", [line], x, y, STRIP_HEIGHT, **layout)


def spectrum(sweeps: dict[str, list[dict]], zone: list[float], flip: float | None) -> tuple[str, str]:
    """Accuracy over t; think rate and tokens over t. Sweeps are overlaid.

    `zone` (the broken zone) and `flip` (where thinking sets in) are values of t in the latest sweep.
    """
    scores: list[Trace] = []
    thoughts: list[Trace] = []
    for i, (name, rows) in enumerate(sweeps.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "symbol": i}
        ts = [row["t"] for row in rows]
        rates = [100 * row["think_rate"] for row in rows]
        means = _markers(ts, [row["mean_tokens"] for row in rows], "tokens", style)
        scores += banded(ts, rows, name, style)
        thoughts.append(_markers(ts, rates, name, style))
        thoughts.append({**_dotted(means, "y2"), "mode": "lines", "showlegend": False})
    shapes, notes = _marks(zone, flip, of_latest=len(sweeps) > 1)
    layout = {"shapes": shapes, "annotations": notes}
    right = _right_axis("tokens", rangemode="tozero")
    accuracy_axis, rate_axis = _axis("%", range=[0, 102]), _axis("%", range=[-3, 103])
    return (
        _figure("Accuracy with 95 % bands", scores, _axis("t"), accuracy_axis, SWEEP_HEIGHT, **layout),
        _figure(
            "Think rate (lines), tokens (dotted)",
            thoughts,
            _axis("t"),
            rate_axis,
            SWEEP_HEIGHT,
            shapes=shapes,
            yaxis2=right,
        ),
    )


def _marks(zone: list[float], flip: float | None, of_latest: bool) -> tuple[list[dict], list[dict]]:
    """Shapes and notes for the broken zone and the flip."""
    suffix = ", latest sweep" if of_latest else ""
    shapes = []
    notes = []
    if zone:
        left, right = min(zone), max(zone)
        box = {"type": "rect", "x0": left - 0.02, "x1": right + 0.02, "y0": 0, "y1": 1, "yref": "paper"}
        shapes.append({**box, "fillcolor": BROKEN_FILL, "line": {"width": 0}})
        text = f"broken zone{suffix}"
        notes.append(_note(text, x=left, y=0, yanchor="bottom", font={"color": BROKEN_TEXT}))
    if flip is not None:
        shapes.append(_vertical(flip, "dash"))
        notes.append(_note(f"flip {flip:.2f}{suffix}", x=flip, y=1, yanchor="top"))
    return shapes, notes


# ---- layers and modules


def heatmap(
    title: str, columns: list[str], rows: list[list[float | None]], unit: str, scale: list, **limits: float
) -> str:
    """One row per layer, one column per module. `limits` are Plotly's zmin and zmax."""
    cells = {
        "type": "heatmap",
        "z": rows,
        "x": [escape(column) for column in columns],
        "y": list(range(len(rows))),
        "colorscale": scale,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": unit}, "thickness": 12},
        "hovertemplate": f"layer %{{y}}, %{{x}}: %{{z:.4g}} {unit}<extra></extra>",
        **limits,
    }
    y = _axis("layer", autorange="reversed", dtick=max(1, len(rows) // 12))
    margin = {"l": 52, "r": 14, "t": 34, "b": 96}
    return _figure(title, [cells], _axis("", tickangle=-30), y, 160 + 13 * max(8, len(rows)), margin=margin)


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
    line = _markers(x, middle, name, {"size": 8, **style})
    return [band, {**line, "text": [_counted(row) for row in rows], "hovertemplate": "%{text}"}]


def _counted(row: dict) -> str:
    percent, low, high = (100 * row[key] for key in ("accuracy", "low", "high"))
    return f"{row['correct']}/{row['n']} = {percent:.1f} % [{low:.1f}, {high:.1f}]"


def _line(points: list[tuple[int, float]], name: str, colour: str, width: float, hovertemplate: str) -> Trace:
    return {
        "type": "scatter",
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "name": escape(name),
        "mode": "lines",
        "line": {"color": colour, "width": width},
        "hovertemplate": hovertemplate,
    }


def _markers(x: list, y: list, name: str, marker: dict) -> Trace:
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "name": escape(name),
        "mode": "lines+markers",
        "marker": marker,
        "line": {"color": marker["color"]},
    }


def _dotted(trace: Trace, yaxis: str) -> Trace:
    return {**trace, "yaxis": yaxis, "line": {**trace["line"], "dash": "dot"}}


def _vertical(x: float, dash: str, width: float = 2) -> dict:
    line = {"color": GREY, "dash": dash, "width": width}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _note(text: str, **place: Any) -> dict:
    return {"text": text, "yref": "paper", "showarrow": False, "xanchor": "left", **place}


def _axis(title: str, **settings: Any) -> Axis:
    standoff = {"text": title, "standoff": 5}
    return {"title": standoff, "gridcolor": GRID, "zerolinecolor": GRID, **settings}


def _right_axis(title: str, **settings: Any) -> Axis:
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


def _figure(title: str, traces: list[Trace], x: Axis, y: Axis, height: int, **layout: Any) -> str:
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
