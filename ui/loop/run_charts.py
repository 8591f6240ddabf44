"""Figures of a run: loss by step, accuracy and tokens by round. Another run may be laid over, dashed."""

from dataclasses import dataclass, field

from thinkswitch import runs
from ui.widgets import charts

HEIGHT = 300  # pixels
MEAN_STEPS = 20  # steps of the running mean of the loss
LEGEND_CHARACTERS = 28  # of a run's name
STANDOFF = 6  # pixels between the numbers of an axis and the plot, or y = 0 and x = 0 touch


@dataclass(frozen=True)
class Overlay:
    """Another run, laid over the shown one. Without events it draws nothing."""

    name: str = ""
    events: list[dict] = field(default_factory=list)

    @property
    def measured(self) -> list[dict]:
        return runs.measured(self.events)

    @property
    def legend(self) -> list[charts.Trace]:
        """One entry for all its lines, which have the colours of what they are laid over."""
        if not self.events:
            return []
        long = len(self.name) > LEGEND_CHARACTERS
        name = self.name[: LEGEND_CHARACTERS - 1] + "…" if long else self.name
        return [_dashed(charts.line([(None, None)], name, charts.GREY, width=2, hovertemplate=""))]

    def rows(self, role: str) -> list[dict]:
        return [event for event in self.measured if event["checkpoint"] == role]


def loss(events: list[dict], other: Overlay = Overlay()) -> str:
    """Training loss by step over all rounds, one line per round. `events` are those of a run."""
    traces: list[charts.Trace] = []
    for number, points in _losses(events).items():
        traces += _loss_lines(points, f"round {number}", charts.COLOURS[number % len(charts.COLOURS)])
    for points in _losses(other.events).values() if traces else ():
        mean = _loss_lines(points, other.name, charts.GREY)[-1]
        traces.append({**_dashed(mean), "showlegend": False})
    traces += other.legend if traces else []
    return charts.figure(
        "Loss (nats per answer token)",
        traces,
        charts.axis("step", rangemode="tozero"),
        charts.axis("", rangemode="tozero", ticklabelstandoff=STANDOFF),
        HEIGHT,
    )


def _losses(events: list[dict]) -> dict[int, list[tuple[int, float]]]:
    """{round: (step of the run, loss)}."""
    distil = [event for event in events if event["phase"] == "distil"]
    found = {}
    before = 0  # steps of earlier rounds
    for number in sorted({event["round"] for event in distil}):
        by_step = {
            event["step"]: event for event in distil if event["round"] == number
        }  # resuming repeats some
        steps = [by_step[step] for step in sorted(by_step)]
        found[number] = [(before + event["step"], event["loss"]) for event in steps]
        before += steps[-1]["total"]
    return found


def _loss_lines(points: list[tuple[int, float]], name: str, colour: str) -> list[charts.Trace]:
    """Every step; a long round gets its running mean too, since single steps are noise around it."""
    single = charts.line(charts.thinned(points), name, colour, width=1.5, hovertemplate="step %{x}: %{y:.3f}")
    if len(points) <= 2 * MEAN_STEPS:
        return [single]
    values = [value for _, value in points]
    windows = (values[end - MEAN_STEPS : end] for end in range(MEAN_STEPS, len(values) + 1))
    means = [sum(window) / MEAN_STEPS for window in windows]
    steps = [step for step, _ in points[MEAN_STEPS - 1 :]]
    text = f"mean of {MEAN_STEPS} steps up to %{{x}}: %{{y:.3f}}"
    mean = charts.line(
        charts.thinned(list(zip(steps, means, strict=True))), name, colour, width=2.5, hovertemplate=text
    )
    return [{**single, "opacity": 0.3, "showlegend": False}, mean]


def accuracy(measured: list[dict], other: Overlay = Overlay()) -> str:
    """Held-out accuracy of both checkpoints by round. `measured` are the events that end a measurement."""
    traces: list[charts.Trace] = []
    for role, style in charts.ROLE_STYLES.items() if measured else ():
        rows = [event for event in measured if event["checkpoint"] == role]
        traces += charts.banded([row["round"] for row in rows], rows, role, style)
    for role, style in charts.ROLE_STYLES.items() if measured and other.measured else ():
        rows = other.rows(role)
        _, line = charts.banded([row["round"] for row in rows], rows, f"{role}, {other.name}", style)
        traces.append({**_dashed(line), "showlegend": False})
    traces += other.legend if measured else []
    x, y = _round_axis(measured), charts.axis("%", range=[0, 102], ticklabelstandoff=STANDOFF)
    return charts.figure("Held-out accuracy with 95 % bands", traces, x, y, HEIGHT)


def tokens(measured: list[dict], other: Overlay = Overlay()) -> str:
    """Mean tokens of an answer and think rate of both checkpoints by round."""
    traces: list[charts.Trace] = []
    for role, style in charts.ROLE_STYLES.items() if measured else ():
        rows = [event for event in measured if event["checkpoint"] == role]
        rounds = [row["round"] for row in rows]
        rates = [100 * row["think_rate"] for row in rows]
        open_marker = {**style, "symbol": f"{style['symbol']}-open"}
        rate = charts.dotted(charts.markers(rounds, rates, f"{role}, think rate", open_marker), "y2")
        traces.append(_mean_tokens(rows, role, style))
        traces.append({**rate, "showlegend": False})  # the title tells the two kinds of lines apart
    for role, style in charts.ROLE_STYLES.items() if measured and other.measured else ():
        line = _mean_tokens(other.rows(role), f"{role}, {other.name}", style)
        traces.append({**_dashed(line), "showlegend": False})
    traces += other.legend if measured else []
    right = charts.right_axis("%", range=[0, 104], dtick=25, tickmode="linear")
    x = _round_axis(measured)
    y = charts.axis("tokens", rangemode="tozero", ticklabelstandoff=STANDOFF)
    return charts.figure("Tokens (lines), think rate (dotted)", traces, x, y, HEIGHT, yaxis2=right)


def _round_axis(measured: list[dict]) -> charts.Axis:
    """There is no round before round 0, which is alone at first."""
    last = max((event["round"] for event in measured), default=0)
    return charts.axis("round", dtick=1, range=[-0.2, max(1, last) + 0.2])


def _mean_tokens(rows: list[dict], name: str, style: dict) -> charts.Trace:
    return charts.markers([row["round"] for row in rows], [row["mean_tokens"] for row in rows], name, style)


def _dashed(trace: charts.Trace) -> charts.Trace:
    return {**trace, "mode": "lines", "line": {**trace["line"], "dash": "dash"}}
