"""The run directory: whole files, whole lines, one owner."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from conftest import ROOT
from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, apply_settings, load_preset
from thinkswitch.runs import process


def test_lines_there_and_back_and_a_torn_one_is_left_out(tmp_path):
    path = tmp_path / "a" / "x.jsonl"
    rows = [{"text": "½\n\u2028 line"}, {"n": 1}]
    runs.append(path, *rows)
    assert list(runs.read_lines(path)) == rows
    with open(path, "a") as file:
        file.write('{"n": 2')  # a kill in the middle of a write
    assert list(runs.read_lines(path)) == rows
    runs.truncate_partial_line(path)
    runs.append(path, {"n": 3})
    assert list(runs.read_lines(path)) == [*rows, {"n": 3}]


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    runs.write_atomic(path, "old")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        runs.write_atomic(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_takes_back_half_a_line(tmp_path):
    """A limit on file size is a disk that fills up in the middle of a line: the file must still be whole lines."""
    code = """
import resource, sys
from pathlib import Path
from thinkswitch import runs
from thinkswitch.runs import process
path = Path(sys.argv[1])
runs.append(path, {"n": "a" * 100})
resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))
try:
    runs.append(path, {"n": "b" * 100})
except OSError as error:
    print("refused", error.errno)
"""
    path = tmp_path / "x.jsonl"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.startswith("refused"), done.stderr
    assert path.read_bytes().endswith(b"\n") and list(runs.read_lines(path)) == [{"n": "a" * 100}]


def test_a_folder_appears_full_or_not_at_all(tmp_path):
    with pytest.raises(ValueError):
        with runs.atomic_folder(tmp_path / "adapter") as beside:
            (beside / "half").touch()
            raise ValueError
    assert not list(tmp_path.iterdir())
    with runs.atomic_folder(tmp_path / "adapter") as beside:
        (beside / "whole").touch()
    assert [p.name for p in (tmp_path / "adapter").iterdir()] == ["whole"]


def test_create_refuses_what_is_there(tmp_path):
    runs.create(Preset(), tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run; resume it"):
        runs.create(Preset(), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="already holds other files"):
        runs.create(Preset(), tmp_path / "other")
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_one_owner_at_a_time(tmp_path):
    runs.create(Preset(), tmp_path)
    code = """
