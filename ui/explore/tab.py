"""Explore: scores over the whole spectrum, angles between the two checkpoints, and a schedule for t."""

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from ui.explore import sweep_charts, sweep_points, sweep_report, sweeping
from ui.explore.point_taker import Point, PointTaker
from ui.run_control import PAIR
from ui.studio import Studio
from ui.sweeps import Sweep
from ui.widgets import html, layer_charts, schedule_editor
from ui.widgets.components import Chart, MessageBox
from ui.widgets.events import follow_news, on

DEFAULT_PROBLEMS = 100
Updates = dict[gr.blocks.Block, Any]


@dataclass(frozen=True)
class View:
    """The components that follow sweeps and the loaded pair."""

    problems: gr.Slider
    status: MessageBox
    frontier: Chart
    accuracy: Chart
    think: Chart
    findings: MessageBox
    point: gr.Dropdown
    to_compare: gr.Button
    to_export: gr.Button
    start: gr.Button
    stop: gr.Button
    clear: gr.Button
    angles: Chart
    verdict: MessageBox
    seen: gr.State  # a Seen, or None: draw everything


@dataclass(frozen=True)
class Seen:
    """What a page has drawn, or could draw now. Sweeps and pairs are told apart by their identity."""

    pair: int | None
    choice: str
    problems: int
    sweeps: tuple[tuple[str, int], ...]
    running: int | None
    task: tuple[int, int, bool] | None


def build(studio: Studio, schedule: gr.State) -> dict:
    """Lay out the tab; returns what a reload brings back, and what the rest of the page updates."""
    with gr.Row(elem_classes="controls"):
        choice, points, problems = sweep_settings(studio)
        button: dict[str, Any] = {"size": "md", "scale": 1, "min_width": 88}
        start = gr.Button("Sweep", variant="primary", elem_id="explore-sweep-start", **button)
        stop = gr.Button("Stop", elem_id="explore-sweep-stop", interactive=False, **button)
        clear = gr.Button("Clear", elem_id="explore-sweep-clear", visible=False, **button)
    status = MessageBox(html.quiet(sweep_report.HINT), elem_id="explore-status")
    swept = sweep_charts_row()
    findings = MessageBox(elem_id="explore-findings")
    point, to_compare, to_export = point_row()
    gr.Markdown("### How far apart the two checkpoints are")
    verdict = MessageBox(html.quiet("Shown once the pair is loaded."), elem_id="explore-verdict")
    angles = Chart(
        elem_id="explore-angles",
        description="Angle between instruct and thinking, by layer and module",
        height=layer_charts.HEIGHT,
    )
    gr.Markdown("### A schedule for t, used by Compare, Sweep and Export")
    editor = schedule_editor.lay_out()
    view = View(
        problems=problems,
        status=status,
        **swept,
        findings=findings,
        point=point,
        to_compare=to_compare,
        to_export=to_export,
        start=start,
        stop=stop,
        clear=clear,
        angles=angles,
        verdict=verdict,
        seen=gr.State(None),
    )
    control_sweeps(studio, view, choice, points, schedule)
    choose_in_charts(studio, view)
    follow(studio, view, choice, editor, schedule)

    def connect_chips(chips: list[gr.Button]) -> None:
        editor.connect_chips(chips, schedule, studio.tensor_names)

    def find_point(value: str | None) -> Point:
        sweep, t = sweep_points.find(studio.sweeps, value)
        return sweep.choice, t, sweep.schedule

    def connect_points(compare: dict) -> PointTaker:
        taker = PointTaker(editor, schedule, studio.tensor_names, compare)
        taker.open(to_compare.click, find_point, [point], "Compare")
        taker.open(to_export.click, find_point, [point], "Export")
        return taker

    restore = editor.connect(schedule, studio.tensor_names)
    return {
        "kept": editor.values,
        "round": choice,
        "restore": restore,
        "connect_chips": connect_chips,
        "connect_points": connect_points,
    }


# ---- layout


def sweep_charts_row() -> dict[str, Chart]:
    descriptions = {
        "frontier": "Accuracy against mean tokens",
        "accuracy": "Accuracy over t",
        "think": "Think rate and mean tokens over t",
    }
    drawn = {}
    with gr.Row(elem_id="explore-sweep"):
        for name, description in descriptions.items():
            with gr.Column(min_width=340):
                drawn[name] = Chart(
                    elem_id=f"explore-{name}",
                    description=description,
                    height=sweep_charts.HEIGHT,
                    hint=f"{description}: press Sweep",
                )
    return drawn


def point_row() -> tuple[gr.Dropdown, gr.Button, gr.Button]:
    """A point of a sweep, and where it can be taken."""
    with gr.Row(elem_classes="controls", elem_id="explore-take"):
        point = gr.Dropdown(
            [],
            label="Point",
            elem_id="explore-point",
            interactive=True,
            visible=False,
            scale=6,
            min_width=300,
        )
        button: dict[str, Any] = {"size": "md", "scale": 1, "min_width": 170, "visible": False}
        to_compare = gr.Button("Open in Compare", elem_id="explore-to-compare", **button)
        to_export = gr.Button("Open in Export", elem_id="explore-to-export", **button)
    return point, to_compare, to_export


