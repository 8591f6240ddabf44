"""Loop: start, stop and resume runs, and watch them. What is shown is read from the run's folder."""

from pathlib import Path
from typing import Any

import gradio as gr

from thinkswitch import problems
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from ui.loop import form, own_problems, run_charts, run_menu, samples
from ui.loop.view import INTRODUCTION, NO_OVERLAY, Seen, View, refresh
from ui.run_control import folder_of, newest
from ui.studio import Studio
from ui.widgets import html
from ui.widgets.components import Chart, LogBox, MessageBox
from ui.widgets.events import draw_after, follow_news, on, on_choice

IMPORT_SECONDS = 300  # torch may be read from a slow disk


def build(studio: Studio) -> dict:
    """Lay out the tab; returns what a reload brings back, and what the rest of the page updates."""
    with gr.Row(elem_classes="controls", elem_id="loop-controls"):
        run, overlay = run_choices(studio)
        stop = gr.Button("Stop", elem_id="loop-stop", interactive=False, size="md", min_width=160)
        resume = gr.Button("Resume", elem_id="loop-resume", interactive=False, size="md", min_width=210)
        manage = gr.Button("Manage", elem_id="loop-manage", size="md", min_width=96)
    menu = run_menu.build(studio.demo)
    progress = MessageBox(html.no_run(INTRODUCTION), elem_id="loop-progress")
    loss, accuracy, tokens = chart_row()
    scores = MessageBox(elem_id="loop-scores")
    with gr.Accordion("New run", open=newest() is None, elem_id="loop-new") as new_run:
        made = form.build(studio.preset, studio.demo)
        settings = made.settings
        if not studio.demo:
            own_problems.build(studio, settings)
        start = gr.Button("Start", variant="primary", elem_id="loop-start")
        refusal = MessageBox(elem_id="loop-refusal")
    with gr.Accordion("Samples: kept and dropped answers", open=False, elem_id="loop-samples-box"):
        number, which, table, detail = sample_browser()
    with gr.Accordion("Log and command", open=False, elem_id="loop-log-box", visible=not studio.demo):
        command = gr.Code(
            "", language="shell", label="Command of this run", elem_id="loop-command", interactive=False
        )
        log = LogBox(elem_id="loop-log")
    view = View(
        run=run,
        overlay=overlay,
        progress=progress,
        scores=scores,
        loss=loss,
        accuracy=accuracy,
        tokens=tokens,
        round=number,
        start=start,
        refusal=refusal,
        stop=stop,
        resume=resume,
        command=command,
        log=log,
        menu=menu,
        seen=gr.State(None),
    )
    follow_run(studio, view)
    control_runs(studio, view, new_run, settings)
    run_menu.connect(studio, menu, manage, run, view.seen, new_run, settings)
    browse_samples(studio, view, which, table, detail)
    return {
        "kept": list(settings.values()),
        "run": run,
        "overlay": overlay,
        "new_run": new_run,
        "form": made,
    }


# ---- layout


def run_choices(studio: Studio) -> tuple[gr.Dropdown, gr.Dropdown]:
    runs = studio.board()[1]
    run = gr.Dropdown(
        runs,
        value=newest(),
        label="Run",
        elem_id="loop-run",
        allow_custom_value=True,
        scale=4,
        min_width=280,
    )
    overlay = gr.Dropdown(
        overlay_choices(runs),
        value=NO_OVERLAY,
        label="Lay over, dashed",
        elem_id="loop-overlay",
        allow_custom_value=True,
        scale=2,
        min_width=180,
    )
    return run, overlay


def overlay_choices(runs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [("none", NO_OVERLAY), *((name, name) for _, name in runs)]


def chart_row() -> tuple[Chart, Chart, Chart]:
    with gr.Row(elem_id="loop-charts"):
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
        datatype=["number", "number", "str", "str", "str", "number"],
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


def follow_run(studio: Studio, view: View) -> None:
    def tick(name: str | None, overlaid: str | None, seen: Seen | None):
        return refresh(studio, view, name, seen, overlaid) or gr.skip()

    # chosen by the visitor, or by the pulse when a run was started or deleted
    follow_news("loop", tick, view.inputs, view.outputs, view.run.change, view.overlay.change)


def control_runs(
    studio: Studio, view: View, new_run: gr.Accordion, settings: dict[str, form.Component]
) -> None:
    def refuse(error: UserError):
        return html.toast(UserError(studio.public(form.with_labels(str(error)))))

    def do_start(request: gr.Request, *values):
        try:
            preset = form.read(studio.preset, dict(zip(settings, values, strict=True)))
            check_problems(preset)
            folder, _ = studio.start(preset, request.session_hash)
        except UserError as error:
            return {view.refusal: refuse(error)}
        chosen = gr.update(choices=studio.board()[1], value=folder.name)
        # its curves take the place of the form
        return {
            view.run: chosen,
            view.progress: html.quiet("Starting …"),
            view.refusal: "",
            view.seen: None,
            new_run: gr.update(open=False),
        }

    def do_stop(request: gr.Request, name: str | None):
        try:
            studio.stop_run(folder_of(name), request.session_hash)
        except UserError as error:
            refuse(error)  # a toast: the line goes on to say how far the run is
            return {view.seen: None}
        return {view.progress: html.quiet("Stopping at the next step …")}

    def do_resume(request: gr.Request, name: str | None):
        try:
            studio.resume(folder_of(name), request.session_hash)
        except UserError as error:
            refuse(error)
            return {view.seen: None}
        return {view.progress: html.quiet("Resuming …"), view.seen: None}

    changed = [view.run, view.progress, view.refusal, view.seen, new_run]
    started = on(view.start.click, do_start, list(settings.values()), changed)
    resumed = on(view.resume.click, do_resume, view.run, [view.progress, view.seen])
    for done in (started, resumed):
        draw_after(done.then, "loop")
    on(view.stop.click, do_stop, view.run, [view.progress, view.seen])


def browse_samples(
    studio: Studio,
    view: View,
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
            return samples.details(folder_of(name), event.row_value[0], event.row_value[1])
        except UserError as error:
            return html.toast(UserError(studio.public(str(error))))

    for choice in (view.run.change, view.round.change, which.change):
        on_choice(choice, show_table, [view.run, view.round, which], [table, detail])
    on(table.select, show_details, view.run, detail, trigger_mode="multiple")


# ---- settings


def check_problems(preset: Preset) -> None:
    """Refuse more problems than local files hold, instead of letting the child process fail seconds later."""
    sets = (preset.train_set, preset.held_out_set)
    if all(Path(name).is_file() for name in sets):  # a Hub data set would have to be downloaded
        problems.train_and_held_out(preset)
