"""The header: when a language model is offered, when a load can be cancelled, how busy the machine is."""

import dataclasses
from types import SimpleNamespace

import gradio as gr
import pytest

from conftest import TINY
from thinkswitch import catalogue
from thinkswitch.preset import load_preset
from ui import header
from ui.meter import Gpu, Reading
from ui.models import tab as models
from ui.studio import Studio


@pytest.fixture
def page():
    """A studio in which the embedded pair seems to be loaded."""
    studio = Studio(load_preset("tiny"), "tiny")
    studio.loader.loaded = SimpleNamespace(preset=studio.preset)
    return studio


def test_a_language_model_is_offered_while_the_embedded_pair_is_in_memory(page):
    assert header.is_offered(page)
    page.loader.loading = True
    assert not header.is_offered(page)
    page.loader.loading = False
    page.loader.loaded.preset = dataclasses.replace(page.preset, thinking=str(TINY.parent / "other"))
    assert not header.is_offered(page)
    page.loader.loaded = None
    assert not header.is_offered(page)


def test_a_demo_offers_no_download_and_lets_nobody_cancel_one(page):
    page.loader.download = SimpleNamespace()
    assert header.can_cancel(page)
    page.demo = True
    assert not header.is_offered(page) and not header.can_cancel(page)


@pytest.mark.parametrize("demo", [False, True])
def test_in_a_demo_no_event_behind_the_hidden_buttons_exists(page, demo, monkeypatch):
    """An event can be sent without a button."""
    page.demo = demo
    monkeypatch.setattr(models, "chip_html", lambda studio, loaded: "the chip")
    with gr.Blocks() as blocks:
        top = header.build(page)
        header.connect(page, top, [gr.Textbox(), gr.Textbox(), gr.Textbox()])
    assert len(blocks.fns) == (0 if demo else 2)


@pytest.fixture
def top(page, monkeypatch):
    """The header of a page with the embedded pair."""
    monkeypatch.setattr(models, "status_html", lambda studio: "tiny is ready")

    def build() -> header.Header:
        with gr.Blocks():
            return header.build(page)

    return build


def test_the_button_names_the_size_and_its_preset_ships(top, monkeypatch):
    monkeypatch.setattr(catalogue, "is_here", lambda preset: False)
    assert top().offer.value == "Try a language model (270 MB)" and top().offer.visible
    assert not top().cancel.visible
    assert load_preset(header.OFFERED).name == "smol"


def test_the_button_promises_no_download_of_what_is_here(top, monkeypatch):
    """It said 270 MB although the weights were in the Hub's cache."""
    monkeypatch.setattr(catalogue, "is_here", lambda preset: preset.name == "smol")
    assert top().offer.value == "Try a language model"


def test_during_a_download_the_header_says_that_the_old_pair_stays_in_use(page):
    page.loader.loading, page.loader.download = True, SimpleNamespace()
    page.loader.status, page.loader.progress = "Downloading <b>: 120 of 270 MB", (120, 270)
    said = models.status_html(page)
    assert "Downloading &lt;b&gt;: 120 of 270 MB …" in said and "tiny stays in use until then" in said
    assert "width:44.4%" in said


def test_a_failed_load_is_told_where_it_was_asked_for_and_not_above_every_tab(page, monkeypatch):
    """PAGE m14: the red error stayed on top of every tab until the next load."""
    monkeypatch.setattr(models, "chip_html", lambda studio, loaded: "the chip")
    page.loader.failed, page.loader.status = True, "/nonsense is neither a folder nor a Hub id"
    assert models.status_html(page) == "the chip"
    said = models.outcome_html(page)
    assert 'class="error">/nonsense is neither' in said and "tiny is still loaded." in said
    page.loader.loaded = None  # then nothing works, and every tab has to say why
    assert "/nonsense is neither" in models.status_html(page)
    page.loader.failed = False
    assert models.outcome_html(page) == ""


def test_the_header_shows_how_busy_the_machine_is():
    said = header.gauges(Reading(cpu=12.4, used=4e9, total=16e9))
    assert ">CPU<" in said and "<b>12 %</b>" in said and "--share:12%" in said
    assert "4.0 of 16.0 GB" in said and "<b>25 %</b>" in said and "GPU" not in said
    said = header.gauges(Reading(1, 1, 2, Gpu(load=97, used=6e9, total=24e9)))
    assert ">GPU<" in said and "<b>97 %</b>" in said and ">GPU memory<" in said and "6.0 of 24.0 GB" in said
