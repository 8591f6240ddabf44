"""The command line, called in process: what each verb prints, and what it refuses."""

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from conftest import TINY
from thinkswitch import runs
from thinkswitch.cli.main import main

SMALL = ["--set", "rounds=1", "prompts=8", "held_out=6", "rows=8", "epochs=1", "batch=4"]
QUESTION = "What is 4 + 5 - 2?"


@pytest.fixture
def command(capsys):
    """`command(*argv)` -> what a verb that succeeds prints."""

    def call(*argv, code: int = 0) -> str:
        capsys.readouterr()
        ended = main(list(map(str, argv)))
        done = capsys.readouterr()
        assert ended == code, done.out + done.err
        return done.out

    return call


@pytest.fixture
def refused(capsys):
    """`refused(*argv)` -> the one sentence on stderr of a verb that refuses; its exit code is 1."""

    def call(*argv) -> str:
        capsys.readouterr()
        ended = main(list(map(str, argv)))
        error = capsys.readouterr().err.lstrip("\n")  # a progress bar ends its line first
        assert ended == 1 and error.startswith("error: ") and error.count("\n") == 1, error
        return error.removeprefix("error: ")

    return call


def wrong_usage(*argv) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, argv)))
    return end.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["run", "tiny", "--out", str(folder), *SMALL]) == 0
    return folder


# ---- help and usage


def test_help_names_every_verb_and_exit_code(capsys):
    assert wrong_usage("--help") == 0
    shown = capsys.readouterr().out
    verbs = ("run", "resume", "stop", "status", "ask", "sweep", "export", "check", "fetch", "plan")
    assert all(verb in shown for verb in verbs)
    assert re.search(r"130\W+stopped", shown)


def test_help_of_run_lists_the_settings_with_their_defaults(capsys):
    assert wrong_usage("run", "--help") == 0
    shown = capsys.readouterr().out
    assert "rounds=3" in shown and "learning_rate=0.0002" in shown
    assert max(map(len, shown.splitlines())) < 200


def test_wrong_usage_is_two(capsys):
    assert wrong_usage("run") == 2
    assert "preset" in capsys.readouterr().err
    assert wrong_usage("export", "tiny", "--point", "middle", "--out", "x") == 2


# ---- verbs


def test_a_run_ends_in_its_scores_and_says_where_it_lies(command, tmp_path):
    shown = command("run", "tiny", "--out", tmp_path / "run", *SMALL)
    assert "round 1 measure" in shown and "done" in shown and str(tmp_path / "run") in shown


def test_status_of_a_run(command, run):
    assert "done, round 1 of 1" in command("status", run)
    status = json.loads(command("status", run, "--json"))
    assert status["state"] == "done" and len(status["measured"]) == 4


@pytest.mark.parametrize("of", ["preset", "run"])
def test_ask_answers_at_three_points(command, run, of):
    """t = 0 answers at once, t = 1 thinks first."""
    source = {"preset": "tiny", "run": run}[of]
    asked = command("ask", source, "--prompt", QUESTION, "--t", 0, 0.5, 1, "--greedy", "--json")
    first, middle, last = json.loads(asked)
    assert [first["t"], middle["t"], last["t"]] == [0, 0.5, 1]
    assert first["trace"] == "" and first["answer"].startswith("\\boxed{")
    assert last["trace"] == "4 + 5 = 9\n9 - 2 = 7" and last["answer"] == "\\boxed{7}"


def test_ask_shows_columns(command):
    columns = command("ask", "tiny", "--prompt", QUESTION, "--greedy")
    assert "t = 0" in columns and "t = 1" in columns and "9 - 2 = 7" in columns


def test_sampled_answers_repeat(command):
    ask = ("ask", "tiny", "--prompt", "What is 4 + 5 - 2 + 9 + 9?", "--json")
    assert command(*ask) == command(*ask)


def test_sweep_shows_the_switch(command, tmp_path):
    out = tmp_path / "sweep.json"
    assert "think rate" in command("sweep", "tiny", "--t", 0, 1, "--set", "held_out=20", "--json", out)
    first, last = json.loads(out.read_text("utf-8"))["points"]
    assert (first["t"], last["t"]) == (0, 1) and first["n"] == last["n"] == 20
    assert first["think_rate"] == 0 and last["think_rate"] == 1 and last["accuracy"] > first["accuracy"]


def test_check_says_what_the_pair_is(command):
    shown = command("check", TINY / "instruct", TINY / "thinking")
    assert shown.startswith("compatible: qwen3, 4 layers, hidden 128, 835,840 parameters in ")
    instruct, thinking = shown.splitlines()[-2:]
    assert instruct.startswith("instruct: ") and thinking.startswith("thinking: ")
    assert instruct.partition(": ")[2] != thinking.partition(": ")[2]  # whether its template opens the trace


