"""Figures of a run: loss by step, accuracy and tokens by round."""

from ui.widgets import charts

HEIGHT = 300  # pixels
MEAN_STEPS = 20  # steps of the running mean of the loss


def loss(events: list[dict]) -> str:
    """Training loss by step over all rounds, one line per round. `events` are those of a run."""
    distil = [event for event in events if event["phase"] == "distil"]
    traces: list[charts.Trace] = []
    before = 0  # steps of earlier rounds
    for number in sorted({event["round"] for event in distil}):
        by_step = {
            event["step"]: event for event in distil if event["round"] == number
        }  # resuming repeats some
        steps = [by_step[step] for step in sorted(by_step)]
        points = [(before + event["step"], event["loss"]) for event in steps]
        traces += _loss_lines(points, f"round {number}", charts.COLOURS[number % len(charts.COLOURS)])
        before += steps[-1]["total"]
    return charts.figure(
        "Loss (nats per answer token)",
        traces,
        charts.axis("step"),
        charts.axis("", rangemode="tozero"),
        HEIGHT,
    )


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


def accuracy(measured: list[dict]) -> str:
    """Held-out accuracy of both checkpoints by round. `measured` are the events that end a measurement."""
    traces: list[charts.Trace] = []
    for role, style in charts.ROLE_STYLES.items() if measured else ():
        rows = [event for event in measured if event["checkpoint"] == role]
        traces += charts.banded([row["round"] for row in rows], rows, role, style)
    x, y = charts.axis("round", dtick=1), charts.axis("%", range=[0, 102])
    return charts.figure("Held-out accuracy with 95 % bands", traces, x, y, HEIGHT)


def tokens(measured: list[dict]) -> str:
    """Mean tokens of an answer and think rate of both checkpoints by round."""
    traces: list[charts.Trace] = []
    for role, style in charts.ROLE_STYLES.items() if measured else ():
        rows = [event for event in measured if event["checkpoint"] == role]
        rounds = [row["round"] for row in rows]
        means = [row["mean_tokens"] for row in rows]
        rates = [100 * row["think_rate"] for row in rows]
        open_marker = {**style, "symbol": f"{style['symbol']}-open"}
        traces.append(charts.markers(rounds, means, f"{role} tokens", style))
        traces.append(charts.dotted(charts.markers(rounds, rates, f"{role} rate", open_marker), "y2"))
    right = charts.right_axis("%", range=[0, 104], dtick=25)
    x, y = charts.axis("round", dtick=1), charts.axis("tokens", rangemode="tozero")
    return charts.figure("Tokens (lines), think rate (dotted)", traces, x, y, HEIGHT, yaxis2=right)
