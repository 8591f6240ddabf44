"""Exports, runs and the command line of a pair that is a checkpoint and an adapter on it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from conftest import TINY, random_adapter
from thinkswitch import loop, rounds, runs
from thinkswitch.cli.main import main
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, load_preset
from thinkswitch.recipe import Schedule
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair, open_pair
from unit.adapter_helpers import load, merge, save_adapter
from unit.export_helpers import IDS, after_rounds, export, load_strictly, plan, relative_error

SMALL = 0.005  # of an adapter's B: within the range in which SLERP is LERP
LARGE = 1.0


@pytest.fixture
def instruct(folders) -> str:
    return folders("qwen3")[0]


def adapter_pair(instruct: str, folder: Path, size: float) -> Pair:
    return open_pair(instruct, save_adapter(instruct, folder / "adapter", size))


# ---- export


@torch.inference_mode()
@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_any_point_as_a_folder(instruct, tmp_path, t):
    pair = adapter_pair(instruct, tmp_path, LARGE)
    state = after_rounds(pair, 1)
    done = export(pair, state, t, tmp_path / "out")
    assert done.error < 1e-5
    expected = materialise(pair, state.adapters, state.point(t))(input_ids=IDS).logits
    assert relative_error(load_strictly(tmp_path / "out")(input_ids=IDS).logits, expected) < 1e-5
    template = AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert ("<think>" in template) == (t > 0)  # the adapter's own
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "instruct+" in card and "thinking is instruct" in card and str(tmp_path) not in card


@torch.inference_mode()
@pytest.mark.parametrize("adapter", [False, True])
def test_large_exports_are_compared_on_the_disk(instruct, tmp_path, monkeypatch, adapter):
    monkeypatch.setattr("thinkswitch.export.point.LARGE_BYTES", 0)
    pair = adapter_pair(instruct, tmp_path, SMALL)
    done = export(pair, small_round(pair), 0.5, tmp_path / "out", adapter=adapter)
    assert done.error < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("number, t", [(0, 0.3), (0, 1.0), (1, 0.5), (1, 0.0)])
def test_any_point_of_a_straight_line_as_an_adapter(instruct, tmp_path, number, t):
    pair = adapter_pair(instruct, tmp_path, SMALL)
    state = after_rounds(pair, 0) if number == 0 else small_round(pair)
    done = export(pair, state, t, tmp_path / "out", adapter=True)
    assert done.error < 1e-5
    expected = materialise(pair, state.adapters, state.point(t))
    merged = load(merge(instruct, str(tmp_path / "out"), tmp_path / "merged"))
    assert relative_error(merged(input_ids=IDS).logits, expected(input_ids=IDS).logits) < 1e-5
    # and it is a thinking side again
    again = open_pair(instruct, str(tmp_path / "out"))
    assert again.update.low_rank.keys() == pair.update.low_rank.keys()
    ranks = {(0, 0.3): 4, (0, 1.0): 4, (1, 0.5): 7, (1, 0.0): 3}
    assert f"adapter of rank {ranks[number, t]} " in again.thinking.remarks[0]


def small_round(pair: Pair):
    update = random_adapter(pair, 1, rank=3, size=0.02)
    return rounds.rebuild(pair, rounds.start(pair), update, 0.8, "original", Schedule())


@pytest.mark.parametrize("size, number, t", [(SMALL, 0, 0.0), (LARGE, 0, 0.5)])
def test_what_is_no_adapter(instruct, tmp_path, size, number, t):
    """The untouched instruct checkpoint, and points of an arc."""
    pair = adapter_pair(instruct, tmp_path, size)
    with pytest.raises(UserError, match=r"is no LoRA update of the instruct checkpoint.*straight line"):
        plan(pair, after_rounds(pair, number), t, tmp_path / "out", adapter=True)


@torch.inference_mode()
def test_the_ends_of_an_arc_are_adapters(instruct, tmp_path):
    pair = adapter_pair(instruct, tmp_path, LARGE)
    assert export(pair, after_rounds(pair, 0), 1.0, tmp_path / "out", adapter=True).error < 1e-5


def test_mergekit_gets_the_name_that_it_knows(instruct, tmp_path):
    pair = adapter_pair(instruct, tmp_path, LARGE)
    export(pair, after_rounds(pair, 0), 0.5, tmp_path / "out")
    written = (tmp_path / "out" / "mergekit.yml").read_text("utf-8")
    name = f"{Path(instruct).parent.name}/instruct+{tmp_path.name}/adapter"
    assert f"model: {name}" in written
    assert json.loads((tmp_path / "out" / "recipe.json").read_text("utf-8"))["thinking"] == name


# ---- a run


def shipped_with_adapter(folder: Path, **settings) -> Preset:
    """The embedded task; the thinking side is a small adapter on the embedded thinking checkpoint."""
    tiny = load_preset("tiny")
    adapter = Path(save_adapter(str(TINY / "thinking"), folder / "adapter", 0.05))
    for file in [*adapter.glob("*token*"), adapter / "chat_template.jinja"]:
        file.unlink()
    (folder / "pair.yaml").write_text("thinking: adapter\n", "utf-8")
    sizes = dict(prompts=8, held_out=4, rounds=3, epochs=1, rows=8, think_tokens=96, instruct_tokens=96)
    named = dict(instruct=str(TINY / "thinking"), thinking=load_preset(folder / "pair.yaml").thinking)
    return Preset(
        **named, train_set=tiny.train_set, held_out_set=tiny.held_out_set, kind=tiny.kind, t=0.8,
        device="cpu", **(sizes | settings),
    )  # fmt: skip


def test_three_rounds_are_those_of_two_checkpoints_and_resume(tmp_path):
    """The loop in miniature, stopped and resumed in its first round: preset.yaml names the adapter."""
    preset = shipped_with_adapter(tmp_path)
    run = tmp_path / "run"
    for event in loop.run(preset, run):
        if event.round == 1 and event.phase == "rebuild":
            runs.request_stop(run)
    assert event.phase == "stopped"
    assert load_preset(run).thinking == str(tmp_path / "adapter")
    assert list(loop.resume(run))[-1].phase == "done"
    merged = merge(preset.instruct, preset.thinking, tmp_path / "merged")
    AutoTokenizer.from_pretrained(preset.instruct).save_pretrained(merged)
    theirs = open_pair(preset.instruct, merged)
    expected = rounds.start(theirs)
    for number in (1, 2, 3):
        state = rounds.read(run, number)
        expected = rounds.rebuild(theirs, expected, state.adapters[-1], 0.8, "original", Schedule())
        for name in theirs.names:
            assert state.thinking[name] == pytest.approx(expected.thinking[name], abs=1e-5), name


# ---- the command line


def test_check_names_the_adapter(instruct, tmp_path, capsys):
    adapter = save_adapter(instruct, tmp_path / "adapter")
    assert main(["check", instruct, f"{instruct}+{adapter}"]) == 0
    said = capsys.readouterr().out
    assert "compatible: qwen3" in said
    assert "thinking is instruct + adapter of rank 4 on 14 linear layers" in said
