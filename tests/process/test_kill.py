"""kill -9 at any moment loses nothing: the promise of the run folder, with real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT, wait
from thinkswitch import loop, runs
from thinkswitch.preset import load_preset, make_preset

# Two rounds in seconds, several decode groups and saves in each.
SMALL = dict(rounds=2, prompts=12, held_out=10, rows=4, epochs=6, batch=4, micro_batch=4, save_steps=2)


def result(folder: Path) -> dict:
    """What a run leaves, apart from times: bytes of adapters and recipes, every label and every score."""
    found = {}
    for path in sorted(p for p in folder.glob("rounds/**/*") if p.is_file() and p.name != "README.md"):
        scores = path.name == "scores.jsonl"
        found[path.relative_to(folder)] = (
            sorted(path.read_bytes().splitlines()) if scores else path.read_bytes()
        )
    return found


def kill_when(ready: Callable[[], object], *verb) -> None:
    """Start the command, and kill it as soon as `ready()`."""
    command = [sys.executable, "-m", "thinkswitch", *map(str, verb)]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
    )
    wait(lambda: child.poll() is not None or ready())
    assert child.poll() is None, child.stderr.read()
    child.send_signal(signal.SIGKILL)
    child.communicate()


def lines(path: Path) -> int:
    return sum(1 for _ in runs.read_lines(path))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_while_thinking_training_and_measuring_a_run_ends_in_the_same_bytes(tmp_path):
    """One run, killed three times and resumed as often: identical adapters, labels, recipes and scores."""
    list(loop.run(make_preset(SMALL, base=load_preset("tiny")), tmp_path / "whole"))
    folder = tmp_path / "run"
    one = runs.round_dir(folder, 1)
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    kill_when(lambda: lines(one / "samples.jsonl"), "run", "tiny", "--out", folder, "--set", *settings)
    assert runs.state(folder) == "interrupted"
    kill_when(lambda: (one / "distil.safetensors").exists() or (one / "adapter").exists(), "resume", folder)
    assert runs.state(folder) == "interrupted"
    kill_when(lambda: lines(one / "scores.jsonl"), "resume", folder)
    assert runs.state(folder) == "interrupted"
    list(loop.resume(folder))
    assert runs.state(folder) == "done"
    assert result(folder) == result(tmp_path / "whole")
