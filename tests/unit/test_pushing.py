"""The Export tab's box that pushes to the Hub: when it is there, when it is off, and what it says."""

from types import SimpleNamespace

import gradio as gr
import pytest

from thinkswitch.errors import UserError
from ui.export import exporting, pushing
from ui.widgets.html import error


@pytest.fixture
def view() -> pushing.PushView:
    with gr.Blocks():
        return pushing.build()


def studio(demo: bool = False, exported: bool = True, push: SimpleNamespace | None = None) -> SimpleNamespace:
    done = exporting.Done(SimpleNamespace(folder="out"), None)
    tasks = {"export": SimpleNamespace(result=done if exported else None)}
    if push:
        tasks["push"] = push
    return SimpleNamespace(demo=demo, tasks=tasks, public=lambda text: text)


def test_without_a_token_the_button_is_off_and_says_why(view, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    updates = pushing.updates(studio(), view)
    assert updates[view.box]["visible"] and not updates[view.start]["interactive"]
    assert "hf auth login" in updates[view.status]


@pytest.mark.parametrize("shown", [studio(demo=True), studio(exported=False)])
def test_a_demo_and_a_page_without_an_export_have_no_box(view, shown, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    assert pushing.updates(shown, view) == {view.box: gr.update(visible=False)}
    with pytest.raises(UserError, match=r"demo|no export to push"):
        pushing.begin(shown, "me/x", True)


def test_a_push_at_work_is_not_begun_twice_and_its_end_is_told(view, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    at_work = pushing.updates(studio(push=SimpleNamespace(ended=False)), view)
    assert not at_work[view.start]["interactive"] and "Pushing" in at_work[view.status]
    failed = SimpleNamespace(ended=True, error="<b>no</b>", result=None)
    told = pushing.updates(studio(push=failed), view)
    assert told[view.start]["interactive"] and told[view.status] == error("<b>no</b>.")
    assert "<b>no</b>" not in told[view.status]
    address = 'https://hub/me/"onclick="x'
    done = SimpleNamespace(ended=True, error=None, result=address)
    assert (
        'href="https://hub/me/&#34;onclick=&#34;x"' in pushing.updates(studio(push=done), view)[view.status]
    )
