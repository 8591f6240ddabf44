"""The command line, as a user has it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from conftest import ROOT, TINY, cli
from thinkswitch import runs
from thinkswitch.cli import main as cli_main
from thinkswitch.cli.main import main

SMALL = ["--set", "rounds=1", "prompts=8", "held_out=6", "rows=8", "epochs=1", "batch=4"]
SLOW = ["--set", "rounds=3", "prompts=64", "held_out=64", "rows=4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    done = cli("run", "tiny", "--out", folder, *SMALL, check=0)
    assert "round 1 measure" in done.stdout and "done after" in done.stdout and str(folder) in done.stdout
    return folder


def refused(*args, says, **kwargs):
    """One sentence on stderr, exit code 1, no traceback."""
    done = cli(*args, check=1, **kwargs)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and says in done.stderr, done.stderr


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be ..."),
                                   torch.AcceleratorError("CUDA error: device not ready")])
def test_a_gpu_that_vanishes_is_said_in_a_sentence(monkeypatch, capsys, tmp_path, error):
    """Unplugged, or its driver restarted: a traceback of forty lines ended in advice about CUDA_LAUNCH_BLOCKING."""
    def gone(args):
        raise error
    monkeypatch.setattr(cli_main, "do_status", gone)
    assert main(["status", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the GPU stopped working (CUDA error: ") and said.count("\n") == 1 and "then resume" in said
    monkeypatch.setattr(error, "args", ("shapes differ",))
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["status", str(tmp_path)])


def test_help_reads_well():
    top = cli("--help", check=0).stdout
    assert all(verb in top for verb in ("run", "resume", "stop", "status", "ask", "sweep", "export", "check")) and "130 stopped" in top
    one = cli("run", "--help", check=0).stdout
    assert "rounds=3" in one and "learning_rate=0.0002" in one and "peak learning rate" in one
    assert max(map(len, one.splitlines())) < 200


def test_status_of_a_run(run):
    assert "done, round 1 of 1" in cli("status", run, check=0).stdout
    told = json.loads(cli("status", run, "--json", check=0).stdout)
    assert told["state"] == "done" and len(told["measured"]) == 4


def test_ask_answers_at_three_points(run):
    """t = 0 answers at once, t = 1 thinks first; of a preset and of a run's round."""
    for source in ("tiny", run):
        rows = json.loads(cli("ask", source, "--prompt", "What is 4 + 5 - 2?", "--t", 0, 0.5, 1, "--greedy", "--json", check=0).stdout)
        assert [r["t"] for r in rows] == [0, 0.5, 1]
        assert rows[0]["trace"] == "" and rows[0]["answer"].startswith("\\boxed{")
        assert rows[2]["trace"] == "4 + 5 = 9\n9 - 2 = 7" and rows[2]["answer"] == "\\boxed{7}"
    columns = cli("ask", "tiny", "--prompt", "What is 4 + 5 - 2?", "--greedy", check=0).stdout
    assert "t = 0  instruct" in columns and "t = 1  thinking" in columns and "9 - 2 = 7" in columns


def test_sampled_answers_repeat(run):
    ask = lambda: cli("ask", "tiny", "--prompt", "What is 4 + 5 - 2 + 9 + 9?", "--json", check=0).stdout
    assert ask() == ask()


def test_sweep_shows_the_switch(run, tmp_path):
    out = tmp_path / "sweep.json"
    done = cli("sweep", "tiny", "--t", 0, 1, "--set", "held_out=20", "--json", out, check=0)
    points = json.loads(out.read_text())["points"]
    assert [p["t"] for p in points] == [0, 1] and all(p["n"] == 20 for p in points)
    assert points[0]["think_rate"] == 0 and points[1]["think_rate"] == 1 and points[1]["accuracy"] > points[0]["accuracy"]
    assert "think rate" in done.stdout


def test_export_writes_what_transformers_loads(run, tmp_path):
    out = tmp_path / "deep" / "out"
    done = cli("export", run, "--point", 0.8, "--out", out, check=0).stdout
    told, _, code = done.partition("\n\n")
    assert "1.7 MB to write (46 tensors, BF16, instruct's chat template)" in told and "live blend" in told and f"{out}: 8 files" in told
    loaded = subprocess.run([sys.executable, "-c", code + "\nprint(type(model).__name__, model.dtype)"], capture_output=True, text=True)
    assert loaded.stdout == "Qwen3ForCausalLM torch.bfloat16\n", loaded.stderr
    card = (out / "README.md").read_text()
    assert "round 1, t = 0.8" in card and "| 1 | thinking | 6 |" in card and "not of this point" in card
    done = cli("export", run, "--round", 1, "--point", "instruct", "--adapter", "--out", out, "--replace", check=0).stdout
    assert "F32" in done and (out / "adapter_model.safetensors").is_file() and not (out / "model.safetensors").exists()


