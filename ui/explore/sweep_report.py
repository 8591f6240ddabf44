"""What a sweep is doing and what it has found, in words."""

from collections.abc import Collection

from markupsafe import Markup

from thinkswitch.text import format_accuracy
from ui.explore import sweep_charts
from ui.scheduling import BackgroundTask
from ui.sweeps import Sweep
from ui.widgets import html

HINT = (
    "A sweep scores points between instruct and thinking on held-out problems, all with one chat template. "
    "The last eight sweeps are drawn on top of each other."
)


def curve(sweep: Sweep) -> sweep_charts.Curve:
    from thinkswitch import evaluate  # imports torch, which a sweep has done before

    table = sweep.table
    going_on = bool(sweep.answered)
    return sweep_charts.Curve(
        name=f"{sweep.name} (so far)" if going_on else sweep.name,
        rows=table,
        flip=evaluate.flip(table),
        zone=[] if going_on else evaluate.broken_zone(table),
        cheapest=None if going_on else evaluate.cheapest_near_best(table),
        keys={} if going_on else {row["t"]: sweep.key(row["t"]) for row in table},
    )


# ---- how it goes


def status_html(task: BackgroundTask | None, running: Sweep | None, sweeps: Collection[Sweep]) -> Markup:
    """How far the running sweep is, why the last one ended early, or what it found."""
    if task and not task.ended:
        return progress_html(task, running)
    if task and task.error:
        sentence = f"{task.error[:1].upper()}{task.error[1:]}."
        return html.quiet(sentence) if task.cancelled else html.error(sentence)
    return verdict_html(list(sweeps)[-1]) if sweeps else html.quiet(HINT)


def progress_html(task: BackgroundTask, running: Sweep | None) -> Markup:
    if not task.total:
        return html.quiet("Sweeping …") + html.progress_bar(0, 1)
    text = f"Sweeping: {task.done:,} of {task.total:,} answers"
    bar = html.progress_bar(task.done, task.total)
    if running is None:
        return html.quiet(text) + bar
    drawn = running.table[0]["n"] if running.table else 0
    said = f"the {drawn} of {running.problems} problems, longest first, that all points have answered"
    text += f"; drawn are {said}."
    return html.quiet(text) + points_html(running)


def points_html(running: Sweep) -> Markup:
    """A bar for each t, with its answers."""
    bar = Markup('<span style="--share:{:.3f}" title="{}">{}</span>')
    bars = []
    for t, count in running.answered.items():
        title = f"t = {t:g}: {count} of {running.problems} answers"
        bars.append(bar.format(count / running.problems, title, f"{t:.3g}".removeprefix("0") or "0"))
    return Markup('<div class="sweep-points">{}</div>').format(Markup().join(bars))


# ---- what it found


def verdict_html(sweep: Sweep) -> Markup:
    """What a sweep has found, in words."""
    found = curve(sweep)
    points = sweep.table
    best = max(points, key=lambda point: (point["accuracy"], -point["mean_tokens"]))
    lines = [
        f"{points[0]['n']} problems: best at t = {best['t']:g} with {format_accuracy(best)} "
        f"and {best['mean_tokens']:.0f} tokens per answer."
    ]
    if found.flip is None:
        lines.append("The think rate does not cross 50 %.")
    else:
        lines.append(f"Thinking sets in at t = {found.flip:.2f} (think rate 50 %).")
    if found.zone:
        where = ", ".join(f"{t:g}" for t in found.zone)
        lines.append(f"Broken zone: at t = {where} accuracy is below both ends, beyond chance.")
    else:
        lines.append("No broken zone: nowhere is accuracy below both ends, beyond chance.")
    return Markup("<b>{}</b>, {}").format(sweep.name, " ".join(lines))


def findings_html(sweeps: Collection[Sweep]) -> Markup:
    """Several sweeps side by side, each in the colour of its curves."""
    if len(sweeps) < 2:
        return Markup()
    headings = ("Sweep", "Problems", "Best", "Cheapest within 1 point", "Flip", "Broken zone")
    head = Markup().join(Markup("<th>{}</th>").format(heading) for heading in headings)
    rows = Markup().join(_row(i, curve(sweep)) for i, sweep in enumerate(sweeps))
    return Markup('<table class="findings"><tr>{}</tr>{}</table>').format(head, rows)


def _row(i: int, found: sweep_charts.Curve) -> Markup:
    assert found.cheapest is not None
    best = max(found.rows, key=lambda row: (row["accuracy"], -row["mean_tokens"]))
    cells = [
        str(best["n"]),
        point_in_words(best),
        point_in_words(found.cheapest),
        "none" if found.flip is None else f"{found.flip:.2f}",
        sweep_charts.span(found.zone) if found.zone else "none",
    ]
    dot = Markup('<i class="dot" style="background:{}"></i>').format(sweep_charts.colour(i))
    first = Markup("<td>{}{}</td>").format(dot, found.name)
    return Markup("<tr>{}{}</tr>").format(
        first, Markup().join(Markup("<td>{}</td>").format(cell) for cell in cells)
    )


def point_in_words(row: dict) -> str:
    return f"t = {row['t']:g}: {100 * row['accuracy']:.1f} %, {row['mean_tokens']:.0f} tokens"
