"""The Export tab: where an export may go, and what the tab says of it."""

import dataclasses
from pathlib import Path

import gradio as gr
import pytest

from conftest import random_adapter
from thinkswitch import rounds
from thinkswitch.errors import UserError
from thinkswitch.export import formats
from thinkswitch.export.point import ExportPoint
from thinkswitch.preset import load_preset
from thinkswitch.recipe import Schedule
from ui.export import exporting, pushing
from ui.export import report as export_report
from ui.export import tab as export
from ui.run_control import PAIR
from ui.studio import EXPORTS, Studio

HOSTILE = "<img src=x onerror=x()>"
TINY = load_preset("tiny")


def wanted(**changes) -> exporting.Wanted:
    usual = exporting.Wanted(PAIR, 0.5, False, exporting.FOLDER, "out", False, Schedule(mlp=0.5))
    return dataclasses.replace(usual, **changes)


def test_the_values_of_the_form_are_in_the_order_of_its_components():
    names = [field.name for field in dataclasses.fields(export.Form)]
    assert names == [field.name for field in dataclasses.fields(exporting.Wanted)]


def test_the_formats_of_the_form_are_those_of_the_engine():
    """They are named before torch is imported, and so written twice."""
    from thinkswitch.export.formats import FORMATS

    assert list(FORMATS) == list(exporting.FORMAT_NAMES)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", "..", ".hidden", "x" * 81, "a b"])
def test_a_demo_exports_into_one_folder_only(name):
    with pytest.raises(UserError, match="is not a plain name"):
        exporting.target(Studio(TINY, "tiny", demo=True), name)


def test_an_export_goes_where_its_name_says():
    assert exporting.target(Studio(TINY, "tiny", demo=True), " mine ") == EXPORTS / "mine"
    assert exporting.target(Studio(TINY, "tiny"), "/somewhere/else") == Path("/somewhere/else")
    for nothing in ("", "  ", None):
        with pytest.raises(UserError, match="no folder is named"):
            exporting.target(Studio(TINY, "tiny"), nothing)


def test_a_proposed_name_says_what_is_exported_and_gives_way_to_the_next_one(root, monkeypatch):
    from thinkswitch import runs

    monkeypatch.chdir(root.parent)
    runs.create(TINY, root / "my run")
    studio = Studio(TINY, "tiny")
    assert exporting.proposed(studio, PAIR, 0.25) == "exports/tiny-pair-t0.25"
    assert exporting.proposed(studio, "my run · round 2", 1.0) == "exports/my run-round-2-t1"
    assert exporting.proposed(Studio(TINY, "tiny", demo=True), PAIR, 0.25) == "tiny-pair-t0.25"
    for ours in ("exports/tiny-pair-t0.25", "tiny-pair-t1", "exports/x-round-12-t0.5"):
        assert exporting.OUR_NAMES.fullmatch(ours)
    (root.parent / "exports" / "tiny-pair-t0.25").mkdir(parents=True)
    assert exporting.proposed(studio, PAIR, 0.25) == "exports/tiny-pair-t0.25-2"  # what Export would refuse
    for ours in ("exports/my run-round-2-t1", "exports/tiny-pair-t0.25-2"):
        assert exporting.OUR_NAMES.fullmatch(ours)
    for theirs in ("exports/mine", "tiny-pair", "/tmp/tiny-pair-t0.25/x"):
        assert not exporting.OUR_NAMES.fullmatch(theirs)


def test_the_request_is_what_the_form_says(studio):
    request = exporting.request_of(studio, wanted())
    assert (request.point.t, request.point.schedule, request.point.adapter) == (0.5, Schedule(), False)
    assert (request.out, request.replace, request.run) == (Path("out"), False, None)
    other = exporting.request_of(
        studio, wanted(with_schedule=True, format=exporting.ADAPTER, replace=True, folder="b", t=1)
    )
    assert (other.point.t, other.point.schedule, other.point.adapter) == (1.0, Schedule(mlp=0.5), True)
    assert (other.out, other.replace) == (Path("b"), True)


def test_the_outlook_names_size_and_tensors(studio, tmp_path):
    ahead = exporting.look_ahead(studio, wanted(folder=str(tmp_path / "out")))
    assert ahead.possible
    assert "1.7 MB in 46 tensors (BF16)" in ahead.text
    assert "instruct checkpoint" in ahead.text
    assert not (tmp_path / "out").exists()


def test_the_outlook_says_what_an_export_waits_for(studio, tmp_path):
    ahead = exporting.look_ahead(studio, wanted(folder=" "))
    assert (ahead.possible, ahead.refused) == (False, False)
    assert ahead.text == "Name the folder that the export should go to."
    ahead = exporting.look_ahead(Studio(TINY, "tiny"), wanted())
    assert "An export needs the pair" in ahead.text and not ahead.possible
    taken = exporting.look_ahead(studio, wanted(folder=str(tmp_path)))
    assert taken.refused and "already exists" in taken.text
    gone = exporting.look_ahead(studio, wanted(round="gone · round 3"))
    assert gone.refused and "choose another round" in gone.text


# ---- formats


