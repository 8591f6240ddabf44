"""The page's download as a child process: how it ends, by itself or by a person. The child is a stub."""

import subprocess
import sys
import threading
import time

import psutil
import pytest

from conftest import python, wait
from thinkswitch.errors import UserError
from thinkswitch.weights.hub import Missing
from ui.download import Cancelled, Download, end

# A stub of the child: half a file is here, and a child of its own works, as behind Windows' python.exe.
ENDLESS = """
import subprocess, sys, time
half = open(sys.argv[1] + "/mine.incomplete", "wb")
half.write(b"x" * 70)
half.flush()
sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print(sleeper.pid, file=open(sys.argv[1] + "/sleeper", "w"), flush=True)
time.sleep(1000)
"""


@pytest.fixture
def blobs(tmp_path):
    """Where the Hub's cache keeps files. Another process has left half of one there."""
    folder = tmp_path / "models--lab--pair" / "blobs"
    folder.mkdir(parents=True)
    (folder / "other.incomplete").write_bytes(b"x" * 500)
    return folder


def download(code: str, blobs) -> Download:
    snapshot = blobs.parent / "snapshots" / "0123"
    missing = Missing("lab/pair", snapshot, ["model.safetensors"], 100)
    return Download([sys.executable, "-c", code, str(blobs)], [missing])


def has_ended(pid: int) -> bool:
    """Also one that nobody has collected yet."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_cancelled_download_leaves_no_process_and_no_half_file(blobs):
    """Nobody goes on with a half: every download has a name of its own for it."""
    going = download(ENDLESS, blobs)
    (blobs.parent / "snapshots" / "0123").mkdir(parents=True)
    reports, ended = [], []

    def run():
        try:
            going.run(reports.append)
        except Cancelled as cancelled:
            ended.append(cancelled)

    thread = threading.Thread(target=run)
    thread.start()
    wait(lambda: 70 in reports)
    wait((blobs / "sleeper").is_file)
    wait(lambda: (blobs / "sleeper").read_text())
    going.cancel()
    thread.join(60)
    assert "files that had arrived whole are kept" in str(ended[0])
    assert has_ended(int((blobs / "sleeper").read_text()))
    assert [file.name for file in blobs.glob("*.incomplete")] == ["other.incomplete"]


APP = """
import sys, threading, time
from pathlib import Path
from types import SimpleNamespace
from ui.download import Download
stub, blobs = sys.argv[1], Path(sys.argv[2])
missing = SimpleNamespace(name="lab/pair", folder=blobs.parent / "snapshots" / "0123", files=[], nbytes=100)
going = Download([sys.executable, "-c", stub, str(blobs)], [missing])
threading.Thread(target=going.run, args=[print], daemon=True).start()
while not ((blobs / "sleeper").is_file() and (blobs / "sleeper").read_text()):
    time.sleep(0.01)
"""


def test_a_download_ends_with_the_app(blobs):
    python("-c", APP, ENDLESS, blobs)
    assert has_ended(int((blobs / "sleeper").read_text()))
    assert [file.name for file in blobs.glob("*.incomplete")] == ["other.incomplete"]


def test_whole_and_half_files_have_arrived(blobs):
    going = download("", blobs)
    assert going.size == 100 and going.names == "pair" and going.arrived() == 0
    (blobs / "mine.incomplete").write_bytes(b"x" * 40)
    assert going.arrived() == 40
    (blobs / "mine.incomplete").rename(blobs / "digest")  # then the snapshot gets a link to it
    snapshot = blobs.parent / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x" * 120)
    assert going.arrived() == 100  # with its header a file is larger than its tensors


def test_the_sentence_of_a_child_that_fails_is_what_a_person_reads(blobs):
    code = "import sys; sys.exit(print('Trying\\nerror: lab/pair is gated\\n', file=sys.stderr) or 1)"
    with pytest.raises(UserError, match=r"^lab/pair is gated$"):
        download(code, blobs).run(print)


def test_a_child_that_dies_without_a_sentence(blobs, caplog):
    with pytest.raises(
        UserError, match="the download of pair ended with exit code 3; the app's log says more"
    ):
        download("import sys; print('Traceback', file=sys.stderr); sys.exit(3)", blobs).run(print)
    assert "Traceback" in caplog.text


def test_a_child_that_ends_well(blobs):
    download("", blobs).run(print)


def test_ending_what_has_ended_is_nothing():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    began = time.monotonic()
    end(child)
    assert child.returncode == 0 and time.monotonic() - began < 60
