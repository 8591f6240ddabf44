"""The Models tab: which pairs a visitor may name."""

import gradio as gr
import pytest

from thinkswitch.errors import UserError
from thinkswitch.preset import PRESETS, load_preset
from ui.studio import Studio
from ui.tabs import models


def test_a_stage_takes_no_paths_whatever_is_sent():
    tiny = load_preset("tiny")
    sent = ("tiny", "/etc", "owner/model")
    assert models.wanted(Studio(tiny, "tiny", demo=True), ["tiny"], *sent) == tiny
    assert models.wanted(Studio(tiny, "tiny"), ["tiny"], *sent).instruct == "/etc"
    with pytest.raises(UserError, match="no preset '../x'"):
        models.wanted(Studio(tiny, "tiny", demo=True), ["tiny"], "../x", "", "")


def test_a_stage_offers_only_pairs_that_are_here():
    """Since presets of Hub ids ship, the drop-down would have let a visitor fetch 16 GB."""
    offered = [name for name in (p.stem for p in PRESETS.glob("*.yaml")) if models.is_here(load_preset(name))]
    assert offered == ["tiny"]
    with gr.Blocks() as page:
        models.build(Studio(load_preset("tiny"), "tiny", demo=True))
    assert [c.choices for c in page.blocks.values() if getattr(c, "elem_id", "") == "models-preset"] == [
        [("tiny", "tiny")]
    ]
