"""What a power failure leaves: files that are renamed but empty, full of zeros, or cut. CASES 4."""

import json
import os
import shutil
from pathlib import Path

import pytest

from conftest import TINY
from thinkswitch import loop, rounds, runs
from thinkswitch.cli.main import main
from thinkswitch.distil import STATE
from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset, make_preset
from thinkswitch.weights.pair import open_pair_of

SMALL = dict(rounds=2, prompts=6, held_out=4, rows=8, epochs=1, batch=4, micro_batch=4, save_steps=1)
DAMAGES = {
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "cut": lambda content: content[: len(content) // 2],
    "cut, then zeros": lambda content: content[: len(content) // 2].ljust(len(content), b"\0"),
    "one byte": lambda content: content[:1],
    "a page of zeros": lambda content: bytes(4096),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that was never disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("train.jsonl", "held_out.jsonl"):
        lines = sorted((TINY / name).read_bytes().splitlines(keepends=True)[:1000], key=len)[:40]
        (folder / name).write_bytes(b"".join(lines))
    sets = dict(train_set=str(folder / "train.jsonl"), held_out_set=str(folder / "held_out.jsonl"))
    list(loop.run(make_preset({**SMALL, **sets}, base=load_preset("tiny")), folder / "run"))
    return folder / "run"


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def damage(path: Path, how: str) -> None:
    path.write_bytes(DAMAGES[how](path.read_bytes()))


def result(folder: Path) -> dict[str, bytes]:
    names = ("recipe.json", "adapter_model.safetensors", "adapter_config.json")
    return {
        str(p.relative_to(folder)): p.read_bytes() for n in names for p in folder.glob(f"rounds/*/**/{n}")
    }


LAST = ("recipe.json", "adapter/adapter_model.safetensors", "adapter/adapter_config.json")
# Weights that end in zeros are weights: that they reach the disk before their name is all that helps.
LOST = [(name, how) for name in LAST for how in DAMAGES if (name, how) != (LAST[1], "cut, then zeros")]


@pytest.mark.parametrize("name, how", LOST)
def test_a_lost_file_is_said_and_the_round_before_is_used(run, caplog, name, how):
    """`ask` of such a run ended in "round 2 is damaged"; the one before it was good."""
    pair = open_pair_of(runs.open_run(run))
    damage(run / "rounds/2" / name, how)
    found = rounds.read_last(run, pair)
    assert (found.number, found.thinking) == (1, rounds.read(run, 1).thinking)
    assert f"round 2 of {run} is damaged" in caplog.text and "; round 1 is used" in caplog.text
    assert runs.rounds_done(run) == (
        2 if how.startswith(("cut", "one")) else 1
    )  # a list reads no whole files


@pytest.mark.parametrize("name, how", LOST)
def test_a_resume_makes_what_was_lost_again(run, whole, caplog, name, how):
    """The run had recorded that the round was done, so a resume ended in "is damaged", again and again."""
    damage(run / "rounds/2" / name, how)
    list(loop.resume(run))
    assert result(run) == result(whole)
    assert "is damaged, as a power failure leaves it; it is" in caplog.text


def test_an_adapter_that_later_rounds_build_on_is_not_trained_again(run):
    """A new one would not be the same on a card, and the adapters after it were trained on top of it."""
    damage(run / "rounds/1/adapter/adapter_model.safetensors", "zeros")
    with pytest.raises(
        UserError, match=r"rounds/1/adapter is damaged .*, and later rounds build on it; copy it"
    ):
        list(loop.resume(run))


@pytest.mark.parametrize("how", ["empty", "zeros", "a page of zeros"])
def test_the_recipe_of_round_0_is_made_again(run, whole, how):
    damage(run / "rounds/0/recipe.json", how)
    list(loop.resume(run))
    assert result(run) == result(whole)


@pytest.mark.parametrize("how", ["empty", "zeros", "one byte"])
def test_a_training_whose_state_was_lost_begins_again(run, whole, how):
    shutil.copyfile(run / "rounds/2/adapter/adapter_model.safetensors", run / "rounds/2" / STATE)
    shutil.rmtree(run / "rounds/2/adapter")
    (run / "rounds/2/recipe.json").unlink()
    damage(run / "rounds/2" / STATE, how)
    list(loop.resume(run))
    assert result(run) == result(whole)


@pytest.mark.parametrize("zeros", [1, 100, 5000])
@pytest.mark.parametrize("name", ["events.jsonl", "rounds/2/samples.jsonl", "rounds/2/scores.jsonl"])
def test_zeros_at_the_end_of_lines_are_cut_off(run, whole, name, zeros):
    with open(run / name, "ab") as file:
        file.write(bytes(zeros))
    before = list(runs.read_lines(run / name))
    list(loop.resume(run))
    assert list(runs.read_lines(run / name))[: len(before)] == before
    assert result(run) == result(whole)


@pytest.mark.parametrize("how", ["empty", "zeros", "a page of zeros"])
def test_a_preset_that_was_lost_is_said(run, capsys, how):
    """An empty preset.yaml was read as a preset of all defaults: another run than this one."""
    damage(run / "preset.yaml", how)
    for verb in (["status"], ["resume"], ["sweep"]):
        assert main([*verb, str(run)]) == 1
        error = capsys.readouterr().err
        assert (
            "preset.yaml is empty, as a power failure leaves it; copy it" in error and error.count("\n") == 1
        )


def test_a_run_json_that_was_lost_is_written_anew(run, whole):
    damage(run / "run.json", "zeros")
    assert runs.read_info(run) == {} and runs.state(run) == "done"
    list(loop.resume(run))
    assert json.loads((run / "run.json").read_text("utf-8"))["seconds"] >= 0


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo] if hasattr(os, "mkfifo") else [Path.mkdir])
@pytest.mark.parametrize("name", LAST[::2])
def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_named(run, name, make, capsys):
    """The fuzzer's finds: a traceback from `resume`, and a command that waited for ever."""
    path = run / "rounds" / "2" / name
    path.unlink()
    make(path)
    for command in (["resume", str(run)], ["ask", str(run), "--prompt", "1"]):
        code = main(command)
        said = capsys.readouterr().err
        assert code == 0 or said.splitlines()[-1].startswith("error: "), said
    path.rmdir() if path.is_dir() else path.unlink()
