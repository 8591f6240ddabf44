"""Explore: scores over the whole spectrum, angles between the two checkpoints, and a schedule for t."""

from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from thinkswitch.text import format_accuracy
from ui.run_control import PAIR
from ui.scheduling import BackgroundTask
from ui.studio import Studio
from ui.widgets import charts, html, layer_charts, schedule_editor, sweep_charts
from ui.widgets.components import Chart, MessageBox
from ui.widgets.events import on

HINT = (
    "A sweep scores points between instruct and thinking on held-out problems, all with one chat template. "
    "Several sweeps are drawn on top of each other."
)
DEFAULT_PROBLEMS = 100
Updates = dict[gr.blocks.Block, Any]


@dataclass(frozen=True)
class View:
    """The components that follow sweeps and the loaded pair."""

    problems: gr.Slider
    status: MessageBox
    accuracy: Chart
    think: Chart
    stop: gr.Button
    angles: Chart
    verdict: MessageBox
    seen: gr.State  # a Seen, or None: draw everything


@dataclass(frozen=True)
class Seen:
    """What a page has drawn. Sweeps and pairs are told apart by their identity."""

    pair: int | None
    choice: str
    problems: int
    sweeps: tuple[tuple[str, int], ...]
    task: tuple[int, int, bool] | None


def build(studio: Studio, schedule: gr.State) -> dict:
    """Lay out the tab; returns what a reload brings back, and what the rest of the page updates."""
    gr.Markdown("### The spectrum, scored")
    with gr.Row(equal_height=True):
        choice, points, problems = sweep_settings(studio)
        with gr.Column(scale=1, min_width=150):
            start = gr.Button("Sweep", variant="primary", elem_id="explore-sweep-start", size="md")
            with gr.Row():
                stop = gr.Button(
                    "Stop", size="sm", elem_id="explore-sweep-stop", interactive=False, min_width=60
                )
                clear = gr.Button("Clear", size="sm", elem_id="explore-sweep-clear", min_width=60)
    status = MessageBox(html.quiet(HINT), elem_id="explore-status")
    with gr.Row(elem_id="explore-sweep"):
        with gr.Column(min_width=340):
            accuracy = Chart(
                elem_id="explore-accuracy", description="Accuracy over t", height=sweep_charts.HEIGHT
            )
        with gr.Column(min_width=340):
            think = Chart(
                elem_id="explore-think",
                description="Think rate and mean tokens over t",
                height=sweep_charts.HEIGHT,
            )
    gr.Markdown("### How far apart the two checkpoints are")
    verdict = MessageBox(html.quiet("Shown once the pair is loaded."), elem_id="explore-verdict")
    angles = Chart(
        elem_id="explore-angles",
        description="Angle between instruct and thinking, by layer and module",
        height=charts.HEATMAP_HEIGHT,
    )
    gr.Markdown("### A schedule for t, used by Compare and Sweep")
    editor = schedule_editor.lay_out()
    timer = gr.Timer(1.0, active=False)
    view = View(problems, status, accuracy, think, stop, angles, verdict, gr.State(None))
    control_sweeps(studio, view, choice, points, schedule, start, clear)

    follow(studio, view, choice, timer, editor, schedule)

    def connect_chips(chips: list[gr.Button]) -> None:
        editor.connect_chips(chips, schedule, studio.tensor_names)

    restore = editor.connect(schedule, studio.tensor_names)
    return {
        "kept": editor.values,
        "round": choice,
        "timer": timer,
        "restore": restore,
        "connect_chips": connect_chips,
    }


# ---- layout


def sweep_settings(studio: Studio) -> tuple[gr.Dropdown, gr.Slider, gr.Slider]:
    choice = gr.Dropdown(
        studio.choices(),
        value=PAIR,
        label="Round (the pair = round 0)",
        elem_id="explore-round",
        allow_custom_value=True,
        scale=2,
    )
    points = gr.Slider(
        3, 41, 11, step=1, label="Points of t", elem_id="explore-points", scale=2, min_width=240
    )
    bounds = problem_bounds(len(studio.loader.problems))
    problems = gr.Slider(
        minimum=1,
        maximum=bounds["maximum"],
        value=bounds["value"],
        step=1,
        label="Held-out problems",
        elem_id="explore-problems",
        scale=2,
        min_width=240,
    )
    return choice, points, problems


# ---- sweeps


def control_sweeps(
    studio: Studio,
    view: View,
    choice: gr.Dropdown,
    points: gr.Slider,
    schedule: gr.State,
    start: gr.Button,
    clear: gr.Button,
) -> None:
    def do_sweep(request: gr.Request, chosen: str, n: float, count: float, used: Schedule):
        try:
            sweep(studio, chosen, int(n), int(count), used, request.session_hash)
        except UserError as error:
            return html.toast(UserError(studio.public(str(error))))
        return html.quiet("Sweeping …")

    def do_stop(request: gr.Request):
        try:
            studio.cancel("sweep", request.session_hash)
        except UserError as error:
            html.toast(error)

    def do_clear(request: gr.Request):
        studio.clear_sweeps(request.session_hash)

    on(start.click, do_sweep, [choice, points, view.problems, schedule], view.status)
    on(view.stop.click, do_stop)
    on(clear.click, do_clear)