def sweep_settings(studio: Studio) -> tuple[gr.Dropdown, gr.Slider, gr.Slider]:
    choice = gr.Dropdown(
        studio.choices(),
        value=PAIR,
        label="Round",
        elem_id="explore-round",
        allow_custom_value=True,
        scale=2,
        min_width=180,
    )
    points = gr.Slider(3, 41, 11, step=1, label="Points", elem_id="explore-points", scale=2, min_width=200)
    bounds = problem_bounds(len(studio.loader.problems))
    problems = gr.Slider(
        minimum=1,
        maximum=bounds["maximum"],
        value=bounds["value"],
        step=1,
        label="Held-out problems",
        elem_id="explore-problems",
        scale=2,
        min_width=200,
    )
    return choice, points, problems


# ---- sweeps


def control_sweeps(
    studio: Studio, view: View, choice: gr.Dropdown, points: gr.Slider, schedule: gr.State
) -> None:
    def do_sweep(request: gr.Request, seen: Seen | None, chosen: str, n: float, count: float, used: Schedule):
        try:
            sweeping.begin(studio, chosen, int(n), int(count), used, request.session_hash)
        except UserError as error:
            return {view.status: html.error(studio.public(str(error)))}
        # a quick sweep may be over and shown before this is: then it is drawn again
        return {view.status: html.quiet("Sweeping …"), view.seen: seen and replace(seen, task=None)}

    def do_stop(request: gr.Request):
        try:
            studio.cancel("sweep", request.session_hash)
        except UserError as error:
            html.toast(error)

    def do_clear(request: gr.Request):
        studio.clear_sweeps(request.session_hash)

    inputs = [view.seen, choice, points, view.problems, schedule]
    on(view.start.click, do_sweep, inputs, [view.status, view.seen])
    on(view.stop.click, do_stop)
    on(view.clear.click, do_clear)


def choose_in_charts(studio: Studio, view: View) -> None:
    """A click on a point of a chart chooses it below, where buttons take it along."""

    def choose(event: gr.SelectData):
        try:
            sweep_points.find(studio.sweeps, event.value)
        except UserError as error:
            html.toast(error)
            return gr.skip()
        return gr.update(value=event.value)

    for chart in (view.frontier, view.accuracy):
        on(chart.select, choose, None, view.point)


# ---- what the tab shows


def follow(
    studio: Studio,
    view: View,
    choice: gr.Dropdown,
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
    outputs = [*vars(view).values(), *editor.told]
    follow_news("explore", tick, inputs, outputs, choice.change)


def seen_now(studio: Studio, choice: str = "") -> Seen:
    """What a page that has chosen this round could draw now."""
    task = studio.tasks.get("sweep")
    running, loaded = studio.running_sweep, studio.loaded
    return Seen(
        id(loaded) if loaded else None,
        choice,
        len(studio.loader.problems),
        tuple((name, id(sweep)) for name, sweep in dict(studio.sweeps).items()),
        id(running) if running else None,
        (id(task), task.done, task.ended) if task else None,
    )


def refresh(studio: Studio, view: View, seen: Seen | None, choice: str) -> Updates:
    """What has changed since `seen`; empty if nothing has, so that an idle page costs nothing."""
    now = seen_now(studio, choice)
    task = studio.tasks.get("sweep")
    sweeps, running = dict(studio.sweeps), studio.running_sweep
    loaded = studio.loaded
    if now == seen:
        return {}
    updates: Updates = {view.seen: now}
    if seen is None or (seen.sweeps, seen.running) != (now.sweeps, now.running):
        updates |= drawn(view, sweeps, running)
    if seen is None or seen.sweeps != now.sweeps:
        updates |= found(view, sweeps)
    if seen is None or (seen.sweeps, seen.task) != (now.sweeps, now.task):
        at_work = bool(task and not task.ended)
        updates[view.status] = sweep_report.status_html(task, running, sweeps.values())
        updates[view.start] = gr.update(interactive=not at_work)
        updates[view.stop] = gr.update(interactive=at_work)
    bounds = problem_bounds(now.problems)
    shown = problem_bounds(seen.problems)["maximum"] if seen else view.problems.maximum
    if bounds["maximum"] != shown:  # another preset
        updates[view.problems] = gr.update(maximum=bounds["maximum"], value=bounds["value"])
    if loaded and (seen is None or (seen.pair, seen.choice) != (now.pair, now.choice)):
        updates |= angle_updates(studio, view, choice)
    return updates


def drawn(view: View, sweeps: dict[str, Sweep], running: Sweep | None) -> Updates:
    """The charts of all sweeps, with what the running one has found so far."""
    shown = list(sweeps.values())
    if running and running.table:
        shown = [sweep for sweep in shown if sweep.name != running.name] + [running]
    figures = sweep_charts.figures([sweep_report.curve(sweep) for sweep in shown])
    return dict(zip((view.frontier, view.accuracy, view.think), figures, strict=True))


def found(view: View, sweeps: dict[str, Sweep]) -> Updates:
    """What follows from the finished sweeps: the points that can be taken to other tabs."""
    points = sweep_points.choices(list(sweeps.values()))
    any_ = bool(points)
    return {
        view.findings: sweep_report.findings_html(list(sweeps.values())),
        view.point: gr.update(choices=points, value=points[0][1] if points else None, visible=any_),
        view.to_compare: gr.update(visible=any_),
        view.to_export: gr.update(visible=any_),
        view.clear: gr.update(visible=any_),
    }


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