def test_m13_a_format_that_cannot_be_had_is_off_and_says_why(studio):
    """The adapter was offered where it could never work, and refused at the click."""
    folder, adapter, *_ = export_report.cards(exporting.offers(studio, wanted()), exporting.FOLDER)["cards"]
    assert (folder["name"], folder["size"], folder["reason"]) == (exporting.FOLDER, "1.7 MB", "")
    assert adapter["size"] == ""
    assert "Round 0, t = 0.5 is no LoRA update of the instruct checkpoint" in adapter["reason"]
    view = view_of()
    updates = export.outlook(studio, view, wanted(format=exporting.ADAPTER, folder="somewhere/new"))
    assert "There is no PEFT adapter of this point; choose another format." in updates[view.plan]
    assert 'class="error"' not in updates[view.plan]  # the card has the reason
    assert not updates[view.start]["interactive"]
    updates = export.outlook(studio, view, wanted(folder="somewhere/new"))
    assert updates[view.start]["interactive"]


def test_an_adapter_is_offered_where_the_instruct_point_has_been_trained(studio):
    pair, start = studio.loaded.pair, studio.loaded.start
    state = rounds.rebuild(pair, start, random_adapter(pair, 1), 0.8, "original", Schedule())
    point = ExportPoint(pair, state, 0.0, Schedule(), TINY)
    whole, adapter, *_ = formats.offers(point)
    assert (whole.reason, adapter.reason) == ("", "")
    assert 0 < adapter.size < whole.size
    assert formats.in_format(point, adapter.format).adapter


# ---- an export


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
    verified: str = "Nothing differs by more than <0.0034>."
    code: str = "load()"


def finished(folder: Path, **changes) -> Task:
    return Task(ended=True, result=exporting.Done(Exported(folder), wanted(**changes)))


def view_of() -> export.View:
    with gr.Blocks():
        states = [gr.State(None) for field in dataclasses.fields(export.View) if field.name != "push"]
        return export.View(*states, push=pushing.build())


def test_the_tab_follows_an_export_to_its_end():
    studio, view = Studio(TINY, "tiny"), view_of()
    first = export.refresh(studio, view, None, wanted())
    assert "An export needs the pair" in first[view.plan]
    assert export.refresh(studio, view, first[view.seen], wanted()) == {}
    studio.tasks["export"] = task = Task("write", 1, 4)
    updates = export.refresh(studio, view, first[view.seen], wanted())
    assert "Writing …" in updates[view.status]
    assert "width:25.0%" in updates[view.status]
    assert updates[view.stop]["interactive"]
    assert not updates[view.start]["interactive"]
    assert export.refresh(studio, view, updates[view.seen], wanted()) == {}
    task.ended, task.result = True, finished(Path("exports") / HOSTILE).result
    updates = export.refresh(studio, view, updates[view.seen], wanted())
    assert "<b>Exported</b>" in updates[view.status]
    assert "by more than &lt;0.0034&gt;" in updates[view.status]
    assert "<img" not in updates[view.status]
    assert updates[view.code] == gr.update(value="load()", language="python", visible=True)
    assert updates[view.open]["visible"]
    assert not updates[view.stop]["interactive"]


def test_an_export_that_is_over_before_its_click_is_answered_is_shown():
    """The answer "Exporting …" came last, over the result, and nothing was drawn again."""
    studio, view = Studio(TINY, "tiny"), view_of()
    studio.tasks["export"] = finished(Path("exports/mine"))
    seen = export.refresh(studio, view, None, wanted())[view.seen]
    assert export.refresh(studio, view, seen, wanted()) == {}
    of_the_click = dataclasses.replace(seen, task=None)
    assert "<b>Exported</b>" in export.refresh(studio, view, of_the_click, wanted())[view.status]


def test_m11_after_an_export_the_plan_does_not_promise_another_one_there(studio, tmp_path, monkeypatch):
    """It went on saying that it fits, and the next click was refused: it already exists."""
    (tmp_path / "out").mkdir()
    folder = str(tmp_path / "out")
    monkeypatch.setitem(studio.tasks, "export", finished(tmp_path / "out"))
    ahead = exporting.look_ahead(studio, wanted(folder=folder))
    assert (ahead.possible, ahead.refused) == (False, False)
    assert ahead.text == "This folder has the export; to export again, name another one, or replace it."
    assert exporting.look_ahead(studio, wanted(folder=str(tmp_path / "other"))).possible


def test_a_demo_names_no_path_of_an_export():
    studio, view = Studio(TINY, "tiny", demo=True), view_of()
    studio.tasks["export"] = finished(Path("/home/somebody/exports/mine"))
    updates = export.refresh(studio, view, None, wanted())
    assert "<code>mine</code>" in updates[view.status]
    assert not updates[view.code]["visible"]
    assert updates[view.code]["value"] == ""


def test_an_export_that_fails_says_why_and_one_that_was_stopped_is_no_error():
    studio, view = Studio(TINY, "tiny"), view_of()
    studio.tasks["export"] = Task(ended=True, error=f"{HOSTILE} is full")
    failed = export.refresh(studio, view, None, wanted())[view.status]
    assert 'class="error"' in failed
    assert "<img" not in failed
    studio.tasks["export"] = Task(ended=True, error="the export was stopped", cancelled=True)
    updates = export.refresh(studio, view, None, wanted())
    assert "The export was stopped." in updates[view.status]
    assert 'class="error"' not in updates[view.status]
    assert not updates[view.open]["visible"]
