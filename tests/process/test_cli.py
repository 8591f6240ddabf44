"""The command line as a child: what only a real process shows. What each verb does: unit/test_cli.py."""

import json
import os
import signal
import subprocess
import sys

import pytest

from conftest import ROOT, cli, wait
from thinkswitch import runs
from thinkswitch.cli.main import main

LONG = ["--set", "rounds=3", "prompts=64", "held_out=4", "rows=2"]


def test_answers_go_to_stdout_and_nothing_else_does():
    asked = cli("ask", "tiny", "--prompt", "What is 4 + 5 - 2?", "--t", 1, "--greedy", "--json", check=0)
    [answer] = json.loads(asked.stdout)
    assert answer["answer"] == "\\boxed{7}"


def test_a_refusal_is_one_sentence_and_exit_code_1(tmp_path):
    done = cli("run", "tiny", "--out", tmp_path / "run", "--set", "round=2", check=1)
    assert done.stdout == "" and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no bytes as arguments")
def test_bytes_that_are_no_text_are_refused():
    command = [sys.executable, "-m", "thinkswitch", "ask", "tiny", "--prompt", b"\xff"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 1 and "not valid UTF-8" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one child")
@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_stopped_is_130_and_can_be_resumed(tmp_path, capsys, how):
    folder = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-m", "thinkswitch", "run", "tiny", "--out", str(folder), *LONG],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    wait(lambda: child.poll() is not None or (folder / "rounds" / "1" / "samples.jsonl").exists())
    assert child.poll() is None, child.stderr.read()
    if how == "stop":
        assert main(["resume", str(folder)]) == 1 and f"process {child.pid}" in capsys.readouterr().err
        assert main(["stop", str(folder)]) == 0
    else:
        child.send_signal(signal.SIGINT)
    error = child.communicate(timeout=300)[1]
    assert child.returncode == 130 and "Traceback" not in error
    assert runs.state(folder) in ("stopped", "interrupted")
    assert runs.open_run(folder).rounds == 3
