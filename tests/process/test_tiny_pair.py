"""What is claimed of the embedded pair, measured on the pair that ships."""

import json
import sys
import time

import pytest

from conftest import ROOT, TINY

sys.path.insert(0, str(ROOT / "dev"))
import tiny_problems

from thinkswitch import evaluate, loop, problems, rounds
from thinkswitch.generate import Sampling, generate
from thinkswitch.preset import load_preset, make_preset
from thinkswitch.run_context import ROLES
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import open_pair

N = 300


@pytest.fixture(scope="module")
def shipped():
    """(preset, pair, round 0, live blend, held-out problems)"""
    preset = load_preset("tiny")
    pair = open_pair(preset.instruct, preset.thinking)
    return preset, pair, rounds.start(pair), Blend(pair), problems.load(preset.held_out_set)[:N]


def scores(shipped, template, t, problems=None):
    preset, pair, state, blend, held = shipped
    rows = [
        evaluate.row(template, p.prompt, Sampling(max_new_tokens=128), 0, state.point(t))
        for p in problems or held
    ]
    chunks = generate(blend, template.tokenizer, rows, template.stop_token_ids, 256, stream=False)
    return evaluate.summarise([evaluate.score((problems or held)[c.row], c.row, c) for c in chunks])


def test_it_is_small_enough_to_ship():
    assert sum(p.stat().st_size for p in TINY.rglob("*") if p.is_file()) <= 12e6
    assert all(
        p.stat().st_mode & 0o044 == 0o044 for p in TINY.rglob("*.safetensors")
    )  # save_pretrained leaves them unreadable for others


def test_the_parents_do_what_their_names_say(shipped):
    preset, pair, *_ = shipped
    instinct, thought = scores(shipped, pair.instruct, 0.0), scores(shipped, pair.thinking, 1.0)
    assert 0.20 <= instinct.accuracy <= 0.45 and instinct.think_rate == 0 and instinct.mean_tokens < 6
    assert thought.accuracy >= 0.90 and thought.think_rate >= 0.99 and thought.mean_tokens > 20


def test_the_slider_is_a_switch(shipped):
    """Under one template, without pre-fill: opening a trace is the model's own doing. The flip lies inside."""
    _, pair, *_, held = shipped
    rates = {
        t: scores(shipped, pair.instruct, t, held[:60]).think_rate for t in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    }
    assert rates[0.0] == 0 and rates[0.2] <= 0.02 and rates[1.0] >= 0.98
    assert sorted(rates.values()) == list(rates.values())
    flip = next(t for t, rate in rates.items() if rate >= 0.5)
    assert 0.2 < flip < 1.0


def test_thinking_opens_its_own_trace_and_closes_a_prefilled_one(shipped):
    _, pair, state, blend, held = shipped
    for template in (pair.instruct, pair.thinking):
        rows = [
            evaluate.row(template, p.prompt, Sampling(max_new_tokens=128), 0, state.thinking)
            for p in held[:40]
        ]
        last = {
            c.row: c for c in generate(blend, template.tokenizer, rows, template.stop_token_ids, stream=False)
        }
        assert sum(c.state == "closed" and bool(c.trace) for c in last.values()) >= 39


def test_whatever_a_visitor_types_is_encoded_and_decoded(shipped):
    tok = shipped[1].instruct.tokenizer
    for text in (
        "Hello, wörld!",
        "你好 \U0001f914",
        "\t\x00 <b>&amp;</b>",
        "What is 7 + 5?",
        "ﷺ" * 3,
        "a\r\nb",
    ):
        assert tok.decode(tok.encode(text)) == text


def test_problems_are_made_by_code_and_disjoint(shipped):
    """The files are what the script makes, and no held-out prompt is trained on, in the loop or before it."""
    for split, n in (("train", 16384), ("held_out", 1000)):
        shipped_lines = [
            json.loads(line)["prompt"] for line in (TINY / f"{split}.jsonl").read_text().splitlines()
        ]
        assert len(shipped_lines) == n and shipped_lines[:200] == [
            m.prompt for m in tiny_problems.take(split, 200, seed=1)
        ]
    prompts = {
        split: {m.prompt for m in tiny_problems.take(split, 3000, seed=5)} for split in tiny_problems.SPLITS
    }
    assert not prompts["held_out"] & prompts["train"] and not prompts["held_out"] & prompts["pretrain"]


def test_made_answers_are_right():
    """Against Python's own arithmetic, and the words of the question."""
    for made in tiny_problems.take("pretrain", 500, seed=3):
        if made.kind == "integer":
            assert int(made.answer) == eval(made.prompt.removeprefix("What is ").removesuffix("?"))
        else:
            first, second, _ = made.prompt.split(". ")
            total = eval(" ".join(first.split()[2:-1]))
            low, high = (int(w) for w in second.split() if w.isdigit())
            assert made.answer == ("yes" if total > high else "no" if total < low else "maybe")
            assert low < total < high or total not in (low, high)


@pytest.mark.slow
def test_the_loop_doubles_instinct_and_spares_thought(tmp_path):
    """tiny.yaml to its end: what README claims, anew. The controls must gain nothing."""
    preset, began = load_preset("tiny"), time.time()
    last = {
        e.data["checkpoint"]: (e.round, e.data)
        for e in loop.run(preset, tmp_path / "run")
        if e.phase == "measure"
    }
    assert time.time() - began < 360
    first = {
        role: evaluate.summarise(list(rounds.read_scores(tmp_path / "run", 0, role).values()))
        for role in ROLES
    }
    number, after = last["instruct"]
    assert (
        number == preset.rounds
        and after["accuracy"] >= 2 * first["instruct"].accuracy
        and after["since_start"]["p"] < 0.001
    )
    assert last["thinking"][1]["accuracy"] >= first["thinking"].accuracy - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["self", "shuffled"])
def test_controls_gain_nothing(tmp_path, labels):
    preset = make_preset({"labels": labels, "rounds": 2}, base=load_preset("tiny"))
    after = [e.data for e in loop.run(preset, tmp_path / "run") if e.data.get("checkpoint") == "instruct"][-1]
    assert after["since_start"]["gained"] - after["since_start"]["lost"] <= 0.05 * after["n"]
