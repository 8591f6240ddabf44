"""What the Loop tab shows of a run: read from the run's folder, sent only when it has changed."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from thinkswitch import runs
from thinkswitch.errors import UserError
from ui.loop import form, run_charts, run_progress
from ui.loop.run_charts import Overlay
from ui.loop.run_menu import RunMenu
from ui.run_control import folder_of
from ui.studio import Studio
from ui.widgets import html
from ui.widgets.components import Chart, LogBox, MessageBox

RESUMABLE = ("new", "stopped", "error", "interrupted")
NO_OVERLAY = ""
INTRODUCTION = (
    "Start runs the loop with the settings below. "
    "It has a process of its own: closing this page does not stop it."
)
Updates = dict[gr.blocks.Block, Any]


@dataclass(frozen=True)
class View:
    """The components that follow a run."""

    run: gr.Dropdown
    overlay: gr.Dropdown  # another run, laid over this one's curves
    progress: MessageBox
    scores: MessageBox
    loss: Chart
    accuracy: Chart
    tokens: Chart
    round: gr.Dropdown
    start: gr.Button
    refusal: MessageBox  # why a run was not started
    stop: gr.Button
    resume: gr.Button
    command: gr.Code
    log: LogBox
    menu: RunMenu
    seen: gr.State  # a Seen, or None: draw everything

    @property
    def inputs(self) -> list[gr.blocks.Block]:
        return [self.run, self.overlay, self.seen]

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        shown = [part for part in vars(self).values() if part not in (self.run, self.overlay, self.menu)]
        return [*shown, *self.menu.outputs]


@dataclass(frozen=True)
class Seen:
    """What a page has drawn of a run."""

    name: str
    state: str = ""
    events: int = -1
    steps: int = -1
    measurements: int = -1
    running: str | None = ""  # the run that is going on, whichever is shown
    overlay: tuple[str, int] = ("", -1)  # its name and number of events


def refresh(
    studio: Studio, view: View, name: str | None, seen: Seen | None, overlaid: str | None = None
) -> Updates:
    """What has changed since `seen`; empty if nothing has, so that an idle page costs nothing."""
    if not name:
        return {} if seen == Seen("") else nothing_chosen(view)

    def public(text: str) -> str:
        return form.with_labels(studio.public(text))

    try:
        folder = folder_of(name)
        events, state = studio.events(folder), runs.state(folder)
        progress = run_progress.progress_html(folder, state, events, public)
    except UserError as error:
        return unreadable(view, name, seen, public(str(error)))
    overlay = overlay_of(studio, overlaid, name)
    measured = runs.measured(events)
    steps = sum(event["phase"] == "distil" for event in events)
    running = studio.running()
    now = Seen(
        name,
        state,
        len(events),
        steps,
        len(measured),
        running.name if running else None,
        (overlay.name, len(overlay.events)),
    )
    if now == seen and state != "running":
        return {}
    before = seen if seen is not None and seen.name == name else Seen(name)
    updates: Updates = {view.progress: progress, view.seen: now}
    updates |= changed_charts(view, now, before, events, overlay)
    updates |= changed_buttons(view, now, before)
    if seen is None or seen.name != name:
        updates |= view.menu.of(folder)
    if now.measurements != before.measurements or now.state != before.state:
        finished = rounds_with_samples(folder, events)
        updates[view.round] = gr.update(choices=finished, value=finished[-1] if finished else None)
    if now.state != before.state:
        updates[view.command] = command_of(folder)
    if now.events != before.events or now.state != before.state:
        updates[view.log] = run_progress.log_tail(folder)
    return updates


def changed_charts(view: View, now: Seen, before: Seen, events: list[dict], overlay: Overlay) -> Updates:
    updates: Updates = {}
    measured = runs.measured(events)
    if (now.steps, now.overlay) != (before.steps, before.overlay):
        updates[view.loss] = run_charts.loss(events, overlay)
    if (now.measurements, now.overlay) != (before.measurements, before.overlay):
        updates[view.accuracy] = run_charts.accuracy(measured, overlay)
        updates[view.tokens] = run_charts.tokens(measured, overlay)
    if now.measurements != before.measurements:
        updates[view.scores] = run_progress.scores_html(measured)
    return updates


def changed_buttons(view: View, now: Seen, before: Seen) -> Updates:
    """A button that cannot work is off; loop.css says why."""
    updates: Updates = {}
    if now.state != before.state:
        updates[view.stop] = gr.update(interactive=now.state == "running")
    if (now.state, now.running) != (before.state, before.running):
        may_resume = now.state in RESUMABLE and now.running is None
        updates[view.resume] = gr.update(interactive=may_resume)
    if now.running != before.running:
        updates[view.start] = gr.update(interactive=now.running is None)
        updates[view.refusal] = ""  # "stop it first" outlived the run that it spoke of
    return updates


def overlay_of(studio: Studio, overlaid: str | None, shown: str) -> Overlay:
    """The events of the run that is laid over; none if it is the shown one, gone or damaged."""
    if not overlaid or overlaid == shown:
        return Overlay()
    try:
        return Overlay(overlaid, studio.events(folder_of(overlaid)))
    except UserError:
        return Overlay()


def nothing_chosen(view: View) -> Updates:
    return {**blank(view), view.progress: html.no_run(INTRODUCTION), view.seen: Seen("")}


def unreadable(view: View, name: str, seen: Seen | None, message: str) -> Updates:
    """A run that is gone or damaged: say so, and draw nothing."""
    now = Seen(name, f"unreadable: {message}")
    return {} if seen == now else {**blank(view), view.progress: html.error(message), view.seen: now}


def blank(view: View) -> Updates:
    idle = gr.update(interactive=False)
    empty: Updates = dict.fromkeys((view.scores, view.loss, view.accuracy, view.tokens), "")
    return {**empty, view.stop: idle, view.resume: idle}


def rounds_with_samples(folder: Path, events: list[dict]) -> list[str]:
    last = max((event["round"] for event in events), default=0)
    numbers = range(1, last + 1)
    return [str(n) for n in numbers if (runs.round_dir(folder, n) / "samples.jsonl").is_file()]


def command_of(folder: Path) -> str:
    """The command that started a run; one that a terminal started can be repeated from its preset."""
    started = runs.read_info(folder).get("command")
    return shlex.join(started) if started else f"./start.sh run {shlex.quote(str(folder / 'preset.yaml'))}"
