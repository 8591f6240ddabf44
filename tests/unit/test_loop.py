"""The whole method on the embedded pair, small: events, files, controls, refusals, and a kill at any moment."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from peft import PeftConfig

from conftest import ROOT, cli
from thinkswitch import distil, loop, rounds, runs
from thinkswitch.cli import terminal
from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset, make_preset

# The real pair, a small run: two rounds in a few seconds, several decode groups and saves in each.
SMALL = dict(rounds=2, prompts=12, held_out=10, rows=4, epochs=2, batch=4, micro_batch=4, save_steps=2)


def small(**changes):
    return make_preset({**SMALL, **changes}, base=load_preset("tiny"))


def finish(preset, folder):
    return list(loop.run(preset, folder))


def result(folder: Path) -> dict:
    """What a run leaves, apart from times: bytes of adapters and recipes, every label and every score."""
    found = {}
    for path in sorted(folder.glob("rounds/*/*")):
        key = str(path.relative_to(folder))
        if path.name == "adapter":
            found |= {f"{key}/{f.name}": f.read_bytes() for f in path.iterdir() if f.name != "README.md"}
        elif path.name == "scores.jsonl":
            found[key] = sorted(path.read_text().splitlines())
        else:
            found[key] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, events) of a run that was never disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, finish(small(), folder)


def test_events_tell_the_method_in_order(whole):
    folder, events = whole
    told = [(e.round, e.phase) for e in events]
    order = [(r, p) for r, p in dict.fromkeys(told)]
    phases = ["think", "strip", "distil", "rebuild", "measure"]
    assert order == [(0, "measure"), *((1, p) for p in phases), *((2, p) for p in phases), (2, "done")]
    for r in (0, 1, 2):
        scored = [e.data for e in events if e.round == r and e.phase == "measure" and e.step == e.total]
        assert [s["checkpoint"] for s in scored] == ["instruct", "thinking"]
        assert all({"n", "correct", "accuracy", "low", "high", "think_rate", "mean_tokens"} <= s.keys() for s in scored)
        assert all(s["n"] == 10 and s["low"] <= s["accuracy"] <= s["high"] for s in scored)
    distil = [e for e in events if e.phase == "distil" and e.round == 1]
    assert [e.step for e in distil] == list(range(1, 7)) and all({"loss", "lr", "grad_norm", "tokens_per_s"} <= e.data.keys() for e in distil)
    assert [e.data["kept"] + sum(e.data["dropped"].values()) for e in events if e.phase == "strip"] == [12, 12]
    written = list(runs.read_lines(folder / "events.jsonl"))
    assert written == json.loads(json.dumps([e.to_dict() for e in events])) and written[-1]["phase"] == "done"


def test_the_folder_holds_what_the_design_names(whole):
    folder, _ = whole
    assert {"preset.yaml", "run.json", "events.jsonl"} <= {p.name for p in folder.iterdir()} and not (folder / "stop").exists()
    assert load_preset(folder) == small(four_bit=False)
    info = json.loads((folder / "run.json").read_text())
    assert info["pid"] == os.getpid() and {"started", "versions", "heartbeat"} <= info.keys()
    for r in (1, 2):
        names = {p.name for p in runs.round_dir(folder, r).iterdir()}
        assert names == {"samples.jsonl", "adapter", "recipe.json", "scores.jsonl"}
        assert PeftConfig.from_pretrained(runs.round_dir(folder, r) / "adapter").r == 16
    for line in runs.read_lines(runs.round_dir(folder, 1) / "samples.jsonl"):
        assert line["kept"] is (line["why"] is None)
        assert "<think>" not in line["answer"] and "</think>" in line["text"] and line["trace"]


def test_recipes_say_what_the_rounds_did(whole):
    """Instruct: its base and every adapter. Thinking: most of the anchor, some of the new instruct, in proportion."""
    folder, _ = whole
    two = rounds.read(folder, 2)
    assert len(two.adapters) == 2
    assert set(two.instruct.values()) == {(1.0, 0.0, 1.0, 1.0)}
    for name, (c_i, c_t, *c_adapters) in two.thinking.items():
        assert c_adapters == pytest.approx([c_i, c_i]) and c_i == pytest.approx(0.2, abs=0.02) and c_t == pytest.approx(0.8, abs=0.02), name


def test_running_again_is_refused_and_harms_nothing(whole):
    folder, _ = whole
    before = result(folder)
    with pytest.raises(UserError, match="already holds a run"):
        finish(small(), folder)
    assert [e.phase for e in loop.resume(folder)] == ["done"]  # nothing was left to do
    assert result(folder) == before


# ---- killed, then resumed


class Killed(BaseException):
    """As abrupt as a kill: no `except Exception` sees it."""


def resumed_after(folder, preset, share: float, writes: int) -> dict:
    """A run whose process dies at a share of its writes (of a line, a file, a folder or a state), then resumes."""
    count, moment = 0, max(1, round(share * writes))

    def dying(real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == moment:
                raise Killed
            return real(*args, **kwargs)
        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("append", "write_atomic"):
            patch.setattr(runs, name, dying(getattr(runs, name)))
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(distil, "_keep", dying(distil._keep))
        with pytest.raises(Killed):
            finish(preset, folder)
    if (folder / "preset.yaml").exists():
        list(loop.resume(folder))
    else:  # died before there was a run
        finish(preset, folder)
    assert not list(folder.rglob(".*.[0-9]*"))  # nothing half written stays
    return result(folder)


def count_writes(folder: Path) -> int:
    """About as many as the run made: a line each, and a few whole files and folders."""
    return sum(lines(p) for p in folder.rglob("*.jsonl"))


@pytest.mark.parametrize("share", [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1])
def test_death_at_any_write_resumes_to_the_same_bytes(whole, tmp_path, share):
    folder, _ = whole
    assert resumed_after(tmp_path / "run", small(), share, count_writes(folder)) == result(folder)


def kill_when(folder: Path, ready) -> None:
    """Start the command, kill -9 it as soon as `ready()`, resume it to its end."""
    args = [sys.executable, "-m", "thinkswitch", "run", "tiny", "--out", str(folder), "--set", *(f"{k}={v}" for k, v in SMALL.items())]
    child = subprocess.Popen(args, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not ready():
        assert child.poll() is None, child.stderr.read()
        assert time.time() < deadline
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert runs.state(folder) == "interrupted"


def lines(path: Path) -> int:
    return sum(1 for _ in runs.read_lines(path))


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("where", ["think", "distil", "measure"])
def test_kill_9_then_resume_equals_never_killed(whole, tmp_path, where):
    """The promise of the run directory, with real processes: identical adapters, labels, recipes and scores."""
    folder = tmp_path / "run"
    one = runs.round_dir(folder, 1)
    moments = {
        "think": lambda: 1 <= lines(one / "samples.jsonl") < 12,
        "distil": lambda: (one / "distil.safetensors").exists(),
        "measure": lambda: 1 <= lines(one / "scores.jsonl") < 20,
    }
    kill_when(folder, moments[where])
    cli("resume", folder, check=0)
    assert result(folder) == result(whole[0])
    assert runs.state(folder) == "done"


def test_stop_by_file_then_resume(whole, tmp_path):
    folder = tmp_path / "run"
    phases = []
    for event in loop.run(small(), folder):
        phases.append(event.phase)
        if event.phase == "distil" and event.step == 3:
            (folder / "stop").touch()
    assert phases[-1] == "stopped" and runs.state(folder) == "stopped" and phases.count("distil") == 3
    assert [e.phase for e in loop.resume(folder)][-1] == "done"
    assert result(folder) == result(whole[0])


# ---- options


def test_controls_train_on_what_they_say(tmp_path, monkeypatch):
    seen = {}

    def spy(model, examples, preset, seed, folder):
        seen[preset.labels] = examples
        raise Killed

    monkeypatch.setattr(loop, "train_adapter", spy)
    for labels in ("thinking", "self", "shuffled"):
        with pytest.raises(Killed):
            finish(small(labels=labels), tmp_path / labels)
    by_prompt = {k: {e.prompt: e.answer for e in v} for k, v in seen.items()}
    assert by_prompt["shuffled"].keys() == by_prompt["thinking"].keys()
    assert Counter(by_prompt["shuffled"].values()) == Counter(by_prompt["thinking"].values())
    assert sum(by_prompt["shuffled"][p] == a for p, a in by_prompt["thinking"].items()) < 6
    samples = list(runs.read_lines(tmp_path / "self" / "rounds" / "1" / "samples.jsonl"))
    assert all(s["trace"] == "" and not s["prefilled"] for s in samples)  # the instruct checkpoint's own words


def test_shuffled_stays_within_kinds_and_moves_every_answer():
    kinds, answers = ["a"] * 5 + ["b"] * 4, list("12345") + list("wxyz")
    moved = loop.shuffled(kinds, answers, seed=1)
    assert sorted(moved[:5]) == sorted(answers[:5]) and sorted(moved[5:]) == sorted(answers[5:])
    assert all(m != a for m, a in zip(moved, answers))


def line(i, text, s=0, finish="stop", prefilled=True):
    return dict(prompt_index=i, sample=s, kind="integer", prompt=f"p{i}", text=text, prefilled=prefilled, tokens=3, finish=finish)


def test_why_answers_are_dropped():
    cases = {
        "t</think>\\boxed{1}": None,
        "t": "trace never closed",
        "t</think>": "empty answer",
        "t</think>seven": "no final answer",
        "t<tool_call>\\boxed{1}": "wrong close tag",
        "t</think>a</think>\\boxed{1}": "doubled tag",
    }
    got = loop.judge_samples([line(i, text) for i, text in enumerate(cases)], thinks=True)
    assert [g["why"] for g in got] == list(cases.values())
    assert loop.judge_samples([line(0, "t</think>\\boxed{1", finish="length")], True)[0]["why"] == "cut off"
    assert loop.judge_samples([line(0, "\\boxed{1}", prefilled=False)], True)[0]["why"] == "no trace"
    assert loop.judge_samples([line(0, "\\boxed{1}", prefilled=False)], False)[0]["kept"]  # self labels


def test_the_majority_is_kept_once():
    votes = [line(0, f"t</think>\\boxed{{{a}}}", s) for s, a in enumerate([5, 7, 7, 5, 7])] + [line(1, "t</think>\\boxed{3}")]
    got = loop.judge_samples(votes, True)
    assert [(g["sample"], g["answer"]) for g in got if g["kept"]] == [(1, "\\boxed{7}"), (0, "\\boxed{3}")]
    assert Counter(g["why"] for g in got) == {"outvoted": 2, "agrees with one kept": 2, None: 2}


def test_several_samples_and_soft_answers_run_to_the_end(tmp_path):
    events = finish(small(rounds=1, samples=3, soft=True), tmp_path / "run")
    strip = next(e for e in events if e.phase == "strip")
    assert strip.total == 36 and strip.data["kept"] <= 12
    assert events[-1].phase == "done" and all(e.data["loss"] >= 0 for e in events if e.phase == "distil")


def test_t_and_anchor_reach_the_rebuild(tmp_path):
    finish(small(rounds=1, t=1.0), tmp_path / "one")
    assert set(rounds.read(tmp_path / "one", 1).thinking.values()) <= {(0.0, 1.0), (0.0, 1.0, 0.0)}
    finish(small(t=0.5, anchor="previous"), tmp_path / "two")
    _, c_t, *_ = rounds.read(tmp_path / "two", 2).thinking["model.layers.0.mlp.up_proj.weight"]
    assert c_t == pytest.approx(0.25, abs=0.02)  # half of the half that was left


# ---- refusals


def test_no_kept_answer_ends_in_words(tmp_path):
    with pytest.raises(UserError, match="none of 12 answers could be kept .12 cut off.*raise think_tokens"):
        finish(small(think_tokens=5), tmp_path / "run")
    last = list(runs.read_lines(tmp_path / "run" / "events.jsonl"))[-1]
    assert last["phase"] == "error" and "12 cut off" in last["message"]
    assert lines(tmp_path / "run" / "rounds" / "1" / "samples.jsonl") == 12  # nothing is thrown away


def test_answers_all_alike_are_refused(tmp_path):
    train = tmp_path / "same.jsonl"
    train.write_text("".join(json.dumps(dict(prompt=f"What is {n} - {n} + 1 - 1?", kind="integer")) + "\n" for n in range(1, 10)))
    with pytest.raises(UserError, match="all 9 kept answers are the same"):
        finish(small(train_set=str(train), prompts=9, fresh=False, rounds=1), tmp_path / "run")


def test_what_can_be_refused_is_refused_before_a_folder_is_made(tmp_path):
    for changes, says in ((dict(thinking=str(tmp_path)), "no config.json"), (dict(lora_targets="nope"), "names 'nope'"),
                          (dict(lora_targets="q_proj,lm_head"), "names 'lm_head', which is no linear layer"), (dict(prompts=10**6), "training prompts are needed"),
                          (dict(held_out_set=str(tmp_path / "x.jsonl")), "does not exist")):
        with pytest.raises(UserError, match=says):
            finish(small(**changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_crash_is_written_down_and_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "strip", lambda *a: (_ for _ in ()).throw(ZeroDivisionError("oh")))
    with pytest.raises(ZeroDivisionError):
        finish(small(), tmp_path / "run")
    assert list(runs.read_lines(tmp_path / "run" / "events.jsonl"))[-1]["message"] == "ZeroDivisionError: oh"
    monkeypatch.undo()
    assert [e.phase for e in loop.resume(tmp_path / "run")][-1] == "done"


def test_damaged_rounds_are_named(whole, tmp_path):
    import shutil
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    weights = runs.round_dir(folder, 1) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="round 2 of .* is damaged"):
        rounds.read(folder, 2)
    shutil.rmtree(weights.parent)
    with pytest.raises(UserError, match="round 1 of .* is damaged"):
        rounds.read(folder, 1)
    (runs.round_dir(folder, 0) / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match="round 0 of .* is damaged"):
        rounds.read(folder, 0)


def test_long_answers_tell_that_they_are_being_written(whole, tmp_path, monkeypatch):
    """A single trace of 16 000 tokens takes a quarter of an hour; the run looked dead for so long. Telling changes no result."""
    monkeypatch.setattr(loop, "PULSE_SECONDS", 0.0)
    events = finish(small(), tmp_path / "run")
    pulses = [e for e in events if "writing" in e.data]
    assert {e.phase for e in pulses} == {"think", "measure"} and max(e.data["writing"] for e in pulses) > 20
    assert all(e.step < e.total and terminal.event_note(e).endswith("tokens into the answers at hand") for e in pulses)
    assert any("accuracy" not in e.data for e in pulses if e.phase == "measure")  # before the first answer is whole
    assert result(tmp_path / "run") == result(whole[0])
