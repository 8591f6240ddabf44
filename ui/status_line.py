"""The line above the tabs: what is loaded or how far loading is, the offer of a language model, Cancel."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.components import Component

from thinkswitch.errors import UserError
from thinkswitch.paths import short_path
from thinkswitch.preset import PRESETS, load_preset
from ui.studio import Studio
from ui.tabs import models
from ui.widgets import html
from ui.widgets.components import MessageBox
from ui.widgets.events import on

OFFERED = "smol"  # the preset behind the offer
OFFERED_SIZE = "270 MB"
EMBEDDED = PRESETS / "tiny"


@dataclass(frozen=True)
class StatusLine:
    """Its components. What they show is the same on every page: see pulse.py."""

    status: Component
    offer: gr.Button
    cancel: gr.Button


def build(studio: Studio) -> StatusLine:
    with gr.Row(elem_id="models-line"):
        status = MessageBox(models.status_html(studio), elem_id="models-status")
        offer = gr.Button(
            f"Try a language model ({OFFERED_SIZE})",
            elem_id="models-offer",
            size="sm",
            scale=0,
            min_width=120,
            visible=is_offered(studio),
        )
        cancel = gr.Button(
            "Cancel",
            elem_id="models-cancel",
            size="sm",
            scale=0,
            min_width=90,
            visible=can_cancel(studio),
        )
    return StatusLine(status, offer, cancel)


def connect(studio: Studio, line: StatusLine, boxes: list[Component]) -> None:
    """`boxes`: preset and checkpoints of the Models tab, which then name what is being loaded."""

    def load_offered(request: gr.Request):
        try:
            preset = load_preset(OFFERED)
            studio.load(preset, OFFERED, request.session_hash)
        except UserError as error:
            html.toast(error)
            return [gr.skip()] * len(boxes)
        return [OFFERED, short_path(preset.instruct), short_path(preset.thinking)]

    def cancel_download() -> None:
        if can_cancel(studio):
            studio.loader.cancel_download()

    if not studio.demo:  # in a demo neither is shown, and an event can be sent without a button
        on(line.offer.click, load_offered, None, boxes)
        on(line.cancel.click, cancel_download)


def is_offered(studio: Studio) -> bool:
    """While the embedded pair is in memory and nothing is on its way. A demo downloads nothing."""
    loaded = studio.loaded
    if loaded is None or studio.loader.loading or studio.demo:
        return False
    sides = (loaded.preset.instruct, loaded.preset.thinking)
    return all(Path(side).resolve().parent == EMBEDDED.resolve() for side in sides)


def can_cancel(studio: Studio) -> bool:
    return studio.loader.download is not None and not studio.demo