import sys, time
from pathlib import Path
from thinkswitch import runs
from thinkswitch.runs import process
with runs.claim(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "mine\n"
        assert runs.running_pid(tmp_path) == child.pid and runs.state(tmp_path) == "running"
        with pytest.raises(UserError, match=f"in use by process {child.pid}"):
            with runs.claim(tmp_path):
                pass
        runs.request_stop(tmp_path)
        assert runs.stop_requested(tmp_path)
    finally:
        child.kill()
        child.wait()
    assert runs.running_pid(tmp_path) is None  # a killed owner owns nothing
    with runs.claim(tmp_path):
        assert not runs.stop_requested(tmp_path)  # an old wish to stop does not stop the next
    with pytest.raises(UserError, match="is not running"):
        runs.request_stop(tmp_path)


def test_two_that_start_in_the_same_moment(tmp_path, monkeypatch):
    """Between looking whether another lives and writing run.json there was time for a second owner."""
    runs.create(Preset(), tmp_path)
    monkeypatch.setattr(process, "running_pid", lambda folder: None)  # both have looked, and seen nobody
    with runs.claim(tmp_path):
        with pytest.raises(UserError, match="in use by another process"):
            with runs.claim(tmp_path):
                pass
    with runs.claim(tmp_path):
        pass


def test_a_recycled_pid_is_not_the_owner(tmp_path):
    """After a reboot the pid of a killed run may be somebody else's: the start time tells."""
    runs.write_atomic(tmp_path / "run.json", json.dumps(dict(pid=os.getppid(), started=time.time() - 10**6, heartbeat=0)))
    assert runs.running_pid(tmp_path) is None


def test_states(tmp_path):
    runs.create(Preset(), tmp_path)
    assert runs.state(tmp_path) == "new"
    runs.append(tmp_path / "events.jsonl", runs.Event(1, "think", 2, 8).to_dict())
    assert runs.state(tmp_path) == "interrupted"
    runs.append(tmp_path / "events.jsonl", runs.Event(1, "stopped").to_dict())
    assert runs.state(tmp_path) == "stopped"


def test_a_foreign_hand_on_the_run_s_files_is_named_not_a_traceback(tmp_path):
    runs.create(Preset(), tmp_path)
    (tmp_path / "run.json").write_text("{")
    assert runs.running_pid(tmp_path) is None and runs.state(tmp_path) == "new"
    with runs.claim(tmp_path):
        runs.heartbeat(tmp_path)
    assert runs.read_info(tmp_path)["pid"] == os.getpid()
    (tmp_path / "events.jsonl").write_text('{"phase": "think"}\nnonsense\n')
    with pytest.raises(UserError, match="events.jsonl line 2 is damaged: 'nonsense"):
        list(runs.read_lines(tmp_path / "events.jsonl"))


# ---- a run as a child process


def ended(folder, seconds=90) -> str:
    """Wait for the child; its log, should it have gone wrong."""
    until = time.monotonic() + seconds
    while runs.running_pid(folder):
        assert time.monotonic() < until, (folder / "log.txt").read_text()
        time.sleep(0.05)
    return (folder / "log.txt").read_text()


def test_a_child_is_known_at_once_and_its_refusal_stands_in_the_log(tmp_path):
    """The page sees the run before its process has said anything; what it says is kept, though nobody looks."""
    folder = tmp_path / "a run"
    arguments = ["run", "tiny", "--out", str(folder), "--set", "rounds=0", "name=a b"]
    before = time.time()
    pid = runs.start(arguments, folder)
    info = json.loads((folder / "run.json").read_text())
    assert info["pid"] == pid != os.getpid() and info["command"] == ["python", "-m", "thinkswitch", *arguments]
    assert before - 2 < info["started"] <= info["heartbeat"] <= time.time() and (folder / "log.txt").is_file()
    assert ended(folder) == "error: rounds must lie between 1 and 100, it is 0\n"
    assert runs.state(folder) == "refused" and runs.running_pid(folder) is None


def test_starting_again_keeps_what_the_run_has_taken_and_its_first_command(tmp_path):
    """A run that is resumed is still the run it was: hours and joules add up, and the log goes on."""
    runs.create(Preset(), tmp_path)
    (tmp_path / "log.txt").write_text("earlier\n")
    (tmp_path / "stop").write_text("1\n")
    runs.write_atomic(tmp_path / "run.json", json.dumps(dict(pid=1, started=0, heartbeat=0, ended=1, seconds=12.5, joules=7.0, command=["python", "first"])))
    pid = runs.start(["status", str(tmp_path)], tmp_path)
    info = runs.read_info(tmp_path)
    assert (info["pid"], info["seconds"], info["joules"], info["command"]) == (pid, 12.5, 7.0, ["python", "first"]) and "ended" not in info
    assert not (tmp_path / "stop").exists()  # a wish of before is not one for this process
    log = ended(tmp_path)
    assert log.startswith("earlier\n") and f"{tmp_path}: new" in log


TINY_RUN = ["rounds=1", "prompts=8", "held_out=6", "rows=8", "epochs=1", "batch=4"]


@pytest.fixture(scope="module")
def regretted(tmp_path_factory):
    """Two children that were asked to stop while they import torch, which takes seconds: {verb: (folder, log)}."""
    new, old = (tmp_path_factory.mktemp("runs") / name for name in ("run", "resume"))
    runs.create(apply_settings(load_preset("tiny"), TINY_RUN), old)
    for folder, arguments in ((new, ["run", "tiny", "--out", str(new), "--set", *TINY_RUN]), (old, ["resume", str(old)])):
        pid = runs.start(arguments, folder)
        with pytest.raises(UserError, match=f"in use by process {pid}"):
            runs.start(arguments, folder)
        runs.request_stop(folder)
        assert (folder / "stop").read_text() == f"{pid}\n"
    return {folder.name: (folder, ended(folder)) for folder in (new, old)}


@pytest.mark.parametrize("verb", ["run", "resume"])
def test_a_stop_asked_for_while_the_child_imports_torch_is_honoured(regretted, verb):
    """The first seconds of a run belong to imports; whoever regrets Start then presses Stop.

    In the child, `create` takes the stop file for a stranger's ("already holds other files") and
    refuses the run: its state is "refused", and it cannot be resumed.
    """
    folder, log = regretted[verb]
    assert runs.state(folder) == "stopped", log
    assert not (folder / "stop").exists() and runs.rounds_done(folder) == 0 and "ended" in runs.read_info(folder)


def test_claim_removes_a_stop_that_was_for_a_dead_process_and_keeps_its_own(tmp_path):
    runs.create(Preset(), tmp_path)
    for asked, honoured in (("999999999\n", False), ("", False), (f"{os.getpid()}\n", True), (f"{os.getppid()}\n", True)):  # a Windows venv's launcher is our parent
        (tmp_path / "stop").write_text(asked)
        with runs.claim(tmp_path):
            assert runs.stop_requested(tmp_path) is honoured, asked
        assert not runs.stop_requested(tmp_path)


def test_runs_in_lists_runs_only_and_the_newest_first(tmp_path):
    assert runs.runs_in(tmp_path / "nothing") == []
    for name, file in (("b", "preset.yaml"), ("a", "run.json"), ("c", "preset.yaml"), ("notes", "thesis.tex")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
        time.sleep(0.02)
    (tmp_path / "run.json").touch()
    assert [p.name for p in runs.runs_in(tmp_path)] == ["c", "a", "b"]


def test_two_runs_that_start_in_the_same_second_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "20261123-120000")
    made = []
    for _ in range(3):
        made.append(runs.new_folder(tmp_path, "tiny"))
        made[-1].mkdir()
    assert [p.name for p in made] == ["tiny-20261123-120000", "tiny-20261123-120000-2", "tiny-20261123-120000-3"]
    assert runs.new_folder(tmp_path, "") == tmp_path / "run-20261123-120000"


@pytest.mark.parametrize("name", ["mine/second try", "../../up"])
def test_a_new_folder_lies_in_the_root_whatever_the_preset_is_called(tmp_path, name):
    """a slash in a preset's name makes folders; the page, which looks one level deep, never shows that run."""
    assert runs.new_folder(tmp_path, name).resolve().parent == tmp_path.resolve()


# ---- what a run has taken


def test_seconds_add_up_over_processes_and_rests_between_do_not_count(tmp_path):
    runs.create(Preset(), tmp_path)
    code = """
import sys, time
from pathlib import Path
from thinkswitch import runs
from thinkswitch.runs import process
with runs.claim(Path(sys.argv[1])):
    for _ in range(3):
        time.sleep(0.1)
        runs.heartbeat(Path(sys.argv[1]), every=0.05)
"""
    taken = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=True)
        taken.append(runs.read_info(tmp_path)["seconds"])
        time.sleep(1.0)
    assert 0.3 <= taken[0] < 1.2 and 0.3 <= taken[1] - taken[0] < 1.2


