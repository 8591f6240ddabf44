"""Files of whole lines, files that are whole or absent, and a reader that follows a growing file."""

import os
import threading

import pytest

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.runs import files

NOT_UTF8 = b'{"phase": "th\xffink"}\n'


def test_rows_come_back_and_a_partial_line_is_left_out(tmp_path):
    path = tmp_path / "a" / "x.jsonl"
    rows = [{"text": "½\n\u2028 line"}, {"n": 1}]
    runs.append(path, *rows)
    assert list(runs.read_lines(path)) == rows
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"n": 2')  # killed in the middle of a write
    assert list(runs.read_lines(path)) == rows
    assert runs.last_line(path) == rows[-1]
    runs.truncate_partial_line(path)
    runs.append(path, {"n": 3})
    assert list(runs.read_lines(path)) == [*rows, {"n": 3}]


def test_lines_of_a_file_that_is_missing_or_empty(tmp_path):
    path = tmp_path / "x.jsonl"
    assert list(runs.read_lines(path)) == []
    assert runs.last_line(path) is None
    runs.truncate_partial_line(path)
    path.write_bytes(b'{"n": 1')
    assert runs.last_line(path) is None


@pytest.mark.parametrize("length", [0, 1, 4000, 4095, 4096, 4097, 100_000])
def test_the_last_line_is_found_however_long_it_is(tmp_path, length):
    path = tmp_path / "x.jsonl"
    last = {"text": "é" * length}
    runs.append(path, last)
    assert runs.last_line(path) == last  # alone
    runs.append(path, {"n": 1}, last)
    assert runs.last_line(path) == last  # after others


def test_a_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    runs.write_atomic(path, "old")

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        runs.write_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_file_of_any_kind_is_replaced_only_when_its_writer_succeeds(tmp_path):
    """A trainer's state is written by safetensors, under the temporary name."""
    path = tmp_path / "deep" / "x.bin"
    with runs.atomic_file(path) as temporary:
        temporary.write_bytes(b"old")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), runs.atomic_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_somebody_reads_is_replaced_a_moment_later(tmp_path, monkeypatch):
    """On Windows `os.replace` fails while the page has run.json open, which ended runs of many hours."""
    path = tmp_path / "run.json"
    runs.write_atomic(path, "old")
    refusals = 2
    replace = os.replace

    def read_by_somebody(source, target):
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", read_by_somebody)
    runs.write_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_file_that_may_never_be_replaced_is_an_error(tmp_path, monkeypatch):
    def forbidden(source, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "BUSY_WAITS", (0.0, 0.0))
    monkeypatch.setattr(os, "replace", forbidden)
    with pytest.raises(PermissionError):
        runs.write_atomic(tmp_path / "x.json", "new")
    assert not list(tmp_path.iterdir())


def test_threads_that_write_one_file_do_not_share_a_temporary_name(tmp_path):
    path = tmp_path / "run.json"
    texts = [str(n) * 10_000 for n in range(4)]

    def write(text):
        for _ in range(50):
            runs.write_atomic(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text(encoding="utf-8") in texts
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_appears_full_or_not_at_all(tmp_path):
    with pytest.raises(ValueError), runs.atomic_folder(tmp_path / "adapter") as folder:
        (folder / "half").touch()
        raise ValueError
    assert not list(tmp_path.iterdir())
    with runs.atomic_folder(tmp_path / "adapter") as folder:
        (folder / "whole").touch()
    assert [p.name for p in (tmp_path / "adapter").iterdir()] == ["whole"]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1, 2]\n", b"\xff\n", NOT_UTF8, b"\x00\x00\n"])
def test_a_damaged_line_is_named(tmp_path, line):
    """A byte that is not UTF-8 raised UnicodeDecodeError, which neither page nor terminal expected."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"phase": "think"}\n' + line)
    with pytest.raises(UserError, match=r"events\.jsonl line 2 is damaged: .*take that line out"):
        list(runs.read_lines(path))
    with pytest.raises(UserError, match=r"events\.jsonl last line is damaged"):
        runs.last_line(path)
    with pytest.raises(UserError, match=r"events\.jsonl line 2 is damaged"):
        runs.Follower(path).read()


# ---- a file that grows, followed


def test_a_follower_reads_only_what_is_new(tmp_path):
    """An hour's events are not parsed again every second: what was read may be overwritten, unnoticed."""
    path = tmp_path / "events.jsonl"
    follower = runs.Follower(path)
    assert follower.read() == []  # not there yet
    runs.append(path, {"n": 1}, {"n": 2})
    assert follower.read() == [{"n": 1}, {"n": 2}]
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.write(b"x" * size)
    assert follower.read() == [{"n": 1}, {"n": 2}]
    runs.append(path, {"n": 3})
    assert follower.read() == [{"n": 1}, {"n": 2}, {"n": 3}] == follower.lines


