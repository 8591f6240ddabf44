"""The run folder: what is in it, in what state it is, and where new ones go."""

import os
import time

import pytest

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset


def test_create_refuses_what_is_there(tmp_path):
    runs.create(Preset(), tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run; resume it"):
        runs.create(Preset(), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="already holds other files"):
        runs.create(Preset(), tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_create_refuses_a_path_through_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="already holds other files"):
        runs.create(Preset(), tmp_path / "file")
    with pytest.raises(UserError, match="a part of its path is a file"):
        runs.create(Preset(), tmp_path / "file" / "run")


def test_create_takes_a_folder_in_which_its_process_was_started(tmp_path):
    for name in ("run.json", "log.txt", "stop"):
        (tmp_path / name).touch()
    runs.create(Preset(), tmp_path)
    assert runs.open_run(tmp_path) == Preset()


def test_states(tmp_path):
    assert runs.state(tmp_path) == "refused"
    runs.create(Preset(), tmp_path)
    assert runs.state(tmp_path) == "new"
    runs.append(tmp_path / "events.jsonl", runs.Event(1, "think", 2, 8).to_dict())
    assert runs.state(tmp_path) == "interrupted"
    for phase in ("stopped", "error", "done"):
        runs.append(tmp_path / "events.jsonl", runs.Event(1, phase).to_dict())
        assert runs.state(tmp_path) == phase
    with runs.claim(tmp_path):
        assert runs.state(tmp_path) == "running"
    assert runs.state(tmp_path) == "done"


@pytest.mark.parametrize("line", [b'{"phase": "d\xffone"}\n', b"nonsense\n"])
def test_the_state_of_a_run_whose_last_event_is_damaged(tmp_path, line):
    """One byte that is not UTF-8 in one run's events took down the page: it lists the states of all runs."""
    from ui.run_control import state_of

    runs.create(Preset(), tmp_path)
    (tmp_path / "events.jsonl").write_bytes(line)
    with pytest.raises(UserError, match="last line is damaged"):
        runs.state(tmp_path)
    assert state_of(tmp_path) == "damaged"


def test_an_event_without_a_phase_is_damage(tmp_path):
    """It counted as an interruption, so the page went on to draw it and ended in a KeyError."""
    runs.create(Preset(), tmp_path)
    runs.append(tmp_path / "events.jsonl", {"time": 1.0, "round": 1})
    with pytest.raises(UserError, match="last line is damaged: it has no 'phase'; take that line out"):
        runs.state(tmp_path)


def test_a_question_changes_nothing(tmp_path):
    """A folder that somebody only looks at may be another's, or a read-only disk's."""
    runs.create(Preset(), tmp_path / "new")
    runs.create(Preset(), tmp_path / "old")
    with runs.claim(tmp_path / "old"):
        pass
    runs.write_atomic(tmp_path / "killed" / "run.json", (tmp_path / "old" / "run.json").read_text("utf-8"))

    def listing():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before = listing()
    for folder in runs.runs_in(tmp_path):
        runs.state(folder)
        runs.running_pid(folder)
        runs.rounds_done(folder)
        with pytest.raises(UserError):
            runs.request_stop(folder)
    assert listing() == before


def test_only_a_running_run_can_be_asked_to_stop(tmp_path):
    with pytest.raises(UserError, match="is no run"):
        runs.request_stop(tmp_path)
    runs.create(Preset(), tmp_path)
    with pytest.raises(UserError, match="is not running"):
        runs.request_stop(tmp_path)
    assert not runs.stop_requested(tmp_path)
    with runs.claim(tmp_path):
        runs.request_stop(tmp_path)
        assert runs.stop_requested(tmp_path)


def test_rounds_done_counts_recipes_and_nothing_else(tmp_path):
    assert runs.rounds_done(tmp_path) == 0
    for name in ("0", "1", "2", "copy of 7"):
        runs.write_atomic(tmp_path / "rounds" / name / "recipe.json", "{}")
    runs.round_dir(tmp_path, 3).mkdir()  # still at work
    assert runs.rounds_done(tmp_path) == 2


def test_runs_in_lists_runs_only_and_the_newest_first(tmp_path):
    assert runs.runs_in(tmp_path / "nothing") == []
    made = (("b", "preset.yaml"), ("a", "run.json"), ("c", "preset.yaml"), ("notes", "thesis.tex"))
    for moment, (name, file) in enumerate(made):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
        for path in (tmp_path / name / file, tmp_path / name):
            os.utime(path, (moment, moment))
    (tmp_path / "run.json").touch()
    assert [path.name for path in runs.runs_in(tmp_path)] == ["c", "a", "b"]


def test_two_runs_that_start_in_the_same_second_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "20261123-120000")
    made = []
    for _ in range(3):
        folder = runs.new_folder(tmp_path, "tiny")
        folder.mkdir()
        made.append(folder.name)
    assert made == ["tiny-20261123-120000", "tiny-20261123-120000-2", "tiny-20261123-120000-3"]
    assert runs.new_folder(tmp_path, "") == tmp_path / "run-20261123-120000"


