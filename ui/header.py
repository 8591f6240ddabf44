"""The header: the pair in memory or how far loading is, an offer, Cancel, and how busy the machine is."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gradio as gr
from gradio.components import Component
from markupsafe import Markup

from thinkswitch import catalogue
from thinkswitch.errors import UserError
from thinkswitch.paths import short_path
from thinkswitch.preset import PRESETS, Preset, load_preset
from thinkswitch.text import format_bytes_of
from ui.meter import Reading, percent
from ui.models import tab as models
from ui.studio import Studio
from ui.widgets import html
from ui.widgets.assets import asset
from ui.widgets.components import MessageBox
from ui.widgets.events import on

OFFERED = "smol"  # the preset behind the offer
OFFERED_SIZE = "270 MB"
EMBEDDED = PRESETS / "tiny"


@dataclass(frozen=True)
class Header:
    """Its components. What they show is the same on every page: see pulse.py."""

    status: Component
    offer: gr.Button
    cancel: gr.Button


def build(studio: Studio) -> Header:
    with gr.Row(elem_id="header"):
        fixed_html(Markup(asset("masthead.html")).format(logo=Markup(asset("favicon.svg"))), "title")
        with gr.Row(elem_id="models-line"):
            status = MessageBox(models.status_html(studio), elem_id="models-status")
            offer = small_button(offer_label(studio), "models-offer")
            cancel = small_button("Cancel" if can_cancel(studio) else "", "models-cancel")
        fixed_html(Markup('<div class="gauges">{}</div>').format(gauges(studio.meter.read())), "machine-load")
        fixed_html(asset("tools.html"), "header-tools")
    fixed_html(asset("hints.html"), "first-steps")
    return Header(status, offer, cancel)


def fixed_html(text: str, elem_id: str) -> gr.HTML:
    return gr.HTML(text, elem_id=elem_id, apply_default_css=False)


def small_button(label: str, elem_id: str) -> gr.Button:
    """One that is there only while it has a label."""
    return gr.Button(label, elem_id=elem_id, size="sm", scale=0, min_width=90, visible=bool(label))


def connect(studio: Studio, header: Header, boxes: list[Component]) -> None:
    """`boxes`: preset and checkpoints of the Models tab, which then name what is being loaded."""

    def load_offered(request: gr.Request):
        try:
            preset = offered_preset()
            studio.load(preset, OFFERED, request.session_hash)
        except UserError as error:
            html.toast(error)
            return [gr.skip()] * len(boxes)
        return [OFFERED, short_path(preset.instruct), short_path(preset.thinking)]

    def cancel_loading() -> None:
        if can_cancel(studio):
            studio.loader.cancel()

    if not studio.demo:  # in a demo neither is shown, and an event can be sent without a button
        on(header.offer.click, load_offered, None, boxes)
        on(header.cancel.click, cancel_loading)


def offer_label(studio: Studio) -> str:
    """What the button that offers a language model says; empty where none is offered."""
    if not is_offered(studio):
        return ""
    here = catalogue.is_here(offered_preset())
    return "Try a language model" if here else f"Try a language model ({OFFERED_SIZE})"


@cache
def offered_preset() -> Preset:
    """Read once: every page asks every second."""
    return load_preset(OFFERED)


def is_offered(studio: Studio) -> bool:
    """While the embedded pair is in memory and nothing is on its way. A demo downloads nothing."""
    loaded = studio.loaded
    if loaded is None or studio.loader.loading or studio.demo:
        return False
    sides = (loaded.preset.instruct, loaded.preset.thinking)
    return all(Path(side).resolve().parent == EMBEDDED.resolve() for side in sides)


def can_cancel(studio: Studio) -> bool:
    return studio.loader.can_cancel and not studio.demo


def gauges(reading: Reading) -> Markup:
    """Processor, memory and graphics card, a small bar each. pulse.js keeps them up to date."""
    memory = format_bytes_of(reading.used, reading.total)
    shown = [
        gauge("CPU", reading.cpu, "of all cores"),
        gauge("Memory", percent(reading.used, reading.total), memory),
    ]
    card = reading.gpu
    if card:
        shown.append(gauge("GPU", card.load, "at work"))
        held = format_bytes_of(card.used, card.total)
        shown.append(gauge("GPU memory", percent(card.used, card.total), held))
    return Markup().join(shown)


def gauge(name: str, share: float, detail: str) -> Markup:
    template = (
        '<span class="gauge" title="{} {}: {}"><span>{}</span><i style="--share:{}"></i><b>{}</b></span>'
    )
    text = f"{min(100.0, share):.0f} %"
    return Markup(template).format(name, text, detail, name, text.replace(" ", ""), text)
