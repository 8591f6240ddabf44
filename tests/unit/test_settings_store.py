"""What a browser keeps of the settings, and what a page takes back."""

import dataclasses

import gradio as gr
import pytest

from thinkswitch.preset import load_preset
from ui import settings_store


@pytest.fixture
def components():
    with gr.Blocks():
        return [gr.Number(3, elem_id="knob-rounds"), gr.Textbox("", elem_id="prompt")]


def test_only_what_was_changed_is_taken_back(components):
    number, text = components
    assert settings_store.restored({"changed": {"knob-rounds": 5}}, components) == {number: 5}
    assert settings_store.restored({"changed": {"prompt": ""}}, components) == {text: ""}
    assert settings_store.restored({"changed": {"gone": 1}}, components) == {}


@pytest.mark.parametrize("stored", [None, [5, "hello"], "x", {}, {"changed": [1]}, {"changed": None}, 7])
def test_another_shape_is_ignored(components, stored):
    """Older pages stored a list of all values."""
    assert settings_store.restored(stored, components) == {}


def test_an_edited_preset_has_a_store_of_its_own():
    """The key was the preset's name: after an edit of the YAML, Start ran what the browser remembered."""
    tiny = load_preset("tiny")
    assert settings_store.storage_key(tiny) == settings_store.storage_key(load_preset("tiny"))
    assert settings_store.storage_key(tiny) != settings_store.storage_key(dataclasses.replace(tiny, epochs=9))


def test_every_stored_component_has_a_name_of_its_own(components):
    with gr.Blocks():
        nameless, twin = gr.Number(1), gr.Number(1, elem_id="prompt")
    for extra in (nameless, twin):
        with pytest.raises(ValueError, match="elem_id of its own"):
            settings_store.by_elem_id([*components, extra])
