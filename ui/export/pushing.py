"""Pushing the last export to the Hub. Not in a demo, whose visitors would push with the host's token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from thinkswitch.errors import UserError
from thinkswitch.text import format_bytes_of
from ui.export import exporting, push_process
from ui.scheduling import BackgroundTask
from ui.studio import Studio
from ui.widgets import html
from ui.widgets.components import MessageBox
from ui.widgets.events import on

Updates = dict[gr.blocks.Block, Any]
STARTING = "Pushing …"
STOPPED = "The push was stopped and nothing was published; Push goes on: what has arrived is not sent again."
NO_TOKEN = "Pushing to the Hub needs a token: <code>hf auth login</code> in a terminal, then reload."


@dataclass(frozen=True)
class PushView:
    """The components of the box."""

    box: gr.Column
    name: gr.Textbox
    private: gr.Checkbox
    start: gr.Button
    stop: gr.Button
    status: MessageBox


def build() -> PushView:
    """Hidden until there is an export to push."""
    with gr.Column(visible=False, elem_id="export-push-box") as box:
        gr.Markdown("### To the Hub")
        with gr.Row(elem_classes="controls"):
            name = gr.Textbox(
                label="Repository",
                placeholder="your-name/my-blend",
                max_lines=1,
                elem_id="export-push-name",
                scale=4,
                min_width=300,
            )
            private = gr.Checkbox(
                True,
                label="Private",
                container=False,
                scale=0,
                min_width=120,
                elem_id="export-push-private",
            )
            button: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 120}
            start = gr.Button("Push", elem_id="export-push", **button)
            stop = gr.Button("Stop", elem_id="export-push-stop", interactive=False, **button)
        status = MessageBox(elem_id="export-push-status")
    return PushView(box, name, private, start, stop, status)


def control(studio: Studio, view: PushView) -> None:
    def do_push(request: gr.Request, name: str, private: bool):
        try:
            begin(studio, name.strip(), bool(private), request.session_hash)
        except UserError as error:
            return {view.status: html.error(exporting.sentence(studio, error))}
        return {view.status: html.quiet(STARTING), view.start: gr.update(interactive=False)}

    def do_stop(request: gr.Request):
        try:
            studio.cancel("push", request.session_hash)
        except UserError as error:
            html.toast(error)

    for event in (view.start.click, view.name.submit):
        on(event, do_push, [view.name, view.private], [view.status, view.start])
    on(view.stop.click, do_stop)


def begin(studio: Studio, name: str, private: bool, session_hash: str | None = None) -> None:
    """Start pushing the export that was made last; refuses at once what the Hub would not take."""
    if studio.demo:
        raise UserError("nothing is pushed from a demo; run ThinkSwitch Studio yourself")
    task = studio.tasks.get("export")
    if task is None or not isinstance(task.result, exporting.Done):
        raise UserError("there is no export to push; export a point first")
    folder = task.result.exported.folder
    from thinkswitch.export import hub_push

    hub_push.validate_folder(folder)
    there = hub_push.find_repository(name, private)

    def work(cancelled: Callable[[], bool]):
        return push_process.push(folder, there)

    studio.task("push", work, session_hash)


def updates(studio: Studio, view: PushView) -> Updates:
    """What the box shows, by how far the export and the push are."""
    export, push = studio.tasks.get("export"), studio.tasks.get("push")
    exported = export is not None and isinstance(export.result, exporting.Done)
    if studio.demo or not exported:
        return {view.box: gr.update(visible=False)}
    from thinkswitch.export import hub_push

    at_work = push is not None and not push.ended
    may_push = hub_push.has_token()
    return {
        view.box: gr.update(visible=True),
        view.start: gr.update(interactive=may_push and not at_work),
        view.stop: gr.update(interactive=at_work),
        view.status: outcome(studio, push) if may_push else Markup(NO_TOKEN),
    }


def outcome(studio: Studio, push: BackgroundTask | None) -> Markup | str:
    if push is None:
        return ""
    if not push.ended:
        return progress_html(push)
    if push.cancelled and push.error:
        return html.quiet(STOPPED)
    if push.error:
        return html.error(exporting.sentence(studio, push.error))
    link = '<b>Pushed</b> to <a href="{0}" target="_blank" rel="noopener">{0}</a>.'
    return Markup(link).format(push.result)


def progress_html(push: BackgroundTask) -> Markup:
    if not push.total:
        return html.quiet(STARTING)
    told = html.quiet(f"Pushing … {format_bytes_of(push.done, push.total)}")
    return told + html.progress_bar(push.done, push.total)