def test_export_refusals(run, tmp_path):
    refused("export", "tiny", "--point", "thinking", "--out", tmp_path, says="already exists")
    refused("export", run, "--point", 0.5, "--adapter", "--out", tmp_path / "out", says="no LoRA update")
    refused("export", "tiny", "--point", 0.5, "--shard", 0, "--out", tmp_path / "out", says="--shard is the size of a file in GB")
    assert cli("export", "tiny", "--point", "middle", "--out", tmp_path / "out").returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="file size limits")
def test_a_disk_that_fills_up_leaves_no_export(tmp_path):
    import resource
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    done = cli("export", "tiny", "--point", 0.5, "--out", tmp_path / "a" / "out", check=1, preexec_fn=limit)
    assert re.fullmatch(r"\nerror: .* nothing is left of it.*\n", done.stderr), done.stderr  # the bar ends its line first
    assert not list(tmp_path.iterdir())


def test_check_says_what_the_pair_is():
    told = cli("check", TINY / "instruct", TINY / "thinking", check=0).stdout
    assert "compatible: qwen3, 8" in told and "thinking: its chat template opens the trace" in told


def test_refusals(run, tmp_path):
    refused("run", "nothing", says="no preset 'nothing'")
    refused("run", "tiny", "--set", "round=2", says="did you mean 'rounds'")
    refused("run", "tiny", "--set", "t=2", says="t must lie between 0 and 1")
    refused("run", "tiny", "--out", run, says="already holds a run")
    refused("resume", tmp_path, says="is no run")
    refused("stop", run, says="is not running")
    refused("ask", "tiny", "--prompt", "x", "--t", 1.5, says="t must lie between 0 and 1")
    refused("ask", "tiny", "--prompt", " ", says="the prompt is empty")
    refused("ask", "tiny", "--prompt", "x", "--tokens", 0, says="--tokens must be at least 1")
    refused("ask", "tiny", "--prompt", b"\xff", says="not valid UTF-8")
    refused("sweep", "tiny", "--json", tmp_path, says="is a folder")
    refused("ask", run, "--prompt", "x", "--round", 7, says="has no round 7")
    refused("ask", "tiny", "--prompt", "x", "--round", 1, says="is a preset")
    refused("check", TINY / "instruct", tmp_path, says="no config.json")


def test_wrong_usage_is_argparse_s():
    done = cli("run")
    assert done.returncode == 2 and "preset" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="file size limits")
def test_a_disk_that_fills_up_ends_in_one_sentence_and_resumes(tmp_path, run):
    """The limit on file size stands for a full disk; the run then goes on to what an undisturbed one gives."""
    import resource
    folder = tmp_path / "run"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # below the adapter's size
    done = cli("run", "tiny", "--out", folder, *SMALL, preexec_fn=limit)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for path in folder.glob("**/*.jsonl"):
        assert path.read_bytes().endswith(b"\n")
    cli("resume", folder, check=0)
    name = "rounds/1/adapter/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (run / name).read_bytes()


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    refused("run", "tiny", "--out", tmp_path / "file" / "run", *SMALL, says="cannot be used")


@pytest.mark.skipif(os.name == "nt", reason="SIGINT")
@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_stopped_is_130_and_resumes(tmp_path, how):
    folder = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-m", "thinkswitch", "run", "tiny", "--out", str(folder), *SLOW], cwd=ROOT,
                             env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # ignored in what a shell starts with &
    deadline = time.time() + 120
    while not (folder / "rounds" / "1" / "samples.jsonl").exists():
        assert child.poll() is None and time.time() < deadline
        time.sleep(0.01)
    if how == "stop":
        assert "is in use by process" in cli("resume", folder, check=1).stderr
        assert "will stop" in cli("stop", folder, check=0).stdout
    else:
        child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130
    assert "Traceback" not in child.stderr.read()
    assert runs.state(folder) in ("stopped", "interrupted")
