"""What is claimed of the embedded pair, measured on the pair that ships."""

import json
from dataclasses import dataclass

import pytest

import tiny_problems
from conftest import TINY
from thinkswitch import evaluate, loop, problems, rounds
from thinkswitch.evaluate import Summary
from thinkswitch.generate import generate
from thinkswitch.preset import load_preset, make_preset
from thinkswitch.rounds import Round
from thinkswitch.run_context import ROLES
from thinkswitch.sampler import Sampling
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import Pair, open_pair


@dataclass
class Shipped:
    pair: Pair
    start: Round
    blend: Blend
    held_out: list[problems.Problem]

    def answers(self, template: Checkpoint, t: float, n: int) -> list:
        """The last chunk of each of the first `n` problems' answers, greedily decoded."""
        point, settings = self.start.point(t), Sampling(max_new_tokens=128)
        asked = [evaluate.row(template, p.prompt, settings, 0, point) for p in self.held_out[:n]]
        chunks = generate(self.blend, template.tokenizer, asked, template.stop_token_ids, 256, stream=False)
        return [chunk for chunk in chunks if chunk.finish]

    def scores(self, template: Checkpoint, t: float, n: int = 300) -> Summary:
        chunks = self.answers(template, t, n)
        return evaluate.summarise([evaluate.score(self.held_out[c.row], c.row, c) for c in chunks])


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    preset = load_preset("tiny")
    pair = open_pair(preset.instruct, preset.thinking)
    return Shipped(pair, rounds.start(pair), Blend(pair), problems.load(preset.held_out_set))


def test_it_is_small_enough_to_ship():
    assert sum(p.stat().st_size for p in TINY.rglob("*") if p.is_file()) <= 12e6


def test_the_parents_do_what_their_names_say(shipped):
    instruct = shipped.scores(shipped.pair.instruct, 0.0)
    assert 0.20 <= instruct.accuracy <= 0.45 and instruct.think_rate == 0 and instruct.mean_tokens < 6
    thinking = shipped.scores(shipped.pair.thinking, 1.0)
    assert thinking.accuracy >= 0.90 and thinking.think_rate >= 0.99 and thinking.mean_tokens > 20


def test_the_slider_is_a_switch(shipped):
    """Under one template, without pre-fill, opening a trace is the model's own doing. It flips inside."""
    points = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    rates = {t: shipped.scores(shipped.pair.instruct, t, 60).think_rate for t in points}
    assert rates[0.0] == 0 and rates[0.2] <= 0.02 and rates[1.0] >= 0.98
    assert sorted(rates.values()) == list(rates.values())
    flip = next(t for t, rate in rates.items() if rate >= 0.5)
    assert 0.2 < flip < 1.0


@pytest.mark.parametrize("template", ROLES)
def test_thinking_opens_its_own_trace_and_closes_a_prefilled_one(shipped, template):
    chunks = shipped.answers(getattr(shipped.pair, template), 1.0, 40)
    assert sum(chunk.state == "closed" and bool(chunk.trace) for chunk in chunks) >= 39


@pytest.mark.parametrize(
    "text",
    ["Hello, wörld!", "你好 \U0001f914", "\t\x00 <b>&amp;</b>", "What is 7 + 5?", "ﷺ" * 3, "a\r\nb"],
    ids=ascii,
)
def test_whatever_a_visitor_types_is_encoded_and_decoded(shipped, text):
    tokenizer = shipped.pair.instruct.tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("split, n", [("train", 16384), ("held_out", 1000)])
def test_the_problems_are_what_the_script_makes(split, n):
    lines = (TINY / f"{split}.jsonl").read_text("utf-8").splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines]
    assert len(prompts) == n
    assert prompts[:200] == [made.prompt for made in tiny_problems.take(split, 200, seed=1)]


def test_no_held_out_prompt_is_trained_on_in_the_loop_or_before_it():
    prompts = {
        split: {made.prompt for made in tiny_problems.take(split, 3000, seed=5)}
        for split in tiny_problems.SPLITS
    }
    assert not prompts["held_out"] & prompts["train"] and not prompts["held_out"] & prompts["pretrain"]


def test_made_answers_are_right():
    """Against Python's own arithmetic, and the words of the question."""
    for made in tiny_problems.take("pretrain", 500, seed=3):
        if made.kind == "integer":
            assert int(made.answer) == eval(made.prompt.removeprefix("What is ").removesuffix("?"))
            continue
        first, second, _ = made.prompt.split(". ")
        total = eval(" ".join(first.split()[2:-1]))
        low, high = (int(word) for word in second.split() if word.isdigit())
        expected = {total > high: "yes", total < low: "no"}.get(True, "maybe")
        assert made.answer == expected
        assert low < total < high or total not in (low, high)


# ---- the whole loop, in minutes


@pytest.mark.slow
def test_the_loop_doubles_instruct_and_spares_thinking(tmp_path):
    """tiny.yaml to its end: what README claims, anew."""
    preset = load_preset("tiny")
    events = [e for e in loop.run(preset, tmp_path / "run") if e.phase == "measure"]
    last = {e.data["checkpoint"]: e for e in events}
    first = {}
    for role in ROLES:
        first[role] = evaluate.summarise(list(rounds.read_scores(tmp_path / "run", 0, role).values()))
    instruct = last["instruct"]
    assert instruct.round == preset.rounds
    assert instruct.data["accuracy"] >= 2 * first["instruct"].accuracy
    assert instruct.data["since_start"]["p"] < 0.001
    assert last["thinking"].data["accuracy"] >= first["thinking"].accuracy - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["self", "shuffled"])
def test_controls_gain_nothing(tmp_path, labels):
    preset = make_preset({"labels": labels, "rounds": 2}, base=load_preset("tiny"))
    events = loop.run(preset, tmp_path / "run")
    *_, after = (e.data for e in events if e.data.get("checkpoint") == "instruct")
    assert after["since_start"]["gained"] - after["since_start"]["lost"] <= 0.05 * after["n"]
