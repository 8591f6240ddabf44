"""Paths as the page shows them: short, and read back as what they were."""

import os
from pathlib import Path

import pytest

from thinkswitch.paths import full_path, short_path
from thinkswitch.preset import PRESETS, load_preset


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A current folder with a checkpoint; a home and a data folder beside it."""
    for name in ("home/me/models/a", "project/pair/instruct", "project/my+model", "data/b"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path / "home/me"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home/me"))
    return tmp_path


def test_a_path_is_shown_short_and_read_back(here):
    """PAGE, security: /config had four absolute paths, so a shared page told the user's name."""
    shown = {
        here / "project/pair/instruct": "pair/instruct",
        here / "project/my+model": "my+model",
        here / "home/me/models/a": "~/models/a",
        here / "data/b": "../data/b",
        PRESETS / "tiny/instruct": "presets/tiny/instruct",
    }
    for path, short in shown.items():
        assert short_path(str(path)) == short
        assert full_path(short) == str(path)
    both = f"{here}/project/pair/instruct+{here}/data/b"
    assert short_path(both) == "pair/instruct+../data/b"
    assert full_path("pair/instruct+../data/b") == both


@pytest.mark.parametrize(
    "text", ["", "owner/model", "owner/set:train", "owner/model+owner/adapter", "x\0y", "a" * 9999]
)
def test_what_is_no_path_stays(here, text):
    assert short_path(text) == text and full_path(text) == text


def test_what_ships_is_not_mistaken_for_something_of_the_same_name_here(here):
    (here / "project/presets/tiny/instruct").mkdir(parents=True)
    shipped = str(PRESETS / "tiny/instruct")
    short = short_path(shipped)
    assert not os.path.isabs(short) or os.name == "nt"
    assert full_path(short) == shipped


def test_a_hub_id_is_not_a_folder_of_the_program(here):
    assert full_path("tests/unit") == "tests/unit"
    assert load_preset("tiny").instruct == full_path("presets/tiny/instruct")