def test_a_half_written_last_line_waits(tmp_path):
    path = tmp_path / "events.jsonl"
    runs.append(path, {"n": 1})
    follower = runs.Follower(path)
    row = {"text": "½ \u2028 é"}
    line = runs.to_line(row).encode()
    for cut in range(1, len(line)):  # in the middle of a character, too
        with open(path, "ab") as file:
            file.write(line[:cut])
        assert follower.read() == [{"n": 1}] + [row] * (cut - 1)
        with open(path, "ab") as file:
            file.write(line[cut:])
        assert follower.read() == [{"n": 1}] + [row] * cut


def test_a_line_that_a_kill_cut_and_a_resume_removed(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"n": 1}\n{"n": 2', encoding="utf-8")
    follower = runs.Follower(path)
    assert follower.read() == [{"n": 1}]
    runs.truncate_partial_line(path)
    assert follower.read() == [{"n": 1}]
    runs.append(path, {"n": 3})
    assert follower.read() == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize("new", [1, 3, 9])
def test_a_file_that_was_replaced_is_read_from_its_beginning(tmp_path, new):
    """Shorter, as long, or longer than the old one."""
    path = tmp_path / "samples.jsonl"
    runs.append(path, *({"n": n} for n in range(3)))
    follower = runs.Follower(path)
    old = follower.read()
    runs.write_atomic(path, "".join(runs.to_line({"m": n}) for n in range(new)))
    assert follower.read() == [{"m": n} for n in range(new)]
    assert old == [{"n": n} for n in range(3)]  # what was handed out stays as it was


def test_many_threads_follow_one_file_while_it_grows(tmp_path):
    """All pages share one follower a run: each sees a beginning of the file, never a line twice."""
    path = tmp_path / "events.jsonl"
    follower = runs.Follower(path)
    done = threading.Event()
    seen: list[list] = [[] for _ in range(8)]

    def look(mine):
        while not done.is_set():
            mine.append(follower.read())
        mine.append(follower.read())

    threads = [threading.Thread(target=look, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    whole = [{"n": n} for n in range(400)]
    for row in whole:
        runs.append(path, row)
    done.set()
    for thread in threads:
        thread.join()
    for mine in seen:
        lengths = [len(lines) for lines in mine]
        assert lengths == sorted(lengths)
        assert mine[-1] == whole
        assert all(lines == whole[: len(lines)] for lines in mine[:: max(1, len(mine) // 50)])


@pytest.mark.parametrize("damaged", [b"nonsense\n", NOT_UTF8])
def test_a_file_repaired_in_place_is_read_again(tmp_path, damaged):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\n' + damaged)
    follower = runs.Follower(path)
    for _ in range(2):
        with pytest.raises(UserError, match="line 2 is damaged"):
            follower.read()
    with open(path, "r+b") as file:  # the same file
        file.write(b'{"a": 1}\n{"a": 2}\n')
        file.truncate()
    assert [row["a"] for row in follower.read()] == [1, 2]
    with open(path, "a", encoding="utf-8") as file:
        file.write("[1, 2]\n")
    with pytest.raises(UserError, match="line 3 is damaged"):  # JSON, but no event
        follower.read()


def make_folder(path):
    path.mkdir()


def make_ring(path):
    path.symlink_to(path.name)


def make_dead_link(path):
    path.symlink_to("not-here")


def make_pipe(path):
    os.mkfifo(path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there, and named pipes are other things")
@pytest.mark.parametrize("make", [make_folder, make_ring, make_dead_link, make_pipe])
def test_what_only_has_the_name_of_a_file_is_refused(tmp_path, make):
    """A pipe was waited for without end; a ring of links took down the page, which lists all runs."""
    path = tmp_path / "events.jsonl"
    make(path)
    for ask in (
        lambda: list(runs.read_lines(path)),
        lambda: runs.last_line(path),
        lambda: runs.Follower(path).read(),
        lambda: runs.append(path, {"a": 1}),
    ):
        with pytest.raises(
            UserError, match=r"events\.jsonl is a folder, a pipe or a broken link; move it away"
        ):
            ask()


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    """With a folder called run.json, resume ended in a traceback and left its temporary file."""
    (tmp_path / "run.json").mkdir()
    with pytest.raises(UserError, match=r"run\.json is a folder and should be a file; move it away"):
        runs.write_atomic(tmp_path / "run.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
