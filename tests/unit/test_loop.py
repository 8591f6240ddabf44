"""The whole method on the embedded pair, small: events, files, controls, refusals, and death at any write."""

import json
import os
import shutil
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from peft import PeftConfig

from conftest import TINY
from thinkswitch import loop, rounds, run_context, runs
from thinkswitch.cli import terminal
from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset, make_preset

# The real pair, a small run: two rounds in a second, several decode groups and saves in each.
SMALL = dict(rounds=2, prompts=12, held_out=10, rows=6, epochs=2, batch=4, micro_batch=4, save_steps=2)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """`small(**changes)` -> a preset of the embedded pair, on those of its problems that are short."""
    folder = tmp_path_factory.mktemp("problems")
    for name in ("train.jsonl", "held_out.jsonl"):
        lines = sorted((TINY / name).read_bytes().splitlines(keepends=True)[:1000], key=len)[:80]
        (folder / name).write_bytes(b"".join(lines))
    sets = dict(train_set=str(folder / "train.jsonl"), held_out_set=str(folder / "held_out.jsonl"))

    def preset(**changes):
        return make_preset({**SMALL, **sets, **changes}, base=load_preset("tiny"))

    return preset


def finish(preset, folder: Path) -> list[runs.Event]:
    return list(loop.run(preset, folder))


def result(folder: Path) -> dict:
    """What a run leaves, apart from times: bytes of adapters and recipes, every label and every score."""
    found = {}
    for path in sorted(p for p in folder.glob("rounds/**/*") if p.is_file() and p.name != "README.md"):
        scores = path.name == "scores.jsonl"
        found[path.relative_to(folder)] = (
            sorted(path.read_bytes().splitlines()) if scores else path.read_bytes()
        )
    return found


