"""The line above the tabs: when a language model is offered, and when a download can be cancelled."""

import dataclasses
from types import SimpleNamespace

import gradio as gr
import pytest

from conftest import TINY
from thinkswitch.preset import load_preset
from ui import status_line
from ui.studio import Studio
from ui.tabs import models


@pytest.fixture
def page():
    """A studio in which the embedded pair seems to be loaded."""
    studio = Studio(load_preset("tiny"), "tiny")
    studio.loader.loaded = SimpleNamespace(preset=studio.preset)
    return studio


def test_a_language_model_is_offered_while_the_embedded_pair_is_in_memory(page):
    assert status_line.is_offered(page)
    page.loader.loading = True
    assert not status_line.is_offered(page)
    page.loader.loading = False
    page.loader.loaded.preset = dataclasses.replace(page.preset, thinking=str(TINY.parent / "other"))
    assert not status_line.is_offered(page)
    page.loader.loaded = None
    assert not status_line.is_offered(page)


def test_a_demo_offers_no_download_and_lets_nobody_cancel_one(page):
    page.loader.download = SimpleNamespace()
    assert status_line.can_cancel(page)
    page.demo = True
    assert not status_line.is_offered(page) and not status_line.can_cancel(page)


def test_the_button_names_the_size_and_its_preset_ships(page, monkeypatch):
    monkeypatch.setattr(models, "status_html", lambda studio: "tiny is ready")
    with gr.Blocks():
        line = status_line.build(page)
    assert line.offer.value == "Try a language model (270 MB)" and line.offer.visible
    assert not line.cancel.visible
    assert load_preset(status_line.OFFERED).name == "smol"


def test_during_a_download_the_line_says_that_the_old_pair_stays_in_use(page):
    page.loader.loading, page.loader.download = True, SimpleNamespace()
    page.loader.status, page.loader.progress = "Downloading <b>: 120 of 270 MB", (120, 270)
    said = models.status_html(page)
    assert "Downloading &lt;b&gt;: 120 of 270 MB …" in said and "tiny stays in use until then" in said
    assert "width:44.4%" in said
