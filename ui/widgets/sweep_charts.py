"""Figures of sweeps: what was scored over the spectrum of t."""

from ui.widgets import charts

HEIGHT = 340  # pixels
BROKEN_FILL, BROKEN_TEXT = "rgba(179,38,30,.10)", "#c0584f"


def spectrum(sweeps: dict[str, list[dict]], zone: list[float], flip: float | None) -> tuple[str, str]:
    """Accuracy over t; think rate and tokens over t. Sweeps are overlaid.

    `zone` (the broken zone) and `flip` (where thinking sets in) are values of t in the latest sweep.
    """
    scores: list[charts.Trace] = []
    thoughts: list[charts.Trace] = []
    for i, (name, rows) in enumerate(sweeps.items()):
        style = {"color": charts.COLOURS[i % len(charts.COLOURS)], "symbol": i}
        ts = [row["t"] for row in rows]
        rates = [100 * row["think_rate"] for row in rows]
        means = charts.markers(ts, [row["mean_tokens"] for row in rows], "tokens", style)
        scores += charts.banded(ts, rows, name, style)
        thoughts.append(charts.markers(ts, rates, name, style))
        thoughts.append({**charts.dotted(means, "y2"), "mode": "lines", "showlegend": False})
    shapes, notes = _marks(zone, flip, of_latest=len(sweeps) > 1)
    layout = {"shapes": shapes, "annotations": notes}
    right = charts.right_axis("tokens", rangemode="tozero")
    accuracy_axis, rate_axis = charts.axis("%", range=[0, 102]), charts.axis("%", range=[-3, 103])
    return (
        charts.figure("Accuracy with 95 % bands", scores, charts.axis("t"), accuracy_axis, HEIGHT, **layout),
        charts.figure(
            "Think rate (lines), tokens (dotted)",
            thoughts,
            charts.axis("t"),
            rate_axis,
            HEIGHT,
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
        notes.append(charts.note(text, x=left, y=0, yanchor="bottom", font={"color": BROKEN_TEXT}))
    if flip is not None:
        shapes.append(charts.vertical(flip, "dash"))
        notes.append(charts.note(f"flip {flip:.2f}{suffix}", x=flip, y=1, yanchor="top"))
    return shapes, notes