def test_a_beat_that_is_not_due_writes_nothing(tmp_path):
    runs.create(Preset(), tmp_path)
    runs.heartbeat(tmp_path, every=0)
    assert not (tmp_path / "run.json").exists()  # nobody's run
    with runs.claim(tmp_path):
        before = (tmp_path / "run.json").read_bytes()
        runs.heartbeat(tmp_path, every=60)
        assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for the card")
@pytest.mark.parametrize("says, watts", [
    ("echo 100.50", 100.5), ("echo 100.50; echo 49.50", 150), ("echo '[N/A]'", None), ("echo 80.0; echo '[Not Supported]'", None),
    ("echo 100.50; exit 9", None), ("exit 1", None)])
def test_joules_of_a_card_that_tells(tmp_path, monkeypatch, says, watts):
    card = tmp_path / "bin" / "nvidia-smi"
    card.parent.mkdir()
    card.write_text(f"#!/bin/sh\n[ \"$1\" = --query-gpu=power.draw ] || exit 3\n{says}\n")
    card.chmod(0o755)
    monkeypatch.setenv("PATH", str(card.parent) + os.pathsep + os.environ["PATH"])
    assert runs.gpu_watts() == watts
    folder = tmp_path / "run"
    runs.write_atomic(folder / "run.json", json.dumps(dict(pid=1, started=0, heartbeat=time.time() - 10, seconds=5.0, joules=40.0)))
    runs.heartbeat(folder)
    info = runs.read_info(folder)
    assert info["seconds"] == pytest.approx(15, abs=0.5) and info["joules"] == pytest.approx(40 + 10 * (watts or 0), rel=0.05)


def test_without_a_card_there_are_no_joules(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runs.gpu_watts() is None


# ---- a file that grows, followed


def test_a_follower_reads_only_what_is_new(tmp_path):
    """An hour's events are not parsed again every second: what was read may be scribbled over, unseen."""
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
    follower, line = runs.Follower(path), '{"text": "½ \u2028 é"}\n'.encode()
    for cut in range(1, len(line)):  # in the middle of a character, too
        with open(path, "ab") as file:
            file.write(line[:cut])
        assert follower.read() == [{"n": 1}] * 1 + [{"text": "½ \u2028 é"}] * (cut - 1)
        with open(path, "ab") as file:
            file.write(line[cut:])
        assert follower.read() == [{"n": 1}] + [{"text": "½ \u2028 é"}] * cut


def test_a_line_that_a_kill_cut_and_a_resume_mended(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"n": 1}\n{"n": 2')
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
    path, seen, done = tmp_path / "events.jsonl", [[] for _ in range(8)], threading.Event()
    follower = runs.Follower(path)

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
        thread.join(10)
    for mine in seen:
        lengths = [len(lines) for lines in mine]
        assert lengths == sorted(lengths) and mine[-1] == whole
        assert all(lines == whole[:len(lines)] for lines in mine[:: max(1, len(mine) // 50)])


def test_a_follower_names_a_damaged_line(tmp_path):
    """`read_lines` says which line to take out; the follower, through which the page reads, raises a JSONDecodeError."""
    path = tmp_path / "events.jsonl"
    path.write_text('{"phase": "think"}\nnonsense\n')
    with pytest.raises(UserError, match="line 2 is damaged"):
        runs.Follower(path).read()


def test_a_file_mended_in_place_is_read_anew(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"a": 1}\nnonsense\n')
    follower = runs.Follower(path)
    for _ in range(2):
        with pytest.raises(UserError, match="line 2 is damaged"):
            follower.read()
    path.write_text('{"a": 1}\n{"a": 2}\n')  # the same file, the same length but one
    assert [row["a"] for row in follower.read()] == [1, 2]
    with open(path, "a") as file:
        file.write("[1, 2]\n")
    with pytest.raises(UserError, match="line 3 is damaged"):  # JSON, but no event
        follower.read()
