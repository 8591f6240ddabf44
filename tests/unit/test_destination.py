"""The folder an export goes to: whole or not at all. A kill at any moment loses nobody's files."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from thinkswitch.errors import UserError
from thinkswitch.export.destination import (
    HIDDEN,
    MADE_BY,
    atomic_directory,
    foreign_files,
    remove_stale,
    resolve_path,
    stale_bytes,
    stale_folders,
    validate_target,
)
from unit.export_helpers import tree


def make_export(out: Path, text: str) -> None:
    """What an export looks like to another one."""
    with atomic_directory(out) as folder:
        (folder / "weights").write_text(text, encoding="utf-8")
        recipe = f'{{"made_by": "{MADE_BY}", "files": ["weights", "recipe.json"]}}'
        (folder / "recipe.json").write_text(recipe, encoding="utf-8")


def killed_export(parent: Path, size: int = 0) -> Path:
    """What `kill -9` leaves of an export: a folder, and a lock file that nobody holds."""
    hidden = parent / f"{HIDDEN}0123"
    (hidden / "new").mkdir(parents=True)
    (hidden / "new" / "weights").write_bytes(bytes(size))
    hidden.with_name(f"{hidden.name}.lock").touch()
    return hidden


# ---- the swap


def test_a_folder_appears_whole_and_nothing_else_stays(tmp_path):
    with atomic_directory(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("1", encoding="utf-8")
        assert not (tmp_path / "deep" / "out").exists()
    assert tree(tmp_path) == {"deep": None, "deep/out": None, "deep/out/file": b"1"}


def test_a_replaced_folder_is_gone_only_when_the_new_one_is_there(tmp_path):
    make_export(tmp_path / "out", "old")
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "weights").write_text("new", encoding="utf-8")
        assert (tmp_path / "out" / "weights").read_text("utf-8") == "old"
    assert tree(tmp_path) == {"out": None, "out/weights": b"new"}


@pytest.mark.parametrize("error", [UserError("no"), KeyboardInterrupt("now"), OSError(28, "No space left")])
def test_an_exception_leaves_everything_as_it_was(tmp_path, error):
    make_export(tmp_path / "out", "old")
    before = tree(tmp_path)
    for out in (tmp_path / "out", tmp_path / "deep" / "er" / "new"):
        with pytest.raises((UserError, KeyboardInterrupt)), atomic_directory(out) as folder:
            (folder / "weights").write_text("half", encoding="utf-8")
            raise error
        assert tree(tmp_path) == before


def test_a_rename_that_fails_gives_the_old_folder_back(tmp_path, monkeypatch):
    make_export(tmp_path / "out", "old")
    before, rename = tree(tmp_path), os.rename

    def refuse_the_new(source, target):
        if Path(source).name == "new":
            raise OSError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_the_new)
    with pytest.raises(UserError, match=r"failed \(Permission denied\) and nothing is left"):
        make_export(tmp_path / "out", "new")
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no mode bits")
def test_others_may_enter_the_folder_whatever_the_umask(tmp_path):
    umask = os.umask(0o077)
    try:
        make_export(tmp_path / "out", "x")
    finally:
        os.umask(umask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


# ---- after a kill


def test_looking_for_leftovers_removes_nothing(tmp_path):
    killed_export(tmp_path, size=5000)
    before = tree(tmp_path)
    assert len(stale_folders(tmp_path)) == 1
    assert stale_bytes(tmp_path) >= 5000
    assert len(stale_folders(tmp_path)) == 1  # asking changes no answer
    assert tree(tmp_path) == before


def test_what_a_killed_export_left_is_removed(tmp_path):
    killed_export(tmp_path)
    (tmp_path / f"{HIDDEN}4567.lock").touch()  # killed before it had made its folder
    remove_stale(tmp_path)
    assert not tree(tmp_path)


def test_a_running_export_is_left_alone_in_whatever_container_it_runs(tmp_path):
    """The process id in the name of another container's folder meant nobody, and so its export was removed.

    A lock is held in every container and machine that shares the folder.
    """
    hidden = killed_export(tmp_path)
    before = tree(tmp_path)
    with FileLock(f"{hidden}.lock"):
        assert stale_folders(tmp_path) == [] and stale_bytes(tmp_path) == 0
        remove_stale(tmp_path)
        assert tree(tmp_path) == before
    with atomic_directory(tmp_path / "out") as folder:
        remove_stale(tmp_path)
        assert folder.is_dir() and not hidden.exists()


def test_a_hidden_folder_without_a_lock_is_not_ours(tmp_path):
    (tmp_path / f"{HIDDEN}notes").mkdir()
    remove_stale(tmp_path)
    assert list(tree(tmp_path)) == [f"{HIDDEN}notes"]


def test_an_earlier_export_comes_back_after_a_kill_between_the_two_renames(tmp_path, monkeypatch):
    """It stayed hidden under a name that nothing ever read again."""
    rename, killed = os.rename, tmp_path / "killed"
    home = tmp_path / "home"
    make_export(home / "out", "old")
    before = tree(home)

    def copy_the_disk_between_renames(source, target):
        if Path(source).name == "new":
            shutil.copytree(home, killed)
        rename(source, target)

    monkeypatch.setattr(os, "rename", copy_the_disk_between_renames)
    make_export(home / "out", "new")
    assert not (killed / "out").exists()
    remove_stale(killed)
    assert tree(killed) == before
    assert tree(home) != before


def test_a_later_export_of_that_name_is_not_undone(tmp_path):
    hidden = killed_export(tmp_path)
    (hidden / "replaced" / "out").mkdir(parents=True)
    make_export(tmp_path / "out", "later")
    remove_stale(tmp_path)
    assert (tmp_path / "out" / "weights").read_text("utf-8") == "later"
    assert sorted(tree(tmp_path)) == ["out", "out/recipe.json", "out/weights"]


# ---- checks before the work


def test_targets_that_are_refused(tmp_path, monkeypatch):
    source, theirs = tmp_path / "models" / "source", tmp_path / "theirs"
    source.mkdir(parents=True)
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("the only copy", encoding="utf-8")
    (tmp_path / "file").touch()
    before = tree(tmp_path)

    def refused(out: Path, message: str, replace: bool = True) -> None:
        with pytest.raises(UserError, match=message):
            validate_target([source], out, replace)

    refused(theirs, "already exists", replace=False)
    refused(theirs, "what no export has written .thesis.txt.")
    refused(tmp_path / "file", "is a file")
    refused(tmp_path / "file" / "out", "is a file")
    for out in (source, source / "out", source.parent):
        refused(out, "would mix with")
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(tmp_path / "a" / "b", "is not writable")
    assert tree(tmp_path) == before


def test_paths_that_no_system_has(tmp_path):
    for name in ("\0", "x" * 300):
        with pytest.raises(UserError, match="cannot be a folder"):
            resolve_path(tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_to_a_checkpoint_is_that_checkpoint(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "source")
    with pytest.raises(UserError, match="would mix with"):
        validate_target([tmp_path / "source"], resolve_path(tmp_path / "link"), replace=True)


@pytest.mark.parametrize(
    "recipe",
    [
        "",
        "{",
        "[]",
        '{"files": ["a"]}',
        '{"made_by": "somebody else", "files": ["a"]}',
        f'{{"made_by": "{MADE_BY}", "files": 7}}',
    ],
)
def test_only_our_own_recipe_marks_a_folder_as_an_export(tmp_path, recipe):
    (tmp_path / "a").touch()
    (tmp_path / "recipe.json").write_text(recipe, encoding="utf-8")
    assert foreign_files(tmp_path) == ["a", "recipe.json"]


def test_what_somebody_added_to_an_export_is_foreign(tmp_path):
    make_export(tmp_path / "out", "x")
    assert foreign_files(tmp_path / "out") == []
    (tmp_path / "out" / "notes.md").touch()
    assert foreign_files(tmp_path / "out") == ["notes.md"]
