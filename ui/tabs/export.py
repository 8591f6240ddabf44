"""Export: any point of any round as a folder of ordinary weights, or as an adapter; verified."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency
from markupsafe import Markup

from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from thinkswitch.text import format_bytes
from ui.run_control import PAIR
from ui.scheduling import BackgroundTask
from ui.studio import EXPORTS, Studio
from ui.widgets import html, schedule_editor
from ui.widgets.assets import asset
from ui.widgets.components import MessageBox
from ui.widgets.events import on, on_choice

if TYPE_CHECKING:
    from thinkswitch.export.export import Exported
    from thinkswitch.export.point import ExportRequest

FOLDER, ADAPTER = "Hugging Face folder", "PEFT adapter"
INTRODUCTION = (
    "An export is written to a temporary folder, loaded again with Transformers and compared with "
    "the live model. Then it is moved into place."
)
STAGES = {"write": "Writing", "verify": "Loading it again and comparing"}
OUR_NAMES = re.compile(rf"({EXPORTS}/)?[\w.-]+-(round-\d+|pair)-t[\d.]+")
Updates = dict[gr.blocks.Block, Any]


@dataclass(frozen=True)
class Form:
    """What is exported and where to: the components, in the order of `Wanted`."""

    round: gr.Dropdown
    t: gr.Slider
    with_schedule: gr.Checkbox
    layout: gr.Radio
    folder: gr.Textbox
    replace: gr.Checkbox
    schedule: gr.State


@dataclass(frozen=True)
class Wanted:
    """The values of the form."""

    round: str
    t: float
    with_schedule: bool
    layout: str  # FOLDER | ADAPTER
    folder: str
    replace: bool
    schedule: Schedule


@dataclass(frozen=True)
class View:
    """The components that follow an export."""

    plan: MessageBox
    status: MessageBox
    code: gr.Code
    stop: gr.Button
    seen: gr.State  # a Seen, or None: draw everything


@dataclass(frozen=True)
class Seen:
    task: int
    stage: str
    done: int
    ended: bool


def build(studio: Studio, schedule: gr.State) -> dict:
    """Lay out the tab; returns what a reload brings back, and what the rest of the page updates."""
    form, chip = lay_out_form(studio, schedule)
    plan = MessageBox(elem_id="export-plan")
    with gr.Row():
        start = gr.Button("Export", variant="primary", elem_id="export-start")
        stop = gr.Button("Stop", elem_id="export-stop", interactive=False)
    status = MessageBox(html.quiet(INTRODUCTION), elem_id="export-status")
    code = gr.Code(
        "", language="python", label="How to load it", elem_id="export-code", visible=False, interactive=False
    )
    view = View(plan, status, code, stop, gr.State(None))
    timer = gr.Timer(1.0, active=False)
    look = show_plan(studio, form, plan)
    control_exports(studio, form, view, start)
    follow(studio, view, timer)
    take = fill_from_compare(studio, form, plan, look, chip)
    return {
        "kept": [form.folder, form.layout],
        "round": form.round,
        "timer": timer,
        "take": take,
        "schedule_chip": chip,
    }


def lay_out_form(studio: Studio, schedule: gr.State) -> tuple[Form, gr.Button]:
    with gr.Row(equal_height=True):
        choice = gr.Dropdown(
            studio.choices(),
            value=PAIR,
            label="Round (the pair = round 0)",
            elem_id="export-round",
            allow_custom_value=True,
            scale=2,
        )
        t = gr.Slider(
            0,
            1,
            0.5,
            step=0.01,
            label="t (0 instruct, 1 thinking)",
            elem_id="export-t",
            scale=2,
            min_width=260,
        )
        with gr.Column(scale=1, min_width=230):
            with_schedule = gr.Checkbox(False, label="With Explore's schedule", elem_id="export-schedule")
            chip = schedule_editor.chip("export-reset-schedule")
        layout = gr.Radio(
            [FOLDER, ADAPTER], value=FOLDER, label="Format", elem_id="export-format", scale=2, min_width=240
        )
    in_exports = f"A new name inside {EXPORTS}/."
    anywhere = "A new folder. A relative path starts where the app was started."
    with gr.Row(equal_height=True):
        folder = gr.Textbox(
            label="Name" if studio.demo else "Folder",
            elem_id="export-folder",
            scale=4,
            min_width=300,
            max_lines=1,
            info=in_exports if studio.demo else anywhere,
            placeholder="my-blend" if studio.demo else f"{EXPORTS}/my-blend",
        )
        with gr.Column(scale=1, min_width=230):
            replace = gr.Checkbox(
                False,
                label="Replace an earlier export",
                elem_id="export-replace",
                interactive=not studio.demo,
            )
    return Form(choice, t, with_schedule, layout, folder, replace, schedule), chip


# ---- events


def show_plan(studio: Studio, form: Form, plan: MessageBox) -> Callable[..., Markup]:
    """Keep the plan line up to date; returns what computes it."""

    def look(*values) -> Markup:
        try:
            return plan_html(studio, Wanted(*values))
        except UserError as error:
            return html.error(sentence(studio, error))

    inputs = list(vars(form).values())
    for part in (form.round, form.t, form.with_schedule, form.layout, form.folder, form.replace):
        on_choice(part.change, look, inputs, plan)
    return look


def control_exports(studio: Studio, form: Form, view: View, start: gr.Button) -> None:
    def do_export(request: gr.Request, *values):
        hidden = gr.update(visible=False)
        try:
            begin(studio, Wanted(*values), request.session_hash)
        except UserError as error:
            return {view.status: html.toast(UserError(sentence(studio, error))), view.code: hidden}
        return {view.status: html.quiet("Exporting …"), view.code: hidden}

    def do_stop(request: gr.Request):
        try:
            studio.cancel("export", request.session_hash)
        except UserError as error:
            html.toast(error)

    for event in (start.click, form.folder.submit):
        on(event, do_export, list(vars(form).values()), [view.status, view.code])
    on(view.stop.click, do_stop)


def follow(studio: Studio, view: View, timer: gr.Timer) -> None:
    def tick(seen: Seen | None):
        return refresh(studio, view, seen) or gr.skip()

    on(timer.tick, tick, view.seen, list(vars(view).values()))


def fill_from_compare(
    studio: Studio, form: Form, plan: MessageBox, look: Callable[..., Markup], chip: gr.Button
) -> Callable[[Callable[..., Dependency], dict], Dependency]:
    """Returns `take`, which after an event fills the form with the round, t and schedule of Compare."""

    renaming = gr.JSON({}, visible="hidden")

    def fill(choice: str, t: float, folder: str, schedule: Schedule):
        updates: Updates = {form.round: choice, form.t: t, form.with_schedule: schedule != Schedule()}
        chosen = folder and not OUR_NAMES.fullmatch(folder)  # by the visitor
        # an update that comes before the tab was first opened is lost
        updates[chip] = schedule_editor.chip_update(schedule, studio.tensor_names())
        name = folder if chosen else proposed(studio, choice, t)
        updates[renaming] = {"from": folder, "to": name}
        return updates

    def take(event: Callable[..., Dependency], compare: dict) -> Dependency:
        inputs = [compare["round"], compare["t"], form.folder, form.schedule]
        filled = on_choice(event, fill, inputs, [form.round, form.t, form.with_schedule, chip, renaming])
        # in the browser, which knows what has been typed since the server was asked
        named = on(filled.then, None, [form.folder, renaming], form.folder, js=asset("rename.js"))
        return on(named.then, look, list(vars(form).values()), plan)

    return take


# ---- the export


def proposed(studio: Studio, choice: str, t: float) -> str:
    """A name for the folder of a point."""
    run, number = studio.run_of(choice)
    name = f"{run.name}-round-{number}" if run else f"{studio.preset.name or 'blend'}-pair"
    return f"{name}-t{t:g}" if studio.demo else f"{EXPORTS}/{name}-t{t:g}"


def target(studio: Studio, folder: str) -> Path:
    """Where to write. In a demo: one plain name inside one folder."""
    name = (folder or "").strip()
    if not name:
        raise UserError("no folder is named; write where the export should go")
    if not studio.demo:
        return Path(name)
    if not re.fullmatch(r"\w[\w.-]{0,79}", name):
        raise UserError(
            f"{name[:80]!r} is not a plain name; use letters, digits, - and _ to name an export in a demo"
        )
    return EXPORTS / name


def request_of(studio: Studio, wanted: Wanted) -> "ExportRequest":
    loaded = studio.ready()
    from thinkswitch.export.point import ExportPoint, ExportRequest

    point = ExportPoint(
        loaded.pair,
        studio.find_round(loaded, wanted.round),
        float(wanted.t),
        wanted.schedule if wanted.with_schedule else Schedule(),
        loaded.preset,
        wanted.layout == ADAPTER,
    )
    replace = bool(wanted.replace) and not studio.demo
    run, _ = studio.run_of(wanted.round)
    return ExportRequest(point, target(studio, wanted.folder), replace, run)


def plan_html(studio: Studio, wanted: Wanted) -> Markup:
    """What an export would write; empty while there is nothing to plan."""
    if studio.loaded is None or not wanted.folder:
        return Markup()
    from thinkswitch.export import export as exporter

    plan = exporter.plan_export(request_of(studio, wanted))
    return Markup(
        "{} in {} tensors ({}), with tokenizer and chat template of the {} checkpoint. {} are free there."
    ).format(format_bytes(plan.size), plan.tensors, plan.dtype, plan.template, format_bytes(plan.free))


def begin(studio: Studio, wanted: Wanted, session_hash: str | None = None) -> None:
    """Start an export as a task of the page that asks; refuses before work what cannot be written."""
    loaded = studio.ready()
    from thinkswitch.export import export as exporter

    request = request_of(studio, wanted)
    exporter.plan_export(request)

    def work(cancelled: Callable[[], bool]):
        with studio.using(loaded, wanted.round):
            [recipe] = studio.points(loaded, wanted.round, [request.point.t], request.point.schedule)
            return (yield from exporter.export(request, loaded.blend, recipe, studio.turn, cancelled))

    studio.task("export", work, session_hash)


# ---- what the tab shows


def refresh(studio: Studio, view: View, seen: Seen | None) -> Updates:
    """What has changed since `seen`; empty if nothing has."""
    task = studio.tasks.get("export")
    if task is None:
        return {}
    now = Seen(id(task), task.stage, task.done, task.ended)
    if now == seen:
        return {}
    updates: Updates = {view.seen: now, view.stop: gr.update(interactive=not task.ended)}
    updates[view.code] = gr.update(visible=False)
    if not task.ended:
        updates[view.status] = progress_html(task)
    elif task.error:
        updates[view.status] = ended_early_html(studio, task)
    else:
        updates[view.status] = result_html(studio, task.result)
        updates[view.plan] = ""  # it said what would be written
        updates[view.code] = gr.update(value="" if studio.demo else task.result.code, visible=not studio.demo)
    return updates


def progress_html(task: BackgroundTask) -> Markup:
    return html.quiet(f"{STAGES.get(task.stage, 'Starting')} …") + html.progress_bar(task.done, task.total)


def ended_early_html(studio: Studio, task: BackgroundTask) -> Markup:
    text = sentence(studio, task.error)
    return html.quiet(text) if task.cancelled else html.error(text)


def result_html(studio: Studio, done: "Exported") -> Markup:
    folder = done.folder.name if studio.demo else done.folder
    written = Markup("<b>Exported</b> to <code>{}</code>: {} in {} files, {:.1f} s.").format(
        folder, format_bytes(done.size), done.files, done.seconds
    )
    compared = (
        f"Loaded again from its files, no layer differs from the live model's by more than {done.error:.1e} "
        f"(relative). The likeliest token is the same at {100 * done.same_tokens:.1f} % of positions."
    )
    return Markup("{}<br>{}").format(written, compared)


def sentence(studio: Studio, error: UserError | str | None) -> str:
    """An error as a sentence; in a demo without paths."""
    text = studio.public(str(error))
    return f"{text[:1].upper()}{text[1:]}."