def test_plan_names_what_takes_memory(command):
    shown = command("plan", "tiny")
    assert all(phase in shown for phase in ("think", "distil", "measure"))


def test_export_writes_what_transformers_loads(command, run, tmp_path):
    """What is printed ends in the code that loads it."""
    out = tmp_path / "deep" / "out"
    shown, _, code = command("export", run, "--point", 0.8, "--out", out).partition("\n\n")
    assert "46 tensors, BF16" in shown and str(out) in shown
    loaded = {}
    exec(code, loaded)
    assert (type(loaded["model"]).__name__, loaded["model"].dtype) == ("Qwen3ForCausalLM", torch.bfloat16)
    card = (out / "README.md").read_text("utf-8")
    assert "round 1, t = 0.8" in card and "| 1 | thinking | 6 |" in card


def test_an_adapter_replaces_an_earlier_export_when_it_may(command, run, tmp_path):
    out = tmp_path / "out"
    export = ("export", run, "--round", 1, "--point", "instruct", "--out", out)
    command(*export)
    assert "F32" in command(*export, "--adapter", "--replace")
    assert (out / "adapter_model.safetensors").is_file() and not (out / "model.safetensors").exists()


# ---- refusals


@pytest.mark.parametrize(
    "argv, says",
    [
        (["run", "nothing"], "no preset 'nothing'"),
        (["run", "tiny", "--set", "round=2"], "did you mean 'rounds'"),
        (["run", "tiny", "--set", "t=2"], "t must lie between 0 and 1"),
        (["ask", "tiny", "--prompt", "x", "--t", "1.5"], "t must lie between 0 and 1"),
        (["ask", "tiny", "--prompt", " "], "the prompt is empty"),
        (["ask", "tiny", "--prompt", "x", "--tokens", "0"], "--tokens must be at least 1"),
        (["ask", "tiny", "--prompt", os.fsdecode(b"\xff")], "not valid UTF-8"),
        (["ask", "tiny", "--prompt", "x", "--round", "1"], "is a preset"),
        (["ask", "{run}", "--prompt", "x", "--round", "7"], "has no round 7"),
        (["run", "tiny", "--out", "{run}"], "already holds a run"),
        (["stop", "{run}"], "is not running"),
        (["resume", "{empty}"], "is no run"),
        (["sweep", "tiny", "--json", "{empty}"], "is a folder"),
        (["sweep", "tiny", "--json", "{file}/x.json"], "is a file, not a folder"),
        (["check", str(TINY / "instruct"), "{empty}"], "no config.json"),
        (["export", "tiny", "--point", "thinking", "--out", "{empty}"], "already exists"),
        (["export", "{run}", "--point", "0.5", "--adapter", "--out", "{empty}/out"], "no LoRA update"),
        (["export", "tiny", "--point", "0.5", "--shard", "0", "--out", "{empty}/out"], "--shard"),
        (["run", "tiny", "--out", "{file}/run", *SMALL], "cannot be used"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(refused, run, tmp_path, argv, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    places = dict(run=run, empty=tmp_path / "empty", file=tmp_path / "file")
    assert says in refused(*(a.format(**places) if a.startswith("{") else a for a in argv))
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("error", [RuntimeError, torch.AcceleratorError])
def test_a_gpu_that_vanishes_is_one_sentence(monkeypatch, refused, tmp_path, error):
    """Unplugged, or its driver restarted: a traceback of forty lines ended in CUDA_LAUNCH_BLOCKING."""

    def gone(folder):
        raise error("CUDA error: unspecified launch failure\nCUDA kernel errors might be ...")

    monkeypatch.setattr(runs, "open_run", gone)
    said = refused("status", tmp_path)
    assert "CUDA error: unspecified launch failure" in said and "resume" in said


def test_another_runtime_error_keeps_its_traceback(monkeypatch, tmp_path):
    def broken(folder):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(runs, "open_run", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["status", str(tmp_path)])


# ---- a full disk: here a limit on the size of a file, below that of an adapter or a shard


@contextmanager
def full_disk():
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of a file")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_no_export(refused, tmp_path):
    with full_disk():
        assert "nothing is left of it" in refused(
            "export", "tiny", "--point", 0.5, "--out", tmp_path / "a" / "out"
        )
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_ends_a_run_in_one_sentence_and_it_resumes(refused, command, tmp_path, run):
    """The run then goes on to what an undisturbed one gives."""
    folder = tmp_path / "run"
    with full_disk():
        refused("run", "tiny", "--out", folder, *SMALL)
    assert all(path.read_bytes().endswith(b"\n") for path in folder.rglob("*.jsonl"))
    command("resume", folder)
    weights = "adapter/adapter_model.safetensors"
    assert (runs.round_dir(folder, 1) / weights).read_bytes() == (
        runs.round_dir(run, 1) / weights
    ).read_bytes()
