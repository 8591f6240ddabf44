"""A file that was dropped on the page: where it goes, what is refused, and that the upload is deleted."""

import gzip
import json

import pytest

from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset
from ui.loop import own_problems

ROWS = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(8)]


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """`upload(name, *rows)` -> a file as Gradio stores it: in a folder of its own, under its own name."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, *rows: dict | str):
        path = tmp_path / "cache" / "0123abcd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows), "utf-8")
        return path

    return make


def test_a_file_is_stored_under_a_plain_name_and_becomes_the_task(upload, tmp_path):
    path = upload("my sums (1)!.JSONL", *ROWS)
    stored, found, fitted = own_problems.accept(path, load_preset("tiny"), "both")
    assert stored.as_posix() == "problems/my-sums-1.jsonl"
    assert (tmp_path / stored).read_bytes() == path.read_bytes()
    assert fitted.train_set == fitted.held_out_set == str(tmp_path / stored)
    assert (fitted.prompts, fitted.held_out, found.rows) == (6, 2, 8)
    again, _, _ = own_problems.accept(path, load_preset("tiny"), "both")
    assert again.as_posix() == "problems/my-sums-1-2.jsonl"


def test_what_the_loader_reads_the_page_takes(upload, tmp_path):
    """Chats in a gzipped file, say: the page has the loader of the command line."""
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "1"}]
    path = upload("chats v2.jsonl.gz")
    rows = [{"messages": [{**chat[0], "content": f"What is {n}?"}, chat[1]]} for n in range(8)]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    tiny = load_preset("tiny")
    stored, found, fitted = own_problems.accept(path, tiny, "both")
    assert stored.as_posix() == "problems/chats-v2.jsonl.gz"
    assert (tmp_path / stored).read_bytes() == path.read_bytes() and found.answered == 8
    assert found.first[0].prompt == "What is 0?" and fitted.answer_column == tiny.answer_column


@pytest.mark.parametrize("name", ["....jsonl", "-.jsonl", "日本.jsonl", "x" * 200 + ".jsonl"])
def test_an_odd_name_stays_in_its_folder(upload, name):
    stored, _, _ = own_problems.accept(upload(name, *ROWS), load_preset("tiny"), "training")
    assert stored.parent == own_problems.ROOT and not stored.name.startswith(".")


def test_what_is_wrong_is_said_by_line_and_nothing_is_stored(upload, tmp_path):
    path = upload("bad.jsonl", ROWS[0], "nonsense", *ROWS[1:], "[1]", "2", "3")
    with pytest.raises(
        UserError, match=r"4 of 12 rows are wrong, so it is not used: .*line 2 is not JSON"
    ) as e:
        own_problems.accept(path, load_preset("tiny"), "both")
    assert str(e.value).endswith("(and 1 more)")
    with pytest.raises(UserError, match=r"is none of \.jsonl, \.ndjson, \.json, \.csv, "):
        own_problems.accept(upload("x.exe", *ROWS), load_preset("tiny"), "both")
    assert not (tmp_path / "problems").exists()


def test_held_out_problems_that_are_trained_on_are_refused_at_once(upload, tmp_path):
    tiny = load_preset("tiny")
    stored, _, fitted = own_problems.accept(upload("train.jsonl", *ROWS), tiny, "training")
    with pytest.raises(UserError, match="held-out problems are also training prompts"):
        own_problems.accept(upload("test.jsonl", ROWS[3]), fitted, "held-out")
    assert [path.name for path in (tmp_path / "problems").iterdir()] == [stored.name]


def test_an_upload_is_deleted_and_nothing_else(upload, tmp_path):
    path = upload("a.jsonl", *ROWS)
    outside = tmp_path / "mine.jsonl"
    outside.touch()
    own_problems.discard(path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    for elsewhere in (outside, tmp_path / "cache" / ".." / "mine.jsonl"):
        own_problems.discard(elsewhere, tmp_path / "cache")
    assert outside.exists()


def test_what_a_file_holds_stays_text(upload):
    hostile = "<img src=x onerror=x()>"
    rows = [{"prompt": f"{hostile} {n}", "answer": hostile} for n in range(4)]
    tiny = load_preset("tiny")
    said = own_problems.told(*own_problems.accept(upload("a.jsonl", *rows), tiny, "both")[:2], tiny, tiny)
    assert "<img" not in said and said.count("&lt;img") == 6