def read(path: Path) -> list[dict]:
    return list(runs.read_lines(path))


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """(folder, events) of a run that was never disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, finish(small(), folder)


def test_events_show_the_method_in_order(whole):
    _, events = whole
    phases = ["think", "strip", "distil", "rebuild", "measure"]
    expected = [(0, "measure"), *((1, p) for p in phases), *((2, p) for p in phases), (2, "done")]
    assert list(dict.fromkeys((e.round, e.phase) for e in events)) == expected


def test_events_carry_the_figures_of_their_phase(whole):
    _, events = whole
    for number in (0, 1, 2):
        finished = [e for e in events if e.round == number and e.phase == "measure" and e.step == e.total]
        assert [e.data["checkpoint"] for e in finished] == ["instruct", "thinking"]
        for data in (e.data for e in finished):
            assert {"n", "correct", "accuracy", "low", "high", "think_rate", "mean_tokens"} <= data.keys()
            assert data["n"] == 10 and data["low"] <= data["accuracy"] <= data["high"]
    distil = [e for e in events if e.phase == "distil" and e.round == 1]
    assert [e.step for e in distil] == list(range(1, 7))
    assert all({"loss", "lr", "grad_norm", "tokens_per_s"} <= e.data.keys() for e in distil)
    strip = [e.data for e in events if e.phase == "strip"]
    assert [data["kept"] + sum(data["dropped"].values()) for data in strip] == [12, 12]


def test_every_event_is_a_line_of_the_file(whole):
    folder, events = whole
    written = read(folder / "events.jsonl")
    assert written == json.loads(json.dumps([e.to_dict() for e in events]))
    assert written[-1]["phase"] == "done"


def test_the_folder_holds_what_the_design_names(whole, small):
    folder, _ = whole
    assert {"preset.yaml", "run.json", "events.jsonl"} <= {p.name for p in folder.iterdir()}
    assert not (folder / "stop").exists()
    assert load_preset(folder) == small(four_bit=False, dtype="float32")
    info = json.loads((folder / "run.json").read_text("utf-8"))
    assert info["pid"] == os.getpid() and {"started", "versions", "heartbeat"} <= info.keys()
    for number in (1, 2):
        names = {p.name for p in runs.round_dir(folder, number).iterdir()}
        assert names == {"samples.jsonl", "adapter", "recipe.json", "scores.jsonl"}
        assert PeftConfig.from_pretrained(runs.round_dir(folder, number) / "adapter").r == 16


def test_samples_hold_the_whole_text_and_the_stripped_answer(whole):
    for sample in read(runs.round_dir(whole[0], 1) / "samples.jsonl"):
        assert sample["kept"] is (sample["why"] is None)
        assert "<think>" not in sample["answer"] and "</think>" in sample["text"] and sample["trace"]


def test_recipes_say_what_the_rounds_did(whole):
    """Instruct: its base and every adapter. Thinking: 0.8 of the anchor, 0.2 of the new instruct."""
    two = rounds.read(whole[0], 2)
    assert len(two.adapters) == 2
    assert set(two.instruct.values()) == {(1.0, 0.0, 1.0, 1.0)}
    for name, (of_instruct, of_thinking, *of_adapters) in two.thinking.items():
        assert of_instruct == pytest.approx(0.2, abs=0.02), name
        assert of_thinking == pytest.approx(0.8, abs=0.02), name
        assert of_adapters == pytest.approx([of_instruct, of_instruct]), name


def test_running_again_is_refused_and_harms_nothing(whole, small):
    folder, _ = whole
    before = result(folder)
    with pytest.raises(UserError, match="already holds a run"):
        finish(small(), folder)
    assert [e.phase for e in loop.resume(folder)] == ["done"]  # nothing was left to do
    assert result(folder) == before


# ---- died, then resumed


class Killed(BaseException):
    """As abrupt as a kill: no `except Exception` sees it."""


class Changes:
    """Counts the changes below a folder, and raises `error` at the n-th.

    A change is a file opened for writing, a rename, a new folder, a removal. After `Killed` every later one
    raises, too, so nothing is tidied up: a dead process writes nothing. Python announces changes to audit
    hooks, which cannot be removed; so there is one hook, which does nothing unless a test listens.
    """

    current: "Changes | None" = None
    hooked = False

    def __init__(self, folder: Path, moment: int = 0, error: type[BaseException] = Killed):
        self.folder = str(folder)
        self.moment = moment
        self.error = error
        self.count = 0

    @classmethod
    def hook(cls, event: str, args: tuple) -> None:
        if cls.current and event in ("open", "os.rename", "os.mkdir", "os.remove"):
            cls.current.saw(event, args)

    def saw(self, event: str, args: tuple) -> None:
        path = os.fsdecode(args[0]) if isinstance(args[0], str | bytes | os.PathLike) else ""
        reads = event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)
        elsewhere = (
            not path.startswith(self.folder) or threading.current_thread() is not threading.main_thread()
        )
        if (
            reads or elsewhere or "lock" in os.path.basename(path)
        ):  # the system takes a dead process's lock back
            return
        self.count += 1
        dead = self.error is Killed and self.moment and self.count > self.moment
        if self.count == self.moment or dead:
            raise self.error("at a write")


@contextmanager
def changes(folder: Path, moment: int = 0, error: type[BaseException] = Killed):
    if not Changes.hooked:
        sys.addaudithook(Changes.hook)
        Changes.hooked = True
    Changes.current = Changes(folder, moment, error)
    try:
        yield Changes.current
    finally:
        Changes.current = None


@pytest.fixture(scope="module")
def how_many(small, tmp_path_factory):
    """The changes that an undisturbed run makes to its folder."""
    folder = tmp_path_factory.mktemp("counted") / "run"
    with changes(folder) as seen:
        finish(small(), folder)
    return seen.count


SHARES = [0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1]
QUICK = (0.02, 0.3, 0.45, 0.6, 0.8)


@pytest.mark.parametrize(
    "share", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in SHARES]
)
def test_death_at_any_write_resumes_to_the_same_bytes(whole, small, how_many, tmp_path, share):
    folder = tmp_path / "run"
    with changes(folder, max(1, round(share * how_many))), pytest.raises(Killed):
        finish(small(), folder)
    if (folder / "preset.yaml").exists():
        list(loop.resume(folder))
    else:  # died before there was a run
        finish(small(), folder)
    assert result(folder) == result(whole[0])  # and nothing half written stays among the rounds
    names = {p.name for p in folder.iterdir()} - {"rounds"}
    assert names <= {p.name for p in whole[0].iterdir()}


def test_stop_by_file_then_resume(whole, small, tmp_path):
    folder = tmp_path / "run"
    phases = []
    for event in loop.run(small(), folder):
        phases.append(event.phase)
        if event.phase == "distil" and event.step == 3:
            (folder / "stop").touch()
    assert phases[-1] == "stopped" and phases.count("distil") == 3
    assert runs.state(folder) == "stopped"
    assert [e.phase for e in loop.resume(folder)][-1] == "done"
    assert result(folder) == result(whole[0])


def test_a_crash_is_written_down_and_keeps_its_traceback(small, how_many, tmp_path):
    """An unforeseen error in the middle of a run is a line of the file, and then Python's own traceback."""
    folder = tmp_path / "run"
    with changes(folder, how_many // 2, ZeroDivisionError), pytest.raises(ZeroDivisionError):
        finish(small(), folder)
    last = read(folder / "events.jsonl")[-1]
    assert (last["phase"], last["message"]) == ("error", "ZeroDivisionError: at a write")
    assert runs.state(folder) == "error"
    assert [e.phase for e in loop.resume(folder)][-1] == "done"


def test_damaged_rounds_are_named(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    weights = runs.round_dir(folder, 1) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"round 2 of .* is damaged"):
        rounds.read(folder, 2)
    shutil.rmtree(weights.parent)
    with pytest.raises(UserError, match=r"round 1 of .* is damaged"):
        rounds.read(folder, 1)
    (runs.round_dir(folder, 0) / "recipe.json").write_text("{}", "utf-8")
    with pytest.raises(UserError, match=r"round 0 of .* is damaged"):
        rounds.read(folder, 0)


def test_long_answers_show_that_they_are_being_written(whole, small, tmp_path, monkeypatch):
    """One trace of 16,000 tokens takes a quarter of an hour, in which the run looked dead."""
    monkeypatch.setattr(run_context, "PULSE_SECONDS", 0.0)
    monkeypatch.setattr(run_context, "EVENT_SECONDS", 0.0)
    events = finish(small(), tmp_path / "run")
    pulses = [e for e in events if "writing" in e.data]
    assert {e.phase for e in pulses} == {"think", "measure"}
    assert max(e.data["writing"] for e in pulses) > 20
    assert all(e.step < e.total and "tokens" in terminal.event_note(e) for e in pulses)
    assert any(
        "accuracy" not in e.data for e in pulses if e.phase == "measure"
    )  # before the first answer is whole
    assert result(tmp_path / "run") == result(whole[0])


# ---- options


def distilled(preset, folder: Path) -> tuple[list[dict], bytes]:
    """The samples and the adapter of round 1; the run is left as soon as both are there."""
    events = loop.run(preset, folder)
    next(e for e in events if e.phase == "rebuild")
    events.close()
    one = runs.round_dir(folder, 1)
    return read(one / "samples.jsonl"), (one / "adapter" / "adapter_model.safetensors").read_bytes()


def test_controls_train_on_what_they_say(small, tmp_path):
    """`shuffled` learns the answers of other prompts (which: test_samples); `self` learns its own words."""
    samples, adapter = distilled(small(), tmp_path / "thinking")
    shuffled_samples, shuffled_adapter = distilled(small(labels="shuffled"), tmp_path / "shuffled")
    assert shuffled_samples == samples and shuffled_adapter != adapter
    own_samples, own_adapter = distilled(small(labels="self"), tmp_path / "self")
    assert all(s["trace"] == "" and not s["prefilled"] for s in own_samples) and own_adapter != adapter


def test_several_samples_and_soft_answers_run_to_the_end(small, tmp_path):
    events = finish(small(rounds=1, samples=3, soft=True), tmp_path / "run")
    strip = next(e for e in events if e.phase == "strip")
    assert strip.total == 36 and strip.data["kept"] <= 12
    assert events[-1].phase == "done"
    assert all(e.data["loss"] >= 0 for e in events if e.phase == "distil")


def test_t_reaches_the_rebuild(small, tmp_path):
    finish(small(rounds=1, t=1.0, held_out=1), tmp_path / "run")
    assert set(rounds.read(tmp_path / "run", 1).thinking.values()) <= {(0.0, 1.0), (0.0, 1.0, 0.0)}


def test_the_anchor_reaches_the_rebuild(small, tmp_path):
    finish(small(t=0.5, anchor="previous", held_out=1), tmp_path / "run")
    _, of_thinking, *_ = rounds.read(tmp_path / "run", 2).thinking["model.layers.0.mlp.up_proj.weight"]
    assert of_thinking == pytest.approx(0.25, abs=0.02)  # half of the half that was left


# ---- refusals


def test_no_kept_answer_ends_in_words(small, tmp_path):
    with pytest.raises(UserError, match=r"none of 12 answers could be kept .12 cut off.*raise think_tokens"):
        finish(small(think_tokens=5), tmp_path / "run")
    last = read(tmp_path / "run" / "events.jsonl")[-1]
    assert last["phase"] == "error" and "12 cut off" in last["message"]
    samples = read(runs.round_dir(tmp_path / "run", 1) / "samples.jsonl")
    assert Counter(s["why"] for s in samples) == {"cut off": 12}  # nothing is thrown away


def test_answers_all_alike_are_refused(small, tmp_path):
    train = tmp_path / "same.jsonl"
    problems = [{"prompt": f"What is {n} - {n} + 1 - 1?", "kind": "integer"} for n in range(1, 10)]
    runs.append(train, *problems)
    with pytest.raises(UserError, match="all 9 kept answers are the same"):
        finish(small(train_set=str(train), prompts=9, fresh=False, rounds=1), tmp_path / "run")


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(thinking="{tmp_path}"), "no config.json"),
        (dict(lora_targets="nope"), "names 'nope'"),
        (dict(lora_targets="q_proj,lm_head"), "names 'lm_head', which is no linear layer"),
        (dict(prompts=10**6), "training prompts are needed"),
        (dict(held_out_set="{tmp_path}/x.jsonl"), "does not exist"),
    ],
    ids=["no checkpoint", "no such layer", "no linear layer", "too few prompts", "no problems"],
)
def test_what_can_be_refused_is_refused_before_a_folder_is_made(small, tmp_path, changes, says):
    here = {
        key: value.format(tmp_path=tmp_path) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    with pytest.raises(UserError, match=says):
        finish(small(**here), tmp_path / "run")
    assert not (tmp_path / "run").exists()
