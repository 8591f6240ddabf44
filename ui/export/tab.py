"""Export: any point of any round as a folder of ordinary weights, or as an adapter; verified."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.events import Dependency

from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from ui.export import exporting, pushing
from ui.export import report as export_report
from ui.export.exporting import FOLDER, FORMAT_NAMES, Done, Wanted
from ui.export.pushing import PushView
from ui.run_control import PAIR
from ui.scheduling import BackgroundTask
from ui.studio import EXPORTS, Studio
from ui.widgets import html, schedule_editor
from ui.widgets.assets import asset
from ui.widgets.components import FormatCards, MessageBox
from ui.widgets.events import follow_news, on, on_choice

Updates = dict[gr.blocks.Block, Any]


@dataclass(frozen=True)
class Form:
    """What is exported and where to: the components, in the order of `Wanted`."""

    round: gr.Dropdown
    t: gr.Slider
    with_schedule: gr.Checkbox
    format: gr.Radio
    folder: gr.Textbox
    replace: gr.Checkbox
    schedule: gr.State

    @property
    def inputs(self) -> list[Any]:
        return list(vars(self).values())


@dataclass(frozen=True)
class View:
    """The components that follow the form and an export."""

    cards: FormatCards
    plan: MessageBox
    start: gr.Button
    stop: gr.Button
    status: MessageBox
    code: gr.Code
    open: gr.Button
    seen: gr.State  # a Seen, or None: draw everything
    push: PushView

    @property
    def outputs(self) -> list[Any]:
        own = [part for name, part in vars(self).items() if name != "push"]
        return [*own, *vars(self.push).values()]


@dataclass(frozen=True)
class Seen:
    """What a page has drawn. Tasks and pairs are told apart by their identity."""

    pair: int | None
    task: tuple[int, str, int, bool] | None
    push: tuple[int, int, bool] | None


def build(studio: Studio, schedule: gr.State) -> dict:
    """Lay out the tab; returns what a reload brings back, and what the rest of the page updates."""
    form, chip, cards = lay_out_form(studio, schedule)
    with gr.Row(elem_classes="controls"):
        button: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 120}
        start = gr.Button("Export", variant="primary", elem_id="export-start", interactive=False, **button)
        stop = gr.Button("Stop", elem_id="export-stop", interactive=False, **button)
        plan = MessageBox(elem_id="export-plan")
    status = MessageBox(html.quiet(export_report.INTRODUCTION), elem_id="export-status")
    code = gr.Code(
        "", language="python", label="How to use it", elem_id="export-code", visible=False, interactive=False
    )
    with gr.Row(elem_classes="controls"):
        button["min_width"] = 170
        open_ = gr.Button("Open in Compare", elem_id="export-to-compare", visible=False, **button)
    view = View(cards, plan, start, stop, status, code, open_, gr.State(None), pushing.build())
    pushing.control(studio, view.push)
    look_ahead(studio, form, view)
    control_exports(studio, form, view)
    follow(studio, form, view)

    def exported_point() -> tuple[str, float, Schedule]:
        wanted = done_of(studio.tasks.get("export")).wanted
        return wanted.round, wanted.t, wanted.schedule

    return {
        "kept": [form.folder, form.format],
        "round": form.round,
        "take": fill_from_compare(studio, form, view, chip),
        "schedule_chip": chip,
        "open": open_,
        "exported_point": exported_point,
    }


# ---- layout


def lay_out_form(studio: Studio, schedule: gr.State) -> tuple[Form, gr.Button, FormatCards]:
    gr.Markdown("### What")
    with gr.Row(elem_classes="controls"):
        choice = gr.Dropdown(
            studio.choices(),
            value=PAIR,
            label="Round",
            elem_id="export-round",
            allow_custom_value=True,
            scale=2,
        )
        t = gr.Slider(
            0,
            1,
            0.5,
            step=0.01,
            label="t: 0 = instruct, 1 = thinking",
            elem_id="export-t",
            scale=3,
            min_width=260,
        )
        with_schedule = gr.Checkbox(
            False,
            label="With the schedule",
            elem_id="export-schedule",
            visible=False,
            container=False,
            scale=0,
            min_width=160,
        )
        chip = schedule_editor.chip("export-reset-schedule")
    gr.Markdown("### Format")
    format_ = gr.Radio(FORMAT_NAMES, value=FOLDER, label="Format", elem_id="export-format", visible="hidden")
    cards = FormatCards(elem_id="export-cards")
    folder, replaces = lay_out_destination(studio)
    return Form(choice, t, with_schedule, format_, folder, replaces, schedule), chip, cards


def lay_out_destination(studio: Studio) -> tuple[gr.Textbox, gr.Checkbox]:
    gr.Markdown("### Where")
    anywhere = f"{EXPORTS}/my-blend, or any other new folder; a relative one starts where the app was started"
    with gr.Row(elem_classes="controls"):
        folder = gr.Textbox(
            label=f"Name, new inside {EXPORTS}/" if studio.demo else "Folder",
            elem_id="export-folder",
            scale=4,
            min_width=300,
            max_lines=1,
            placeholder="my-blend" if studio.demo else anywhere,
        )
        replaces = gr.Checkbox(
            False,
            label="Replace an earlier export",
            elem_id="export-replace",
            visible=not studio.demo,
            container=False,
            scale=1,
            min_width=220,
        )
    return folder, replaces


# ---- events


def look_ahead(studio: Studio, form: Form, view: View) -> None:
    """Keep cards, plan and the button up to date with the form."""

    def look(*values) -> Updates:
        return outlook(studio, view, Wanted(*values))

    for part in form.inputs:
        on_choice(part.change, look, form.inputs, [view.cards, view.plan, view.start])


def outlook(studio: Studio, view: View, wanted: Wanted) -> Updates:
    """What can be exported with the form as it stands."""
    offers = exporting.offers(studio, wanted)
    ahead = exporting.look_ahead(studio, wanted)
    off = [offer for offer in offers if offer.format.name == wanted.format and offer.reason]
    if off:  # its card says why
        ahead = exporting.Outlook(f"There is no {wanted.format} of this point; choose another format.")
    task = studio.tasks.get("export")
    at_work = task is not None and not task.ended
    cards = export_report.cards(offers, wanted.format)
    return {
        view.cards: cards if offers else gr.skip(),
        view.plan: "" if at_work else export_report.outlook_html(ahead),
        view.start: gr.update(interactive=ahead.possible and not at_work),
    }


def control_exports(studio: Studio, form: Form, view: View) -> None:
    def do_export(request: gr.Request, seen: Seen | None, *values):
        try:
            exporting.begin(studio, Wanted(*values), request.session_hash)
        except UserError as error:
            return {view.plan: html.error(exporting.sentence(studio, error))}
        off = gr.update(interactive=False)
        hidden = gr.update(visible=False)
        started = {view.status: html.quiet("Exporting …"), view.plan: "", view.start: off}
        # a quick export may be over and shown before this is: then it is drawn again
        drawn = seen and replace(seen, task=None)
        return {**started, view.code: hidden, view.open: hidden, view.seen: drawn}

    def do_stop(request: gr.Request):
        try:
            studio.cancel("export", request.session_hash)
        except UserError as error:
            html.toast(error)

    outputs = [view.status, view.plan, view.start, view.code, view.open, view.seen]
    for event in (view.start.click, form.folder.submit):
        on(event, do_export, [view.seen, *form.inputs], outputs)
    on(view.stop.click, do_stop)


def follow(studio: Studio, form: Form, view: View) -> None:
    def tick(seen: Seen | None, *values):
        return refresh(studio, view, seen, Wanted(*values)) or gr.skip()

    follow_news("export", tick, [view.seen, *form.inputs], view.outputs)


def fill_from_compare(
    studio: Studio, form: Form, view: View, chip: gr.Button
) -> Callable[[Callable[..., Dependency], dict], Dependency]:
    """Returns `take`, which after an event fills the form with the round, t and schedule of Compare."""

    renaming = gr.JSON({}, visible="hidden")

    def in_force(schedule: Schedule) -> Updates:
        """An update that comes before the tab was first opened is lost, so the chip gets its own here."""
        is_one = schedule != Schedule()
        return {
            form.with_schedule: gr.update(value=is_one, visible=is_one),
            chip: schedule_editor.chip_update(schedule, studio.tensor_names()),
        }

    def name(choice: str, t: float, folder: str) -> dict[str, str]:
        chosen = folder and not exporting.OUR_NAMES.fullmatch(folder)  # by the visitor
        try:
            return {"from": folder, "to": folder if chosen else exporting.proposed(studio, choice, t)}
        except UserError:  # there is no such round, which the plan says
            return {"from": folder, "to": folder}

    def fill(choice: str, t: float, folder: str, schedule: Schedule):
        updates: Updates = {form.round: choice, form.t: t, renaming: name(choice, t, folder)}
        return {**updates, **in_force(schedule)}

    def look(*values) -> Updates:
        return outlook(studio, view, Wanted(*values))

    def rename_after(event: Callable[..., Dependency]) -> Dependency:
        """In the browser, which knows what has been typed since the server was asked."""
        named = on(event, None, [form.folder, renaming], form.folder, js=asset("rename.js"))
        return on(named.then, look, form.inputs, [view.cards, view.plan, view.start])

    def take(event: Callable[..., Dependency], compare: dict) -> Dependency:
        inputs = [compare["round"], compare["t"], form.folder, form.schedule]
        filled = on_choice(event, fill, inputs, [form.round, form.t, form.with_schedule, chip, renaming])
        return rename_after(filled.then)

    for part in (form.round, form.t):
        rename_after(on_choice(part.input, name, [form.round, form.t, form.folder], renaming).then)
    on(form.schedule.change, in_force, form.schedule, [form.with_schedule, chip], trigger_mode="multiple")
    return take


# ---- what the tab shows


def seen_now(studio: Studio) -> Seen:
    """What a page could draw now."""
    task, loaded = studio.tasks.get("export"), studio.loaded
    state = (id(task), task.stage, task.done, task.ended) if task else None
    push = studio.tasks.get("push")
    return Seen(id(loaded) if loaded else None, state, (id(push), push.done, push.ended) if push else None)


def refresh(studio: Studio, view: View, seen: Seen | None, wanted: Wanted) -> Updates:
    """What has changed since `seen`; empty if nothing has."""
    now, task = seen_now(studio), studio.tasks.get("export")
    if now == seen:
        return {}
    updates: Updates = {view.seen: now}
    if task is not None and (seen is None or seen.task != now.task):
        updates |= of_task(studio, view, task)
    if seen is None or (seen.task, seen.push) != (now.task, now.push):
        updates |= pushing.updates(studio, view.push)
    if seen is None or seen.pair != now.pair or (task is not None and task.ended):
        updates |= outlook(studio, view, wanted)
    return updates


def of_task(studio: Studio, view: View, task: BackgroundTask) -> Updates:
    succeeded = task.ended and not task.error
    updates: Updates = {
        view.stop: gr.update(interactive=not task.ended),
        view.code: gr.update(value="", visible=False),
        view.open: gr.update(visible=succeeded),
    }
    if not task.ended:
        updates[view.status] = export_report.progress_html(task)
        updates[view.start] = gr.update(interactive=False)
        updates[view.plan] = ""
    elif task.error:
        text = exporting.sentence(studio, task.error)
        updates[view.status] = html.quiet(text) if task.cancelled else html.error(text)
    else:
        updates |= of_success(studio, view, done_of(task))
    return updates


def of_success(studio: Studio, view: View, done: Done) -> Updates:
    exported = done.exported
    if studio.demo:  # no path is shown
        return {view.status: export_report.result_html(exported, exported.folder.name)}
    language = exporting.language_of(done.wanted.format)
    return {
        view.status: export_report.result_html(exported, str(exported.folder)),
        view.code: gr.update(value=exported.code, language=language, visible=True),
    }


def done_of(task: BackgroundTask | None) -> Done:
    if task is None or not isinstance(task.result, Done):
        raise UserError("this export is gone meanwhile")
    return task.result
