"""Distillation by several processes of `accelerate launch`: real ones, over gloo."""

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from conftest import ROOT, wait
from thinkswitch import runs
from thinkswitch.cli.main import main

SETTINGS = [
    "prompts=24",
    "held_out=4",
    "rounds=1",
    "batch=5",
    "micro_batch=1",
    "epochs=2",
    "save_steps=2",
    "labels=thinking",
]
LAUNCH = "--multi_gpu --num_machines 1 --num_processes 2 --mixed_precision no --dynamo_backend no"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="torchrun's rendezvous is not tried on Windows")


def launch(*args) -> subprocess.Popen:
    """`accelerate launch -m thinkswitch ...` with two processes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), "-m", "thinkswitch"]
    return subprocess.Popen(
        [*command, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def output_of(launched: subprocess.Popen) -> str:
    """What the processes printed, once they have ended; processes that hang fail the test and are ended."""
    try:
        return launched.communicate(timeout=300)[0]
    finally:
        launched.terminate()  # torchrun passes it on


def adapter(folder) -> dict:
    return load_file(runs.round_dir(folder, 1) / "adapter" / "adapter_model.safetensors")


def losses(folder) -> list[float]:
    events = runs.read_lines(folder / "events.jsonl")
    return [event["loss"] for event in events if event["phase"] == "distil"]


def test_two_processes_train_the_adapter_that_one_would(tmp_path):
    """24 answers in batches of 5: shares of 3 and 2, then 2 and 2. Only the order of sums differs."""
    assert main(["run", "tiny", "--out", str(tmp_path / "one"), "--set", *SETTINGS]) == 0
    launched = launch("run", "tiny", "--out", tmp_path / "two", "--set", *SETTINGS)
    output = output_of(launched)
    assert launched.returncode == 0, output
    assert runs.state(tmp_path / "two") == "done" and output.count("done after") == 1
    one, two = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    assert one.keys() == two.keys() and max(float(x.abs().max()) for x in one.values()) > 0.01
    for name, x in one.items():
        assert (x - two[name]).abs().max() < 1e-4, name
    assert len(losses(tmp_path / "one")) == 10
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=1e-3)


def test_a_stop_ends_all_of_them_and_leaves_what_a_resume_needs(tmp_path):
    """The other process waits for rank 0 at the top of a step; it must hear that rank 0 has left."""
    folder = tmp_path / "run"
    launched = launch("run", "tiny", "--out", folder, "--set", *SETTINGS, "epochs=500")
    state = runs.round_dir(folder, 1) / "distil.safetensors"
    wait(lambda: launched.poll() is not None or state.exists())
    assert launched.poll() is None, launched.communicate()[0]
    runs.request_stop(folder)
    output = output_of(launched)
    assert runs.state(folder) == "stopped" and "stopped after" in output, output
    assert "Traceback" not in output.partition("stopped after")[0]
    assert state.is_file()


def test_a_refusal_is_said_once_and_lets_the_others_go(tmp_path):
    launched = launch("run", "tiny", "--out", tmp_path / "run", "--set", "prompts=1000000", "fresh=false")
    output = output_of(launched)
    assert launched.returncode and output.count("training prompts are needed") == 1
