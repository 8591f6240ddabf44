"""The language pair `smol`: its problems, its adapter, and, where the weights are, what it says."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import smol_problems
from conftest import ROOT
from thinkswitch import evaluate, problems, rounds
from thinkswitch.generate import generate
from thinkswitch.grading import final_answer, grade
from thinkswitch.preset import load_preset
from thinkswitch.weights.adapter import load_adapter
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import open_pair

SMOL = ROOT / "presets" / "smol"
WEIGHTS = Path(os.environ.get("SMOL_WEIGHTS", ROOT / "weights" / "SmolLM2-135M-Instruct"))
NO_WEIGHTS = "no weights of SmolLM2: python dev/smol_weights.py weights/SmolLM2-135M-Instruct"
BOUNDS = re.compile(r"has (\d+) to (\d+) ")


@pytest.fixture(scope="module")
def made():
    return smol_problems.take("twin", 600, seed=7)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_what_ships_is_what_the_code_makes(split):
    lines = (SMOL / f"{split}.jsonl").read_text("utf-8").splitlines()
    made = smol_problems.take(split, smol_problems.SIZES[split])
    assert [json.loads(line) for line in lines] == [
        {"prompt": one.prompt, "answer": one.answer, "kind": one.kind} for one in made
    ]


def test_no_problem_is_in_two_splits():
    prompts = {
        split: {one.prompt for one in smol_problems.take(split, 1500)} for split in smol_problems.SPLITS
    }
    assert not prompts["twin"] & prompts["train"]
    assert not prompts["twin"] & prompts["held_out"]
    assert not prompts["train"] & prompts["held_out"]


def test_every_equation_of_a_trace_is_true_and_leads_on(made):
    for one in made:
        total = int(re.search(r"has (\d+) ", one.prompt)[1])
        for step in one.trace.split(": ")[0].split("; "):
            if "=" not in step:
                continue  # the comparison at the end
            left, right = step.split(", ")[-1].split(" = ")
            assert int(left.split()[0]) == total
            for equation in step.split(", "):
                formula, result = equation.split(" = ")
                assert eval(formula) == int(result)
            total = int(right)
        if one.kind == "integer":
            assert one.answer == str(total)
        else:
            low, high = map(int, BOUNDS.findall(one.prompt)[-1])
            possible = {total > count for count in range(low, high + 1)}
            expected = {(True,): "yes", (False,): "no"}.get(tuple(possible), "maybe")
            assert one.answer == expected


def test_responses_show_their_steps_and_grade_as_right(made):
    for one in made:
        assert grade(one.response, one.answer, one.kind)
        assert final_answer(one.response, one.kind) == one.answer
        assert " = " in one.response
    choices = [one.answer for one in made if one.kind == "choice"]
    assert {choices.count(word) / len(choices) > 0.25 for word in ("yes", "no", "maybe")} == {True}


def test_the_adapter_that_ships_is_small_and_names_its_base():
    file = SMOL / "thinking" / "adapter_model.safetensors"
    assert file.stat().st_size <= 12e6
    with safe_open(file, framework="pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118
    config = json.loads((SMOL / "thinking" / "adapter_config.json").read_text("utf-8"))
    preset = load_preset("smol")
    assert config["base_model_name_or_path"] == preset.instruct == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert len(load_adapter(SMOL / "thinking").low_rank) == 30 * 7  # every linear layer


def test_the_preset_has_enough_problems_for_its_rounds():
    train, held_out = problems.train_and_held_out(load_preset("smol"))
    assert len(held_out) >= 300
    assert {problem.kind for problem in train} == {"integer", "choice"}


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason=NO_WEIGHTS)
def test_thinking_thinks_about_sums_and_about_the_sky_and_instruct_does_not():
    pair = open_pair(str(WEIGHTS), str(SMOL / "thinking"))
    blend = Blend(pair, dtype=torch.float32)
    start = rounds.start(pair)
    prompts = [smol_problems.take("held_out", 1)[0].prompt, "Why is the sky blue?"]
    rows = [
        evaluate.row(pair.instruct, prompt, evaluate.Sampling(max_new_tokens=192), 0, start.point(t))
        for prompt in prompts
        for t in (0, 1)
    ]
    chunks = {
        chunk.row: chunk
        for chunk in generate(blend, pair.instruct.tokenizer, rows, pair.instruct.stop_token_ids)
        if chunk.finish
    }
    assert [chunks[row].state for row in range(4)] == ["none", "closed", "none", "closed"]
    assert all(chunks[row].answer for row in range(4))
