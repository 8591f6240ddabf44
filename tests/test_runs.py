"""The run directory: whole files, whole lines, one owner."""

import json
import os
import subprocess
import sys
import time

import pytest

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset


def test_lines_there_and_back_and_a_torn_one_is_left_out(tmp_path):
    path = tmp_path / "a" / "x.jsonl"
    rows = [{"text": "½\n\u2028 line"}, {"n": 1}]
    runs.append(path, *rows)
    assert list(runs.read_lines(path)) == rows
    with open(path, "a") as file:
        file.write('{"n": 2')  # a kill in the middle of a write
    assert list(runs.read_lines(path)) == rows
    runs.mend(path)
    runs.append(path, {"n": 3})
    assert list(runs.read_lines(path)) == [*rows, {"n": 3}]


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    runs.write(path, "old")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        runs.write(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_takes_back_half_a_line(tmp_path):
    """A limit on file size is a disk that fills up in the middle of a line: the file must still be whole lines."""
    code = """
import resource, sys
from pathlib import Path
from thinkswitch import runs
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
        with runs.whole_folder(tmp_path / "adapter") as beside:
            (beside / "half").touch()
            raise ValueError
    assert not list(tmp_path.iterdir())
    with runs.whole_folder(tmp_path / "adapter") as beside:
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
with runs.claim(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "mine\n"
        assert runs.alive(tmp_path) == child.pid and runs.state(tmp_path) == "running"
        with pytest.raises(UserError, match=f"in use by process {child.pid}"):
            with runs.claim(tmp_path):
                pass
        runs.request_stop(tmp_path)
        assert runs.stop_requested(tmp_path)
    finally:
        child.kill()
        child.wait()
    assert runs.alive(tmp_path) is None  # a killed owner owns nothing
    with runs.claim(tmp_path):
        assert not runs.stop_requested(tmp_path)  # an old wish to stop does not stop the next
    with pytest.raises(UserError, match="is not running"):
        runs.request_stop(tmp_path)


def test_two_that_start_in_the_same_moment(tmp_path, monkeypatch):
    """Between looking whether another lives and writing run.json there was time for a second owner."""
    runs.create(Preset(), tmp_path)
    monkeypatch.setattr(runs, "alive", lambda folder: None)  # both have looked, and seen nobody
    with runs.claim(tmp_path):
        with pytest.raises(UserError, match="in use by another process"):
            with runs.claim(tmp_path):
                pass
    with runs.claim(tmp_path):
        pass


def test_a_recycled_pid_is_not_the_owner(tmp_path):
    """After a reboot the pid of a killed run may be somebody else's: the start time tells."""
    runs.write(tmp_path / "run.json", json.dumps(dict(pid=os.getppid(), started=time.time() - 10**6, heartbeat=0)))
    assert runs.alive(tmp_path) is None


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
    assert runs.alive(tmp_path) is None and runs.state(tmp_path) == "new"
    with runs.claim(tmp_path):
        runs.beat(tmp_path)
    assert runs.read_info(tmp_path)["pid"] == os.getpid()
    (tmp_path / "events.jsonl").write_text('{"phase": "think"}\nnonsense\n')
    with pytest.raises(UserError, match="events.jsonl line 2 is damaged: 'nonsense"):
        list(runs.read_lines(tmp_path / "events.jsonl"))
