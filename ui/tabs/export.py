"""Export: any point of any round as a folder of ordinary weights, or as an adapter; verified against the live blend."""

import re
from html import escape
from pathlib import Path

import gradio as gr

from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from thinkswitch.text import format_bytes
from ui.studio import EXPORTS, PAIR, Studio
from ui.widgets import html
from ui.widgets.components import MessageBox

FOLDER, ADAPTER = "Hugging Face folder", "PEFT adapter"


def build(studio: Studio, schedule: gr.State) -> dict:
    quiet = dict(show_progress="hidden", api_visibility="private", concurrency_limit=None)
    with gr.Row(equal_height=True):
        round = gr.Dropdown(studio.choices(), value=PAIR, label="Round", elem_id="export-round", allow_custom_value=True, scale=2)
        t = gr.Slider(0, 1, 0.5, step=0.01, label="t (0 instruct, 1 thinking)", elem_id="export-t", scale=2, min_width=260)
        with gr.Column(scale=1, min_width=230):
            uses = gr.Checkbox(False, label="with the schedule of Explore", elem_id="export-schedule")
        format = gr.Radio([FOLDER, ADAPTER], value=FOLDER, label="Format", elem_id="export-format", scale=2, min_width=240)
    with gr.Row(equal_height=True):
        folder = gr.Textbox(label="Name" if studio.demo else "Folder", elem_id="export-folder", scale=4, min_width=300, max_lines=1,
                            info=f"goes into {EXPORTS}/" if studio.demo else f"a new folder; relative ones lie beside {EXPORTS}/", placeholder=f"{EXPORTS}/my-blend")
        with gr.Column(scale=1, min_width=230):
            replace = gr.Checkbox(False, label="replace an earlier export", elem_id="export-replace", interactive=not studio.demo)
    before = MessageBox(elem_id="export-plan")
    with gr.Row():
        start = gr.Button("Export", variant="primary", elem_id="export-start")
        stop = gr.Button("Stop", elem_id="export-stop", interactive=False)
    status = MessageBox(html.quiet("An export is written beside, loaded again with plain transformers and compared with the live blend; only then it takes its name."), elem_id="export-status")
    code = gr.Code("", language="python", label="Load it", elem_id="export-code", visible=False, interactive=False)
    seen, timer = gr.State(None), gr.Timer(1.0, active=False)
    inputs = [round, t, uses, format, folder, replace, schedule]

    def look(*values):
        try:
            return plan_html(studio, *values)
        except UserError as error:
            return html.error(told(studio, error))

    def do_export(*values):
        try:
            begin(studio, *values)
        except UserError as error:
            return html.toast(UserError(told(studio, error))), gr.update(visible=False)
        return html.quiet("Exporting …"), gr.update(visible=False)

    def do_stop():
        if task := studio.tasks.get("export"):
            task.cancel()

    for part in (round, t, uses, format, folder, replace):
        part.change(look, inputs, before, trigger_mode="always_last", **quiet)
    for event in (start.click, folder.submit):
        event(do_export, inputs, [status, code], **quiet)
    stop.click(do_stop, None, None, **quiet)
    timer.tick(lambda last: refresh(studio, last), seen, [status, code, stop, seen], **quiet)

    def prefill(choice: str, at: float, now: str, schedule: Schedule):
        """As Compare has it; a name is proposed as long as the visitor has not written one."""
        ours = not now or re.fullmatch(rf"({EXPORTS}/)?[\w.-]+-(round-\d+|pair)-t[\d.]+", now)
        return choice, at, schedule != Schedule(), proposed(studio, choice, at) if ours else now

    def take(after, compare: dict):
        return after(prefill, [compare["round"], compare["t"], folder, schedule], [round, t, uses, folder], **quiet).then(look, inputs, before, **quiet)

    return dict(kept=[folder, format], round=round, timer=timer, take=take)


def proposed(studio: Studio, choice: str, t: float) -> str:
    run, number = (None, 0) if choice == PAIR else studio.run_of(choice)
    name = f"{run.name}-round-{number}" if run else f"{studio.preset.name or 'blend'}-pair"
    return f"{'' if studio.demo else f'{EXPORTS}/'}{name}-t{t:g}"


def target(studio: Studio, folder: str) -> Path:
    """Where to write. On a stage: one plain name inside one folder."""
    folder = (folder or "").strip()
    if not folder:
        raise UserError("no folder is named; write where the export should go")
    if not studio.demo:
        return Path(folder)
    if not re.fullmatch(r"\w[\w.-]{0,79}", folder):
        raise UserError(f"{folder[:80]!r} is no plain name; on a stage an export is named by letters, digits, - and _")
    return EXPORTS / folder


def requested(studio: Studio, round: str, t: float, uses: bool, format: str, folder: str, replace: bool, schedule: Schedule):
    """The ExportRequest that the form describes."""
    loaded = studio.ready()
    from thinkswitch.export.point import ExportPoint, ExportRequest
    point = ExportPoint(loaded.pair, studio.round(loaded, round)[0], float(t), schedule if uses else Schedule(), loaded.preset, format == ADAPTER)
    return ExportRequest(point, target(studio, folder), replace=bool(replace) and not studio.demo, run=studio.run_of(round)[0])


def plan_html(studio: Studio, *values) -> str:
    if studio.loaded is None or not values[4]:
        return ""
    from thinkswitch.export import export as exporter
    plan = exporter.plan_export(requested(studio, *values))
    return (f"{format_bytes(plan.size)} in {plan.tensors} tensors ({plan.dtype}), with the {plan.template} checkpoint's tokenizer and chat template; "
            f"{format_bytes(plan.free)} are free there.")


def begin(studio: Studio, *values) -> None:
    request, loaded = requested(studio, *values), studio.ready()
    from thinkswitch.export import export as exporter
    exporter.plan_export(request)
    [recipe] = studio.points(loaded, values[0], [request.point.t], request.point.schedule)
    studio.task("export", lambda cancelled: exporter.export(request, blend=loaded.blend, recipe=recipe, turn=studio.lane.turn,
                                                          cancelled=cancelled))


def refresh(studio: Studio, last) -> tuple:
    task = studio.tasks.get("export")
    now = task and (id(task), task.stage, task.done, task.ended)
    if now == last or task is None:
        return (gr.skip(),) * 4
    if not task.ended:
        what = {"write": "Writing", "verify": "Loading it again and comparing"}.get(task.stage, "Starting")
        return f"{what} …" + html.progress_bar(task.done, task.total), gr.update(visible=False), gr.update(interactive=True), now
    if task.error:
        return html.error(told(studio, task.error)), gr.update(visible=False), gr.update(interactive=False), now
    done = task.result
    shown = done.folder.name if studio.demo else str(done.folder)
    text = (f"<b>Exported</b> to <code>{escape(shown)}</code>: {format_bytes(done.size)} in {done.files} files, {done.seconds:.1f} s.<br>"
            f"Read back from its files: no layer differs from the live blend's by more than {done.error:.1e} (relative); the likeliest "
            f"token is the same at {100 * done.same_tokens:.1f} % of positions.")
    return text, gr.update(value=done.code if not studio.demo else "", visible=not studio.demo), gr.update(interactive=False), now


def told(studio: Studio, error) -> str:
    """As a sentence; on a stage without the way to the folder."""
    text = studio.public(str(error))
    return text[:1].upper() + text[1:] + "."
