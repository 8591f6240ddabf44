"""What can be done with a finished run: rename, delete, fill the form with its settings, copy its path."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import escape

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.text import format_bytes
from ui.loop import form
from ui.run_control import folder_of, newest
from ui.studio import Studio
from ui.widgets import html
from ui.widgets.components import MessageBox
from ui.widgets.events import on

DELETE, DELETE_NOW = "Delete", "Delete for good"


@dataclass(frozen=True)
class RunMenu:
    """A row below the run's drop-down, folded at first."""

    row: gr.Row
    is_open: gr.State
    name: gr.Textbox
    rename: gr.Button
    reuse: gr.Button
    delete: gr.Button
    keep: gr.Button  # takes the first of the two clicks on Delete back
    asked: gr.State  # the name of the run whose deletion was asked once
    folder: gr.Textbox
    message: MessageBox

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        return [self.name, self.folder, *self.confirming]

    @property
    def confirming(self) -> list[gr.blocks.Block]:
        return [self.delete, self.keep, self.asked, self.message]

    def of(self, folder: Path) -> dict[gr.blocks.Block, Any]:
        """What it shows for another run."""
        return {self.name: folder.name, self.folder: str(folder.absolute()), **self.calm()}

    def calm(self, message: str = "") -> dict[gr.blocks.Block, Any]:
        """Nothing is about to be deleted."""
        return {
            self.delete: gr.update(value=DELETE),
            self.keep: gr.update(visible=False),
            self.asked: None,
            self.message: message,
        }

    def confirm(self, folder: Path) -> dict[gr.blocks.Block, Any]:
        number = runs.rounds_done(folder)
        content = f"{number} round{'' if number == 1 else 's'}, {format_bytes(size_of(folder))}"
        return {
            self.delete: gr.update(value=DELETE_NOW),
            self.keep: gr.update(visible=True),
            self.asked: folder.name,
            self.message: f"{folder.name} ({content}) will be gone; this cannot be undone.",
        }


def build(demo: bool) -> RunMenu:
    with gr.Column(visible=False, elem_id="loop-menu") as row:
        with gr.Row(elem_classes="controls"):
            name = gr.Textbox(label="Name", elem_id="loop-name", max_lines=1, scale=3, min_width=220)
            rename = gr.Button("Rename", elem_id="loop-rename", size="md", min_width=100)
            reuse = gr.Button("Use its settings", elem_id="loop-reuse", size="md", min_width=150)
            delete = gr.Button(DELETE, elem_id="loop-delete", variant="stop", size="md", min_width=140)
            keep = gr.Button("Keep it", elem_id="loop-keep", size="md", min_width=100, visible=False)
            folder = gr.Textbox(
                label="Folder",
                elem_id="loop-folder",
                interactive=False,
                buttons=["copy"],
                max_lines=1,
                scale=4,
                min_width=260,
                visible=not demo,
            )
        message = MessageBox(elem_id="loop-menu-message")
    return RunMenu(row, gr.State(False), name, rename, reuse, delete, keep, gr.State(None), folder, message)


def connect(
    studio: Studio,
    menu: RunMenu,
    manage: gr.Button,
    run: gr.Dropdown,
    seen: gr.State,
    new_run: gr.Accordion,
    settings: dict[str, form.Component],
) -> None:
    def refuse(error: UserError):
        return html.toast(UserError(studio.public(str(error))))

    def toggle(is_open: bool):
        return gr.update(visible=not is_open), not is_open

    def do_rename(request: gr.Request, name: str | None, wanted: str | None):
        try:
            renamed = studio.rename_run(folder_of(name), wanted or "", request.session_hash)
        except UserError as error:
            return {menu.message: refuse(error)}
        chosen = gr.update(choices=studio.board()[1], value=renamed.name)
        return {run: chosen, seen: None}

    def do_delete(request: gr.Request, name: str | None, asked: str | None):
        try:
            folder = folder_of(name)
            if asked != name:
                studio.may_delete(folder, request.session_hash)
                return menu.confirm(folder)
            studio.delete_run(folder, request.session_hash)
        except UserError as error:
            return menu.calm(refuse(error))
        chosen = gr.update(choices=studio.board()[1], value=newest())
        gr.Info(str(escape(f"{name} was deleted.")), title="Runs")
        return {run: chosen, seen: None, **menu.calm()}

    def do_keep():
        return menu.calm()

    def do_reuse(name: str | None):
        try:
            preset = runs.open_run(folder_of(name))
        except UserError as error:
            return {menu.message: refuse(error)}
        values = dict(zip(settings.values(), form.values_of(preset, settings), strict=True))
        said = "The form below holds its settings; Start begins a new run with them."
        return {**values, new_run: gr.update(open=True), menu.message: said}

    on(manage.click, toggle, menu.is_open, [menu.row, menu.is_open])
    for submit in (menu.rename.click, menu.name.submit):
        on(submit, do_rename, [run, menu.name], [run, seen, menu.message])
    on(menu.delete.click, do_delete, [run, menu.asked], [run, seen, *menu.confirming])
    on(menu.keep.click, do_keep, None, menu.confirming)
    on(menu.reuse.click, do_reuse, run, [*settings.values(), new_run, menu.message])


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
