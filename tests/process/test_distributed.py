"""Distillation by several processes of `accelerate launch`: real ones, over gloo."""

import os
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from conftest import ROOT, cli
from thinkswitch import runs

SMALL = [
    "prompts=24",
    "held_out=4",
    "rounds=1",
    "batch=5",
    "micro_batch=1",
    "epochs=2",
    "save_steps=2",
    "labels=thinking",
]
LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_machines",
    "1",
    "--num_processes",
    "2",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "-m",
    "thinkswitch",
]


def launched(*args, **kwargs) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [*LAUNCH, *map(str, args)],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **kwargs,
    )


def adapter(folder, number: int) -> dict:
    return load_file(runs.round_dir(folder, number) / "adapter" / "adapter_model.safetensors")


@pytest.mark.skipif(os.name == "nt", reason="torchrun's rendezvous is not tried on Windows")
def test_two_processes_train_the_adapter_that_one_would(tmp_path):
    """24 answers in batches of 5: shares of 3 and 2, then 2 and 2. Only the order of sums differs."""
    cli("run", "tiny", "--out", tmp_path / "one", "--set", *SMALL, check=0)
    two = launched("run", "tiny", "--out", tmp_path / "two", "--set", *SMALL)
    said = two.communicate(timeout=240)[0]
    assert two.returncode == 0, said
    assert runs.state(tmp_path / "two") == "done" and said.count("done after") == 1
    one, two = adapter(tmp_path / "one", 1), adapter(tmp_path / "two", 1)
    assert one.keys() == two.keys() and max(float(x.abs().max()) for x in one.values()) > 0.01
    for name, x in one.items():
        assert (x - two[name]).abs().max() < 1e-4, name
    losses = [
        [
            e["loss"]
            for e in runs.read_lines(tmp_path / run / "events.jsonl")
            if e["phase"] == "distil" and e["round"] == 1
        ]
        for run in ("one", "two")
    ]
    assert len(losses[0]) == 10 and losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.skipif(os.name == "nt", reason="torchrun's rendezvous is not tried on Windows")
def test_a_stop_ends_all_of_them_and_leaves_what_a_resume_needs(tmp_path):
    """The other process waits in a collective call; it must hear that the first one has left."""
    folder = tmp_path / "run"
    running = launched("run", "tiny", "--out", folder, "--set", *SMALL, "epochs=500")
    deadline = time.monotonic() + 200
    while (runs.last_line(folder / "events.jsonl") or {}).get("phase") != "distil":
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.2)
    runs.request_stop(folder)
    said = running.communicate(timeout=60)[0]  # not for ever
    assert runs.state(folder) == "stopped" and "stopped after" in said, said
    last = runs.last_line(folder / "events.jsonl")
    assert last["phase"] == "stopped" and (runs.round_dir(folder, 1) / "distil.safetensors").is_file()


@pytest.mark.skipif(os.name == "nt", reason="torchrun's rendezvous is not tried on Windows")
def test_a_refusal_is_said_once_and_lets_the_others_go(tmp_path):
    running = launched("run", "tiny", "--out", tmp_path / "run", "--set", "prompts=1000000", "fresh=false")
    said = running.communicate(timeout=120)[0]
    assert running.returncode and said.count("training prompts are needed") == 1
