"""Loop: start, stop and resume runs, and watch them. What is shown is read from the run's folder."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from thinkswitch import problems, runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from ui.studio import Studio
from ui.widgets import form, html, run_charts, run_progress, samples
from ui.widgets.components import Chart, LogBox, MessageBox
from ui.widgets.events import on, on_choice

INTRODUCTION = (
    "Start runs the loop with the settings below. "
    "It has a process of its own: closing this page does not stop it."
)
IMPORT_SECONDS = 300  # torch may be read from a slow disk
RESUMABLE = ("new", "stopped", "error", "interrupted")
Updates = dict[gr.blocks.Block, Any]


@dataclass(frozen=True)
class View:
    """The components that follow a run."""

    run: gr.Dropdown
    progress: MessageBox
    loss: Chart
    accuracy: Chart
    tokens: Chart
    round: gr.Dropdown
    stop: gr.Button
    resume: gr.Button
    command: gr.Code
    log: LogBox
    seen: gr.State  # a Seen, or None: draw everything

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        return [part for part in vars(self).values() if part is not self.run]


@dataclass(frozen=True)
class Seen:
    """What a page has drawn of a run."""

    name: str
    state: str
    events: int
    steps: int
    measurements: int


def build(studio: Studio) -> dict:
    """Lay out the tab; returns what a reload brings back, and what the rest of the page updates."""
    with gr.Row(elem_classes="controls"):
        run = gr.Dropdown(
            studio.board()[1],
            value=newest(),
            label="Run",
            elem_id="loop-run",
            allow_custom_value=True,
            scale=4,
            min_width=300,
        )
        stop = gr.Button("Stop", elem_id="loop-stop", interactive=False, size="md", min_width=160)
        resume = gr.Button("Resume", elem_id="loop-resume", interactive=False, size="md", min_width=210)
    progress = MessageBox(html.quiet(INTRODUCTION), elem_id="loop-progress")
    loss, accuracy, tokens = chart_row()
    with gr.Accordion("New run", open=newest() is None, elem_id="loop-new") as new_run:
        settings = form.build(studio.preset, studio.demo)
        start = gr.Button("Start", variant="primary", elem_id="loop-start")
    with gr.Accordion("Samples: kept and dropped answers", open=False, elem_id="loop-samples-box"):
        number, which, table, detail = sample_browser()
    with gr.Accordion("Log and command", open=False, elem_id="loop-log-box", visible=not studio.demo):
        command = gr.Code(
            "", language="shell", label="Command of this run", elem_id="loop-command", interactive=False
        )
        log = LogBox(elem_id="loop-log")
    seen, timer = gr.State(None), gr.Timer(1.0, active=False)
    view = View(run, progress, loss, accuracy, tokens, number, stop, resume, command, log, seen)
    chosen = follow_run(studio, view, timer)
    control_runs(studio, view, new_run, start, settings)
    browse_samples(studio, view, chosen, which, table, detail)
    return {"kept": list(settings.values()), "run": run, "settings": settings, "timer": timer}


# ---- layout


def chart_row() -> tuple[Chart, Chart, Chart]:
    with gr.Row():
        with gr.Column(min_width=320):
            loss = Chart(
                elem_id="loop-loss",
                description="Training loss by step, one line per round",
                hint="Loss: drawn once distillation begins",
                height=run_charts.HEIGHT,
            )
        with gr.Column(min_width=320):
            accuracy = Chart(
                elem_id="loop-accuracy",
                description="Held-out accuracy of both checkpoints by round",
                hint="Accuracy: drawn after the first measurement",
                height=run_charts.HEIGHT,
            )
        with gr.Column(min_width=320):
            tokens = Chart(
                elem_id="loop-tokens",
                description="Mean tokens and think rate of both checkpoints by round",
                hint="Tokens and think rate: drawn after the first measurement",
                height=run_charts.HEIGHT,
            )
    return loss, accuracy, tokens


def sample_browser() -> tuple[gr.Dropdown, gr.Radio, gr.Dataframe, MessageBox]:
    with gr.Row():
        number = gr.Dropdown([], label="Round", allow_custom_value=True, elem_id="loop-samples-round")
        which = gr.Radio(["all", "kept", "dropped"], value="all", label="Show", elem_id="loop-samples-only")
    table = gr.Dataframe(
        headers=samples.COLUMNS,
        datatype=["number", "str", "str", "str", "str", "number"],
        type="array",
        interactive=False,
        elem_id="loop-samples",
        wrap=False,
        max_height=320,
        column_widths=["8%", "10%", "40%", "16%", "16%", "10%"],
        show_label=False,
    )
    detail = MessageBox(elem_id="loop-sample", elem_classes=["sample"])
    return number, which, table, detail


# ---- events


def follow_run(studio: Studio, view: View, timer: gr.Timer) -> Dependency:
    """Returns the event of choosing a run, so that others can follow it."""

    def tick(name: str | None, seen: Seen | None):
        return refresh(studio, view, name, seen) or gr.skip()

    def choose(name: str | None):
        return refresh(studio, view, name, None) or gr.skip()

    on(timer.tick, tick, [view.run, view.seen], view.outputs)
    return on_choice(view.run.input, choose, view.run, view.outputs)


def control_runs(
    studio: Studio,
    view: View,
    new_run: gr.Accordion,
    start: gr.Button,
    settings: dict[str, form.Component],
) -> None:
    def do_start(request: gr.Request, *values):
        try:
            preset = form.read(studio.preset, dict(zip(settings, values, strict=True)))
            check_problems(preset)
            folder, _ = studio.start(preset, request.session_hash)
        except UserError as error:
            return {view.progress: html.toast(UserError(studio.public(str(error))))}
        chosen = gr.update(choices=studio.board()[1], value=folder.name)
        # its curves take the place of the form
        return {
            view.run: chosen,
            view.progress: html.quiet("Starting …"),
            view.seen: None,
            new_run: gr.update(open=False),
        }

    def do_stop(request: gr.Request, name: str | None):
        try:
            studio.stop_run(folder_of(name), request.session_hash)
        except UserError as error:
            return html.toast(UserError(studio.public(str(error))))
        return html.quiet("Stopping at the next step …")

    def do_resume(request: gr.Request, name: str | None):
        try:
            studio.resume(folder_of(name), request.session_hash)
        except UserError as error:
            return {view.progress: html.toast(UserError(studio.public(str(error))))}
        return {view.progress: html.quiet("Resuming …"), view.seen: None}

    def draw(name: str | None, seen: Seen | None):
        return refresh(studio, view, name, seen) or gr.skip()

    changed = [view.run, view.progress, view.seen, new_run]
    started = on(start.click, do_start, list(settings.values()), changed)
    resumed = on(view.resume.click, do_resume, view.run, [view.progress, view.seen])
    for done in (started, resumed):
        on(done.then, draw, [view.run, view.seen], view.outputs)
    on(view.stop.click, do_stop, view.run, view.progress)


def browse_samples(
    studio: Studio,
    view: View,
    chosen: Dependency,
    which: gr.Radio,
    table: gr.Dataframe,
    detail: MessageBox,
) -> None:
    def show_table(name: str | None, number: Any, chosen: str):
        try:
            return {table: samples.table(folder_of(name), number, chosen), detail: ""}
        except UserError:  # the progress line says what is wrong with the run
            return {table: [], detail: ""}

    def show_details(name: str | None, event: gr.SelectData):
        studio.loader.torch_imported.wait(IMPORT_SECONDS)
        try:
            return samples.details(folder_of(name), event.row_value[0], str(event.row_value[1]))
        except UserError as error:
            return html.toast(UserError(studio.public(str(error))))

    for choice in (chosen.then, view.round.change, which.change):
        on_choice(choice, show_table, [view.run, view.round, which], [table, detail])
    on(table.select, show_details, view.run, detail, trigger_mode="multiple")


# ---- what the tab shows of a run


def refresh(studio: Studio, view: View, name: str | None, seen: Seen | None) -> Updates:
    """What has changed since `seen`; empty if nothing has, so that an idle page costs nothing."""
    if not name:
        return {}
    try:
        folder = folder_of(name)
        events, state = studio.events(folder), runs.state(folder)
        progress = run_progress.progress_html(folder, state, events, studio.public)
    except UserError as error:
        return unreadable(view, studio.public(str(error)))
    measured = runs.measured(events)
    steps = sum(event["phase"] == "distil" for event in events)
    now = Seen(name, state, len(events), steps, len(measured))
    if now == seen and state != "running":
        return {}
    before = seen if seen is not None and seen.name == name else Seen(name, "", -1, -1, -1)
    updates: Updates = {view.progress: progress, view.seen: now}
    if now.steps != before.steps:
        updates[view.loss] = run_charts.loss(events)
    if now.measurements != before.measurements:
        updates |= {view.accuracy: run_charts.accuracy(measured), view.tokens: run_charts.tokens(measured)}
    if now.measurements != before.measurements or now.state != before.state:
        finished = rounds_with_samples(folder, events)
        updates[view.round] = gr.update(choices=finished, value=finished[-1] if finished else None)
    if now.state != before.state:
        updates[view.stop] = gr.update(interactive=state == "running")
        updates[view.resume] = gr.update(interactive=state in RESUMABLE and studio.running() is None)
        updates[view.command] = command_of(folder)
    if now.events != before.events or now.state != before.state:
        updates[view.log] = run_progress.log_tail(folder)
    return updates


def unreadable(view: View, message: str) -> Updates:
    """A run that is gone or damaged: say so, and draw nothing."""
    idle = gr.update(interactive=False)
    return {
        view.progress: html.error(message),
        view.loss: "",
        view.accuracy: "",
        view.tokens: "",
        view.stop: idle,
        view.resume: idle,
        view.seen: None,
    }


def rounds_with_samples(folder: Path, events: list[dict]) -> list[str]:
    last = max((event["round"] for event in events), default=0)
    numbers = range(1, last + 1)
    return [str(n) for n in numbers if (runs.round_dir(folder, n) / "samples.jsonl").is_file()]


def command_of(folder: Path) -> str:
    """The command that started a run; one that a terminal started can be repeated from its preset."""
    started = runs.read_info(folder).get("command")
    return shlex.join(started) if started else f"./start.sh run {shlex.quote(str(folder / 'preset.yaml'))}"


# ---- runs and settings


def newest() -> str | None:
    """The name of the newest run."""
    found = runs.runs_in(runs.ROOT)
    return found[0].name if found else None


def folder_of(name: str | None) -> Path:
    """The folder of a listed run. The name comes from outside: it must not reach other folders."""
    found = next((folder for folder in runs.runs_in(runs.ROOT) if folder.name == name), None)
    if found is None:
        raise UserError(
            f"there is no run {name!r}; choose another one" if name else "start or choose a run first"
        )
    return found


def refilled(studio: Studio, names) -> list:
    """The form's values for the preset that is loaded now."""
    return form.values_of(studio.preset, names)


def check_problems(preset: Preset) -> None:
    """Refuse more problems than local files hold, instead of letting the child process fail seconds later."""
    sets = (preset.train_set, preset.held_out_set)
    if all(Path(name).is_file() for name in sets):  # a Hub data set would have to be downloaded
        problems.train_and_held_out(preset)