@pytest.mark.parametrize("name", ["mine/second try", "../../up"])
def test_a_new_folder_lies_in_the_root_whatever_the_preset_is_called(tmp_path, name):
    """A slash in a preset's name made folders; the page looks one level deep and never showed that run."""
    assert runs.new_folder(tmp_path, name).resolve().parent == tmp_path.resolve()


# ---- renaming and deleting


def made(root, name: str, phase: str = "done"):
    runs.create(Preset(), root / name)
    runs.append(root / name / "events.jsonl", runs.Event(1, phase).to_dict())
    return root / name


@pytest.mark.parametrize("name", ["good", "Zweiter Lauf (2)", "run.v2", "9_a-b", "日本"])
def test_a_run_takes_another_name(tmp_path, name):
    folder = made(tmp_path / "runs", "old")
    renamed = runs.rename(folder, f" {name} ")
    assert renamed == tmp_path / "runs" / name
    assert runs.runs_in(tmp_path / "runs") == [renamed]
    assert runs.state(renamed) == "done"
    assert runs.rename(renamed, name) == renamed


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc",
        ".hidden",
        "a\0b",
        "a\nb",
        "x" * 81,
        "a · round 1",
        "-rf",
        "con",
        "NUL.txt",
        "dot.",
        "<b>",
        "a:b",
    ],
)
def test_a_name_that_is_none_is_refused(tmp_path, name):
    folder = made(tmp_path / "runs", "old")
    with pytest.raises(UserError):
        runs.rename(folder, name)
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["runs", "old"]


def test_a_name_is_given_once(tmp_path):
    folder = made(tmp_path, "old")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="there is a 'taken' already"):
        runs.rename(folder, "taken")


def test_a_deleted_run_is_gone_and_nothing_else(tmp_path):
    folder = made(tmp_path, "old")
    made(tmp_path, "other")
    runs.delete(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_a_link_points_to_stays(tmp_path):
    elsewhere = made(tmp_path / "elsewhere", "mine")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(elsewhere)
    runs.delete(tmp_path / "runs" / "link")
    assert runs.runs_in(tmp_path / "runs") == []
    assert runs.state(elsewhere) == "done"


def test_a_running_run_keeps_its_name_and_its_files(tmp_path):
    folder = made(tmp_path, "old", "think")
    with runs.claim(folder):
        with pytest.raises(UserError, match="old is running, so it cannot be renamed; stop it first"):
            runs.rename(folder, "new")
        with pytest.raises(UserError, match="cannot be deleted"):
            runs.delete(folder)
    assert runs.runs_in(tmp_path) == [folder]


def test_what_a_killed_deletion_leaves_is_no_run(tmp_path):
    made(tmp_path, ".deleted-1-1-old")
    assert runs.runs_in(tmp_path) == []
