"""Scores against published and hand-worked values."""

import dataclasses

import pytest
import torch

from conftest import TINY, random_adapter
from thinkswitch import problems, rounds
from thinkswitch.errors import UserError
from thinkswitch.evaluate import (
    Score,
    broken_zone,
    compare_scores,
    flip,
    probability_of_think,
    question,
    sampling,
    seed_of,
    summarise,
    sweep,
)
from thinkswitch.generate import Sampling
from thinkswitch.preset import Preset, load_preset
from thinkswitch.recipe import Schedule
from thinkswitch.statistics import mcnemar, wilson
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair


@pytest.mark.parametrize("k, n, low, high", [  # Newcombe 1998, table I, method 3 (Wilson without continuity correction)
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718), (29, 29, 0.8830, 1.0)])
def test_wilson(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("gained, lost, p", [(0, 0, 1.0), (5, 5, 1.0), (1, 0, 1.0), (6, 0, 2 / 64), (8, 2, 2 * (1 + 10 + 45) / 1024)])
def test_mcnemar_is_the_exact_binomial(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p) == mcnemar(lost, gained)


def of(*right):
    return [Score(i, bool(r), bool(r), 10 * (i + 1), None, "stop") for i, r in enumerate(right)]


def test_summary():
    s = summarise(of(1, 0, 1, 1))
    assert (s.n, s.correct, s.accuracy, s.think_rate, s.mean_tokens) == (4, 3, 0.75, 0.75, 25)
    assert s.low < 0.75 < s.high


def test_paired_comparison_wants_the_same_questions():
    paired = compare_scores(of(0, 0, 1, 1), of(1, 1, 1, 0)[::-1])
    assert (paired.gained, paired.lost) == (2, 1)
    with pytest.raises(ValueError, match="same questions"):
        compare_scores(of(0, 0), of(1))


def test_seeds_differ_by_purpose_and_stay():
    seeds = {seed_of(0, "think", r, i, s) for r in range(3) for i in range(50) for s in range(4)}
    assert len(seeds) == 600
    assert seed_of(0, "think", 1, 2, 3) == 35643087830956028  # a change here would change every resumed run


# ---- one prompt over the spectrum


@pytest.fixture(scope="module")
def tiny():
    """The embedded pair, its start and its live blend."""
    pair = open_pair(TINY / "instruct", TINY / "thinking")
    return pair, rounds.start(pair), Blend(pair)


def softmax_of(pair, adapters, point, checkpoint, prompt):
    """Next-token probability of <think>, of the weights themselves."""
    ids, tag = torch.tensor([checkpoint.prompt_ids(prompt)]), checkpoint.tokenizer.convert_tokens_to_ids("<think>")
    with torch.inference_mode():
        return float(materialise(pair, adapters, point)(input_ids=ids).logits[0, -1].double().softmax(-1)[tag])


def test_opening_is_the_probability_of_a_trace(tiny):
    """The embedded pair under a template that leaves the choice: instruct answers, thinking thinks, in between it turns."""
    pair, state, blend = tiny
    ts = [0.0, 0.3, 0.45, 0.5, 0.55, 0.7, 1.0]
    told = probability_of_think(blend, pair.instruct, "What is 4 + 5 - 2?", [state.point(t) for t in ts])
    assert told == pytest.approx([softmax_of(pair, [], state.point(t), pair.instruct, "What is 4 + 5 - 2?") for t in ts], abs=1e-4)
    assert told[0] < 0.01 and told[-1] > 0.99 and any(0.02 < p < 0.98 for p in told)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_opening_of_rounds_and_of_other_families(folders, family):
    """Small probabilities of random networks, so relative; adapters and a schedule as well."""
    pair = open_pair(*folders(family))
    state = rounds.rebuild(pair, rounds.start(pair), random_adapter(pair, 1), 0.8, "original", Schedule())
    points = [state.point(t, Schedule(attention=0.5)) for t in (0.0, 0.4, 1.0)]
    told = probability_of_think(Blend(pair, state.adapters), pair.instruct, "hi", points)
    assert told == pytest.approx([softmax_of(pair, state.adapters, p, pair.instruct, "hi") for p in points], rel=1e-3, abs=1e-30)
    assert len(set(told)) == 3


def test_a_question_takes_template_and_sampling_of_its_point(folders):
    pair = open_pair(*folders("qwen3"))  # the thinking template opens the trace, the instruct one does not
    point, preset = rounds.start(pair).point(0.5), Preset(think_tokens=99, instruct_tokens=11)
    ids = {role: tuple(getattr(pair, role).prompt_ids("hi")) for role in ("instruct", "thinking")}
    assert ids["instruct"] != ids["thinking"]
    of = {"instruct": sampling(preset, "instruct"), "thinking": sampling(preset, "thinking")}
    assert of["instruct"] == Sampling(0.7, 0.8, 20, 11) and of["thinking"] == Sampling(0.6, 0.95, 20, 99)
    for t, asked, blends, whose, sampled in [
            (0, "auto", "instruct", "instruct", "instruct"), (1, "auto", "instruct", "thinking", "thinking"),
            (0.5, "auto", "instruct", "instruct", "thinking"), (0.5, "auto", "thinking", "thinking", "thinking"),
            (0, "auto", "thinking", "instruct", "instruct"), (1.0, "auto", "thinking", "thinking", "thinking"),
            (0, "thinking", "instruct", "thinking", "instruct"), (1, "instruct", "thinking", "instruct", "thinking"),
            (0.01, "instruct", "thinking", "instruct", "thinking")]:
        row = question(pair, dataclasses.replace(preset, template=blends), "hi", t, point, asked, seed=5)
        assert (row.ids, row.prefilled, row.sampling) == (ids[whose], whose == "thinking", of[sampled]), (t, asked, blends)
        assert row.recipe is point and row.seed == 5
    own = Sampling(1.5, 0.5, 3, 7)
    assert question(pair, preset, "hi", 0.5, point, settings=own).sampling == own


# ---- the spectrum


def spectrum(*rows):
    """(t, think rate, right of 100) -> a sweep's table."""
    return [dict(t=t, think_rate=rate, accuracy=right / 100, low=wilson(right, 100)[0], high=wilson(right, 100)[1]) for t, rate, right in rows]


def test_flip_lies_where_the_line_crosses_a_half():
    assert flip(spectrum((0, 0, 30), (0.4, 0.2, 30), (0.6, 0.7, 30), (1, 1, 90))) == pytest.approx(0.4 + 0.2 * 0.3 / 0.5)
    assert flip(spectrum((0, 0, 30), (0.5, 0.5, 30), (1, 1, 90))) == 0.5
    assert flip(spectrum((0, 0.1, 30), (0.3, 0.9, 30), (0.5, 0.1, 30), (1, 1, 90))) == pytest.approx(0.15)  # the first of several
    assert flip([dict(t=0, accuracy=0.2), dict(t=1, accuracy=0.8)], "accuracy") == pytest.approx(0.5)


def test_no_flip():
    assert flip([]) is None
    assert flip(spectrum((0.5, 0.5, 30))) is None
    assert flip(spectrum((0, 0, 30), (0.5, 0.3, 30), (1, 0.49, 90))) is None  # never thinks
    assert flip(spectrum((0, 0.5, 30), (0.5, 0.7, 30), (1, 1, 90))) is None  # always did: nothing sets in
    assert flip(spectrum((0, 1, 30), (1, 0, 90))) is None  # stops thinking


def test_broken_zone_is_below_both_ends_beyond_chance():
    assert broken_zone(spectrum((0, 0, 50), (0.3, 0, 20), (0.5, 0, 10), (0.8, 1, 90), (1, 1, 90))) == [0.3, 0.5]
    assert broken_zone(spectrum((0, 0, 90), (0.5, 0, 60), (1, 1, 50))) == []  # below one end only
    assert broken_zone(spectrum((0, 0, 90), (0.5, 0, 30), (1, 1, 50))) == [0.5]  # the worse end may be thinking
    assert broken_zone(spectrum((0, 0, 50), (0.5, 0, 100), (1, 1, 50))) == []


def test_a_noisy_dip_is_not_called_broken():
    """36 -> 33 of 100 is within chance, whose interval reaches 42.7; 26 of 100 reaches 35.4."""
    assert broken_zone(spectrum((0, 0, 36), (0.3, 0, 33), (1, 1, 99))) == []
    assert broken_zone(spectrum((0, 0, 36), (0.3, 0, 27), (1, 1, 99))) == []
    assert broken_zone(spectrum((0, 0, 36), (0.3, 0, 26), (1, 1, 99))) == [0.3]


@pytest.fixture(scope="module")
def swept(tiny):
    """(arguments of a sweep of the embedded pair, its table, what it told)"""
    pair, state, blend = tiny
    preset = dataclasses.replace(load_preset("tiny"), held_out=10, rows=16)
    held = problems.train_and_held_out(preset)[1]
    arguments = (blend, pair.instruct, {t: state.point(t) for t in (1.0, 0.0, 0.5)}, held, preset)
    steps, told = sweep(*arguments), []
    while True:
        try:
            told.append(next(steps))
        except StopIteration as end:
            return arguments, end.value, told


def test_a_sweep_counts_up_and_tells_the_points_in_order(swept):
    _, table, told = swept
    assert told == [(n, 30) for n in range(1, 31)]
    assert [p["t"] for p in table] == [0, 0.5, 1] and all(p["n"] == 10 for p in table)
    assert table[0]["think_rate"] == 0 and table[2]["think_rate"] == 1 and 0 < flip(table) < 1


@pytest.mark.parametrize("after", [0, 5])
def test_a_sweep_that_is_cancelled_says_so_and_gives_no_table(swept, after):
    arguments, _, _ = swept
    told = []
    with pytest.raises(UserError, match="the sweep was stopped"):
        for at in sweep(*arguments, cancelled=lambda: len(told) >= after):
            told.append(at)
    assert after <= len(told) < 30