def sweep(
    studio: Studio,
    choice: str,
    points: int,
    count: int,
    schedule: Schedule,
    session_hash: str | None = None,
) -> None:
    """Start a sweep as a task of the page that asks; its table joins `studio.sweeps`."""
    loaded = studio.ready()
    from thinkswitch import evaluate

    problems = list(studio.loader.problems.values())[:count]
    if not problems:
        raise UserError("the preset names no held-out problems, and a sweep needs some; set held_out_set")
    ts = [round(i / (points - 1), 4) for i in range(points)]
    studio.find_round(loaded, choice)  # refused now, not in the task
    template = getattr(loaded.pair, loaded.preset.template)
    name = choice if schedule == Schedule() else f"{choice} ({schedule_editor.short(schedule)})"

    def work(cancelled):
        def stopped() -> bool:
            return cancelled() or studio.loaded is not loaded

        with studio.using(loaded, choice):
            by_t = dict(zip(ts, studio.points(loaded, choice, ts, schedule), strict=True))
            lend = studio.model_lock.yield_turn
            steps = evaluate.sweep(loaded.blend, template, by_t, problems, loaded.preset, stopped, lend)
            while True:
                with studio.turn():
                    try:
                        done, total = next(steps)
                    except StopIteration as end:
                        studio.keep_sweep(name, end.value, session_hash)
                        return end.value
                yield "sweep", done, total

    studio.task("sweep", work, session_hash)


# ---- what the tab shows


def follow(
    studio: Studio,
    view: View,
    choice: gr.Dropdown,
    timer: gr.Timer,
    editor: schedule_editor.Editor,
    schedule: gr.State,
) -> None:
    def tick(seen: Seen | None, chosen: str, used: Schedule, preview_t: float):
        updates = refresh(studio, view, seen, chosen)
        loaded = studio.loaded
        if loaded and (seen is None or seen.pair != id(loaded)):  # its layers say which ablation it is
            updates |= editor.shown(used, preview_t, loaded.pair.names)
        return updates or gr.skip()

    inputs = [view.seen, choice, schedule, editor.preview_t]
    on(timer.tick, tick, inputs, [*vars(view).values(), *editor.told])


def refresh(studio: Studio, view: View, seen: Seen | None, choice: str) -> Updates:
    """What has changed since `seen`; empty if nothing has, so that an idle page costs nothing."""
    task = studio.tasks.get("sweep")
    sweeps = dict(studio.sweeps)
    loaded = studio.loaded
    now = Seen(
        id(loaded) if loaded else None,
        choice,
        len(studio.loader.problems),
        tuple((name, id(table)) for name, table in sweeps.items()),
        (id(task), task.done, task.ended) if task else None,
    )
    if now == seen:
        return {}
    updates: Updates = {view.seen: now}
    if seen is None or seen.sweeps != now.sweeps:
        updates[view.accuracy], updates[view.think] = curves(sweeps)
    if seen is None or (seen.sweeps, seen.task) != (now.sweeps, now.task):
        updates[view.status] = status_html(task, sweeps)
        updates[view.stop] = gr.update(interactive=bool(task and not task.ended))
    bounds = problem_bounds(now.problems)
    drawn = problem_bounds(seen.problems)["maximum"] if seen else view.problems.maximum
    if bounds["maximum"] != drawn:  # another preset
        updates[view.problems] = gr.update(maximum=bounds["maximum"], value=bounds["value"])
    if loaded and (seen is None or (seen.pair, seen.choice) != (now.pair, now.choice)):
        updates |= angle_updates(studio, view, choice)
    return updates


def curves(sweeps: dict[str, list[dict]]) -> tuple[str, str]:
    """The two charts of all sweeps."""
    if not sweeps:
        return sweep_charts.spectrum({}, [], None)
    from thinkswitch import evaluate  # imports torch, which a sweep has done before

    latest = list(sweeps.values())[-1]
    return sweep_charts.spectrum(sweeps, evaluate.broken_zone(latest), evaluate.flip(latest))


def status_html(task: BackgroundTask | None, sweeps: dict[str, list[dict]]) -> Markup:
    """How far the running sweep is, why the last one ended early, or what it found."""
    if task and not task.ended:
        text = f"Sweeping: {task.done:,} of {task.total:,} answers" if task.total else "Sweeping …"
        return html.quiet(text) + html.progress_bar(task.done, task.total)
    if task and task.error:
        sentence = f"{task.error[:1].upper()}{task.error[1:]}."
        return html.quiet(sentence) if task.cancelled else html.error(sentence)
    return verdict_html(*list(sweeps.items())[-1]) if sweeps else html.quiet(HINT)


def verdict_html(name: str, points: list[dict]) -> Markup:
    """What a sweep has found, in words."""
    from thinkswitch import evaluate

    flip, zone = evaluate.flip(points), evaluate.broken_zone(points)
    best = max(points, key=lambda point: (point["accuracy"], -point["mean_tokens"]))
    lines = [
        f"{points[0]['n']} problems: best at t = {best['t']:g} with {format_accuracy(best)} "
        f"and {best['mean_tokens']:.0f} tokens per answer."
    ]
    if flip is None:
        lines.append("The think rate does not cross 50 %.")
    else:
        lines.append(f"Thinking sets in at t = {flip:.2f} (think rate 50 %).")
    if zone:
        where = ", ".join(f"{t:g}" for t in zone)
        lines.append(f"Broken zone: at t = {where} accuracy is below both ends, beyond chance.")
    else:
        lines.append("No broken zone: nowhere is accuracy below both ends, beyond chance.")
    return Markup("<b>{}</b>, {}").format(name, " ".join(lines))


def problem_bounds(count: int) -> dict[str, int]:
    """Of the slider of held-out problems, for a preset that has `count`. Gradio wants two values at least."""
    return {"maximum": max(2, count), "value": min(DEFAULT_PROBLEMS, max(1, count))}


def angle_updates(studio: Studio, view: View, choice: str) -> Updates:
    try:
        round_ = studio.find_round(studio.ready(), choice)
    except UserError as error:
        return {view.verdict: html.error(studio.public(str(error)))}
    chart, verdict = layer_charts.angles(round_)
    return {view.angles: chart, view.verdict: verdict}
