"""The Export tab's box that pushes to the Hub: when it is there, when it is off, and what it says."""

from types import SimpleNamespace

import gradio as gr
import pytest

from thinkswitch.errors import UserError
from thinkswitch.export import push_child
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
    begun = SimpleNamespace(ended=False, done=0, total=0)
    at_work = pushing.updates(studio(push=begun), view)
    assert not at_work[view.start]["interactive"] and at_work[view.stop]["interactive"]
    assert "Pushing" in at_work[view.status]
    half = SimpleNamespace(ended=False, done=1_500_000, total=3_000_000)
    assert "1.50 of 3.00 MB" in pushing.updates(studio(push=half), view)[view.status]
    stopped = SimpleNamespace(ended=True, cancelled=True, error="the push was stopped", result=None)
    told = pushing.updates(studio(push=stopped), view)
    assert told[view.start]["interactive"] and not told[view.stop]["interactive"]
    assert "nothing was published" in told[view.status]
    failed = SimpleNamespace(ended=True, cancelled=False, error="<b>no</b>", result=None)
    told = pushing.updates(studio(push=failed), view)
    assert told[view.start]["interactive"] and told[view.status] == error("<b>no</b>.")
    assert "<b>no</b>" not in told[view.status]
    address = 'https://hub/me/"onclick="x'
    done = SimpleNamespace(ended=True, cancelled=True, error=None, result=address)  # stopped too late
    assert (
        'href="https://hub/me/&#34;onclick=&#34;x"' in pushing.updates(studio(push=done), view)[view.status]
    )


def test_both_ways_to_upload_are_counted_in_the_installed_library(tmp_path):
    """It tells nobody but its bars; if it names those otherwise some day, this says so."""
    from huggingface_hub import utils
    from huggingface_hub.utils import _xet_progress_reporting as xet

    before = xet.XetUploadProgressReporter, utils.tqdm_stream_file
    assert all(before)
    progress = push_child.Progress(total=100)
    (tmp_path / "x").write_bytes(bytes(60))
    with push_child.counted(progress):
        with utils.tqdm_stream_file(tmp_path / "x") as file:
            assert len(file.read(40)) == 40 and progress.message() == ["upload", 40, 100]
            file.seek(0)  # a second try
            file.read(10)
        assert progress.message() == ["upload", 10, 100]
        reporter = xet.XetUploadProgressReporter()
        reporter.update_progress(SimpleNamespace(total_bytes_completed=70), {})
        reporter.close()
        assert progress.message() == ["upload", 80, 100]
    assert before == (xet.XetUploadProgressReporter, utils.tqdm_stream_file)
    progress.publish()
    assert progress.message()[0] == "publish"
