"""A run that asks a remote teacher ends when it is told to, whatever the server does.

The threads of its requests used to hold the process for as long as an answer took: up to an hour, with
"stopped" on the screen.
"""

import os
import signal
import subprocess
import sys

import pytest

from conftest import ROOT, wait
from fake_teacher import FakeTeacher
from thinkswitch import runs

SETTINGS = ["rounds=1", "prompts=8", "held_out=2", "rows=4"]


@pytest.fixture
def server():
    """Takes requests and never answers."""
    server = FakeTeacher(lambda number, body: server.never_answer())
    yield server
    server.close()


def start(server, folder) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "thinkswitch",
        "run",
        "tiny",
        "--teacher",
        server.url,
        "--out",
        str(folder),
    ]
    return subprocess.Popen(
        [*command, "--set", *SETTINGS],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for_requests(server, child, count: int) -> None:
    wait(lambda: child.poll() is not None or len(server.bodies) >= count)
    assert child.poll() is None, child.communicate()[0]


def output_of(child) -> str:
    """What it printed, once it has ended; a process that hangs fails the test and is killed."""
    try:
        return child.communicate(timeout=300)[0]
    finally:
        child.kill()


def test_a_stop_ends_the_process_while_requests_are_open(server, tmp_path):
    child = start(server, tmp_path / "run")
    wait_for_requests(server, child, 4)
    runs.request_stop(tmp_path / "run")
    output = output_of(child)
    assert child.returncode == 130, output
    assert runs.state(tmp_path / "run") == "stopped"
    assert len(server.bodies) == 4  # nothing was asked after the stop


@pytest.mark.skipif(os.name == "nt", reason="a child on Windows cannot be sent Ctrl-C alone")
def test_ctrl_c_ends_the_process_while_requests_are_open(server, tmp_path):
    child = start(server, tmp_path / "run")
    wait_for_requests(server, child, 4)
    child.send_signal(signal.SIGINT)
    output = output_of(child)
    assert child.returncode == 130 and "interrupted" in output, output


def test_a_refusal_ends_the_process_while_other_requests_are_open(server, tmp_path):
    server.behave = lambda number, body: (401, {}) if number == 4 else server.never_answer()
    child = start(server, tmp_path / "run")
    output = output_of(child)
    assert child.returncode == 1 and "refuses: 401" in output, output
    assert runs.state(tmp_path / "run") == "error"
