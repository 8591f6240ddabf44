"""The Export tab: where an export may go, and what the tab says of it."""

import dataclasses
from pathlib import Path

import gradio as gr
import pytest

from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset
from thinkswitch.recipe import Schedule
from ui.run_control import PAIR
from ui.studio import EXPORTS, Studio
from ui.tabs import export

HOSTILE = "<img src=x onerror=x()>"
TINY = load_preset("tiny")


def wanted(**changes) -> export.Wanted:
    usual = export.Wanted(PAIR, 0.5, False, export.FOLDER, "out", False, Schedule(mlp=0.5))
    return dataclasses.replace(usual, **changes)


def test_the_values_of_the_form_are_in_the_order_of_its_components():
    names = [field.name for field in dataclasses.fields(export.Form)]
    assert names == [field.name for field in dataclasses.fields(export.Wanted)]


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", "..", ".hidden", "x" * 81, "a b"])
def test_a_demo_exports_into_one_folder_only(name):
    with pytest.raises(UserError, match="is not a plain name"):
        export.target(Studio(TINY, "tiny", demo=True), name)


def test_an_export_goes_where_its_name_says():
    assert export.target(Studio(TINY, "tiny", demo=True), " mine ") == EXPORTS / "mine"
    assert export.target(Studio(TINY, "tiny"), "/somewhere/else") == Path("/somewhere/else")
    for nothing in ("", "  ", None):
        with pytest.raises(UserError, match="no folder is named"):
            export.target(Studio(TINY, "tiny"), nothing)


def test_a_proposed_name_says_what_is_exported_and_gives_way_to_the_next_one(root):
    from thinkswitch import runs

    runs.create(TINY, root / "my run")
    studio = Studio(TINY, "tiny")
    assert export.proposed(studio, PAIR, 0.25) == "exports/tiny-pair-t0.25"
    assert export.proposed(studio, "my run · round 2", 1.0) == "exports/my run-round-2-t1"
    assert export.proposed(Studio(TINY, "tiny", demo=True), PAIR, 0.25) == "tiny-pair-t0.25"
    for ours in ("exports/tiny-pair-t0.25", "tiny-pair-t1", "exports/x-round-12-t0.5"):
        assert export.OUR_NAMES.fullmatch(ours)
    for theirs in ("exports/mine", "tiny-pair", "/tmp/tiny-pair-t0.25/x"):
        assert not export.OUR_NAMES.fullmatch(theirs)


def test_the_request_is_what_the_form_says(studio):
    request = export.request_of(studio, wanted())
    assert (request.point.t, request.point.schedule, request.point.adapter) == (0.5, Schedule(), False)
    assert (request.out, request.replace, request.run) == (Path("out"), False, None)
    other = export.request_of(
        studio, wanted(with_schedule=True, layout=export.ADAPTER, replace=True, folder="b", t=1)
    )
    assert (other.point.t, other.point.schedule, other.point.adapter) == (1.0, Schedule(mlp=0.5), True)
    assert (other.out, other.replace) == (Path("b"), True)


def test_the_plan_names_size_and_tensors(studio, tmp_path):
    said = export.plan_html(studio, wanted(folder=str(tmp_path / "out")))
    assert "1.7 MB in 46 tensors (BF16)" in said
    assert "instruct checkpoint" in said
    assert not (tmp_path / "out").exists()
    assert export.plan_html(studio, wanted(folder="")) == ""


@dataclasses.dataclass
class Task:
    stage: str = ""
    done: int = 0
    total: int = 0
    ended: bool = False
    error: str | None = None
    cancelled: bool = False
    result: object = None


@dataclasses.dataclass
class Exported:
    folder: Path
    size: int = 1_700_000
    files: int = 9
    seconds: float = 1.5
    error: float = 3.4e-3
    same_tokens: float = 1.0
    code: str = "load()"


def view_of() -> export.View:
    with gr.Blocks():
        return export.View(*(gr.State(None) for _ in dataclasses.fields(export.View)))


def test_the_tab_follows_an_export_to_its_end():
    studio, view = Studio(TINY, "tiny"), view_of()
    assert export.refresh(studio, view, None) == {}
    studio.tasks["export"] = task = Task("write", 1, 4)
    updates = export.refresh(studio, view, None)
    assert "Writing …" in updates[view.status]
    assert "width:25.0%" in updates[view.status]
    assert updates[view.stop]["interactive"]
    assert export.refresh(studio, view, updates[view.seen]) == {}
    task.ended, task.result = True, Exported(Path("exports") / HOSTILE)
    updates = export.refresh(studio, view, updates[view.seen])
    assert "<b>Exported</b>" in updates[view.status]
    assert updates[view.plan] == ""  # it went on promising what a second export would be refused
    assert "by more than 3.4e-03" in updates[view.status]
    assert "<img" not in updates[view.status]
    assert updates[view.code] == gr.update(value="load()", visible=True)
    assert not updates[view.stop]["interactive"]


def test_a_demo_names_no_path_of_an_export():
    studio, view = Studio(TINY, "tiny", demo=True), view_of()
    studio.tasks["export"] = Task(ended=True, result=Exported(Path("/home/somebody/exports/mine")))
    updates = export.refresh(studio, view, None)
    assert "<code>mine</code>" in updates[view.status]
    assert not updates[view.code]["visible"]
    assert updates[view.code]["value"] == ""


def test_an_export_that_fails_says_why_and_one_that_was_stopped_is_no_error():
    studio, view = Studio(TINY, "tiny"), view_of()
    studio.tasks["export"] = Task(ended=True, error=f"{HOSTILE} is full")
    failed = export.refresh(studio, view, None)[view.status]
    assert 'class="error"' in failed
    assert "<img" not in failed
    studio.tasks["export"] = Task(ended=True, error="export was stopped", cancelled=True)
    stopped = export.refresh(studio, view, None)[view.status]
    assert "Export was stopped." in stopped
    assert 'class="error"' not in stopped
