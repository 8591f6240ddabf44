"""Scores, questions and sweeps: against hand-worked values, and against the weights themselves."""

import dataclasses
import json
import math

import pytest
import torch

from conftest import TINY, random_adapter
from thinkswitch import problems, rounds
from thinkswitch.errors import UserError
from thinkswitch.evaluate import (
    Score,
    broken_zone,
    cheapest_near_best,
    compare_scores,
    flip,
    probability_of_think,
    question,
    sampling,
    score,
    seed_of,
    so_far,
    summarise,
    sweep,
    with_token_limit,
)
from thinkswitch.generate import Chunk, Row, generate
from thinkswitch.preset import Preset, load_preset
from thinkswitch.problems import Problem
from thinkswitch.recipe import Schedule
from thinkswitch.sampler import Sampling
from thinkswitch.statistics import wilson
from thinkswitch.think_tags import Tags
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair
from thinkswitch.weights.prompting import Prompting


def scores_of(*right) -> list[Score]:
    return [Score(i, bool(r), bool(r), 10 * (i + 1), None, "stop") for i, r in enumerate(right)]


# ---- scores


def test_a_score_is_a_line_of_scores_jsonl():
    """Old runs resume and compare, so the keys stay."""
    chunk = Chunk(0, "trace", r"\boxed{7}", False, 12, finish="stop", state="closed")
    scored = score(Problem("3 + 4?", "7", "integer"), 5, chunk)
    assert json.dumps(dataclasses.asdict(scored)) == (
        '{"question": 5, "correct": true, "thought": true, "tokens": 12, "said": "7", "finish": "stop"}'
    )


@pytest.mark.parametrize(
    "state, thought",
    [("none", False), ("open", False), ("closed", True), ("wrong close", False), ("doubled", True)],
)
def test_only_a_closed_trace_counts_as_thought(state, thought):
    chunk = Chunk(0, "trace", "answer", False, 12, finish="length", state=state)
    assert score(Problem("?", "7", "integer"), 0, chunk).thought is thought


def test_a_summary_has_the_interval_of_its_accuracy():
    summary = summarise(scores_of(1, 0, 1, 1))
    assert (summary.n, summary.correct, summary.accuracy) == (4, 3, 0.75)
    assert (summary.think_rate, summary.mean_tokens) == (0.75, 25)
    assert (summary.low, summary.high) == wilson(3, 4)


def test_a_paired_comparison_wants_the_same_questions():
    paired = compare_scores(scores_of(0, 0, 1, 1), scores_of(1, 1, 1, 0)[::-1])
    assert (paired.gained, paired.lost) == (2, 1)
    with pytest.raises(ValueError, match="same questions"):
        compare_scores(scores_of(0, 0), scores_of(1))


def test_seeds_differ_by_purpose_and_stay():
    seeds = {seed_of(0, "think", r, i, s) for r in range(3) for i in range(50) for s in range(4)}
    assert len(seeds) == 600
    assert seed_of(0, "think", 1, 2, 3) == 35643087830956028  # another value would change every resumed run


# ---- questions


def test_sampling_is_the_preset_s_by_role():
    preset = Preset(think_tokens=99, instruct_tokens=11)
    assert sampling(preset, "instruct") == Sampling(0.7, 0.8, 20, 11)
    assert sampling(preset, "thinking") == Sampling(0.6, 0.95, 20, 99)
    assert sampling(preset, "thinking", greedy=True) == Sampling(0, 1, 0, 99)
    assert with_token_limit(Sampling(0.7, 0.8, 20, 11), 5) == Sampling(0.7, 0.8, 20, 5)
    assert with_token_limit(Sampling(0.7, 0.8, 20, 11), None) == Sampling(0.7, 0.8, 20, 11)


QUESTIONS = [  # t, template asked for, the preset's template -> whose template, whose sampling
    (0, "auto", "instruct", "instruct", "instruct"),
    (1, "auto", "instruct", "thinking", "thinking"),
    (0.5, "auto", "instruct", "instruct", "thinking"),
    (0.5, "auto", "thinking", "thinking", "thinking"),
    (0, "auto", "thinking", "instruct", "instruct"),
    (1.0, "auto", "thinking", "thinking", "thinking"),
    (0, "thinking", "instruct", "thinking", "instruct"),
    (1, "instruct", "thinking", "instruct", "thinking"),
    (0.01, "instruct", "thinking", "instruct", "thinking"),
]


@pytest.mark.parametrize("t, template, blends, whose, sampled", QUESTIONS)
def test_a_question_takes_template_and_sampling_of_its_point(folders, t, template, blends, whose, sampled):
    pair = open_pair(*folders("qwen3"))  # the thinking template opens the trace, the instruct one does not
    assert pair.instruct.prompt_ids("hi") != pair.thinking.prompt_ids("hi")
    point, preset = (
        rounds.start(pair).point(0.5),
        Preset(think_tokens=99, instruct_tokens=11, template=blends),
    )
    row = question(pair, preset, "hi", t, point, template, seed=5)
    assert row.ids == tuple(getattr(pair, whose).prompt_ids("hi"))
    assert row.prefilled == (whose == "thinking")
    assert row.sampling == sampling(preset, sampled)
    assert row.recipe is point
    assert row.seed == 5
    own = Sampling(1.5, 0.5, 3, 7)
    assert question(pair, preset, "hi", t, point, template, settings=own).sampling == own


# ---- the probability of a trace


@pytest.fixture(scope="module")
def tiny():
    """The embedded pair, its start and its live blend."""
    pair = open_pair(TINY / "instruct", TINY / "thinking")
    return pair, rounds.start(pair), Blend(pair)


def probability_from_weights(pair, adapters, point, checkpoint, prompt) -> float:
    """Of <think> as the first token, by the weights themselves."""
    ids = torch.tensor([checkpoint.prompt_ids(prompt)])
    tag = checkpoint.tokenizer.convert_tokens_to_ids("<think>")
    with torch.inference_mode():
        logits = materialise(pair, adapters, point)(input_ids=ids).logits[0, -1]
    return float(logits.double().softmax(-1)[tag])


def test_the_probability_of_a_trace_rises_from_instruct_to_thinking(tiny):
    """The template leaves the choice: the instruct checkpoint answers, the thinking one thinks."""
    pair, state, blend = tiny
    prompt = "What is 4 + 5 - 2?"
    points = [state.point(t) for t in (0.0, 0.3, 0.45, 0.5, 0.55, 0.7, 1.0)]
    found = probability_of_think(blend, pair.instruct, prompt, points)
    expected = [probability_from_weights(pair, [], point, pair.instruct, prompt) for point in points]
    assert found == pytest.approx(expected, abs=1e-4)
    assert found[0] < 0.01
    assert found[-1] > 0.99
    assert any(0.02 < p < 0.98 for p in found)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_the_probability_of_a_trace_in_later_rounds_and_other_families(folders, family):
    """Probabilities of random networks are small, so they are compared relatively."""
    pair = open_pair(*folders(family))
    state = rounds.rebuild(pair, rounds.start(pair), random_adapter(pair, 1), 0.8, "original", Schedule())
    points = [state.point(t, Schedule(attention=0.5)) for t in (0.0, 0.4, 1.0)]
    found = probability_of_think(Blend(pair, state.adapters), pair.instruct, "hi", points)
    expected = [
        probability_from_weights(pair, state.adapters, point, pair.instruct, "hi") for point in points
    ]
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-30)
    assert len(set(found)) == 3


def test_the_probability_of_a_tag_of_several_tokens_is_their_product(folders):
    """Only the first was looked at: of <think> as plain text that is <, with which anything may begin."""
    prompting = Prompting(tags=Tags("<hm>", "</hm>"))
    pair = open_pair(*folders("qwen3"), prompting=(prompting, prompting))
    point = rounds.start(pair).point(0.3)
    tag = pair.instruct.tokenizer.encode("<hm>", add_special_tokens=False)
    prompt = pair.instruct.prompt_ids("hi")
    with torch.inference_mode():
        p = (
            materialise(pair, [], point)(input_ids=torch.tensor([prompt + tag]))
            .logits[0]
            .double()
            .softmax(-1)
        )
    expected = math.prod(float(p[len(prompt) - 1 + i, token]) for i, token in enumerate(tag))
    assert len(tag) == 4 and expected > 0
    found = probability_of_think(Blend(pair), pair.instruct, "hi", [point, point])
    assert found == pytest.approx([expected] * 2, rel=1e-3, abs=0)


# ---- the spectrum


def spectrum(*rows) -> list[dict]:
    """The table of a sweep from (t, think rate, right answers of 100)."""
    table = []
    for t, rate, right in rows:
        low, high = wilson(right, 100)
        table.append(dict(t=t, think_rate=rate, accuracy=right / 100, low=low, high=high))
    return table


def test_flip_lies_where_the_line_crosses_a_half():
    rising = spectrum((0, 0, 30), (0.4, 0.2, 30), (0.6, 0.7, 30), (1, 1, 90))
    assert flip(rising) == pytest.approx(0.4 + 0.2 * 0.3 / 0.5)
    assert flip(spectrum((0, 0, 30), (0.5, 0.5, 30), (1, 1, 90))) == 0.5
    several = spectrum((0, 0.1, 30), (0.3, 0.9, 30), (0.5, 0.1, 30), (1, 1, 90))
    assert flip(several) == pytest.approx(0.15)  # the first
    assert flip([dict(t=0, accuracy=0.2), dict(t=1, accuracy=0.8)], "accuracy") == pytest.approx(0.5)


def test_no_flip():
    assert flip([]) is None
    assert flip(spectrum((0.5, 0.5, 30))) is None
    assert flip(spectrum((0, 0, 30), (0.5, 0.3, 30), (1, 0.49, 90))) is None  # never thinks
    assert flip(spectrum((0, 0.5, 30), (0.5, 0.7, 30), (1, 1, 90))) is None  # thinks from the start
    assert flip(spectrum((0, 1, 30), (1, 0, 90))) is None  # stops thinking


def test_the_broken_zone_is_below_both_ends_beyond_chance():
    dip = spectrum((0, 0, 50), (0.3, 0, 20), (0.5, 0, 10), (0.8, 1, 90), (1, 1, 90))
    assert broken_zone(dip) == [0.3, 0.5]
    assert broken_zone(spectrum((0, 0, 90), (0.5, 0, 60), (1, 1, 50))) == []  # below one end only
    assert broken_zone(spectrum((0, 0, 90), (0.5, 0, 30), (1, 1, 50))) == [
        0.5
    ]  # thinking may be the worse end
    assert broken_zone(spectrum((0, 0, 50), (0.5, 0, 100), (1, 1, 50))) == []


@pytest.mark.parametrize("right, zone", [(33, []), (27, []), (26, [0.3])])
def test_a_noisy_dip_is_not_called_broken(right, zone):
    """36 -> 33 of 100 is within chance: its interval reaches 42.7. That of 26 of 100 ends at 35.4."""
    assert broken_zone(spectrum((0, 0, 36), (0.3, 0, right), (1, 1, 99))) == zone


def cost(t: float, right: int, tokens: float) -> dict:
    return dict(t=t, accuracy=right / 100, mean_tokens=tokens)


def test_the_cheapest_point_within_one_point_of_the_best():
    points = [cost(0, 30, 5), cost(0.4, 95, 30), cost(0.6, 96, 34), cost(0.8, 97, 50), cost(1, 97, 60)]
    assert cheapest_near_best(points) == cost(0.6, 96, 34)  # 97 - 96 is one point, rounding or not
    assert cheapest_near_best(points, within=0.02) == cost(0.4, 95, 30)
    assert cheapest_near_best(points, within=0) == cost(0.8, 97, 50)
    assert cheapest_near_best([cost(0, 0, 5), cost(1, 0, 4)]) == cost(1, 0, 4)


def test_of_equally_cheap_points_the_better_and_then_the_lower_t_is_taken():
    assert cheapest_near_best([cost(0.1, 96, 9), cost(0.2, 97, 9), cost(0.3, 97, 9)]) == cost(0.2, 97, 9)


# ---- sweeps


def finish(steps) -> tuple[list[dict], list[tuple[int, int]]]:
    """The table of a sweep, and the progress it reported."""
    progress = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            return end.value, progress


@pytest.fixture(scope="module")
def arguments(tiny):
    """A sweep of the embedded pair: three points, ten problems each."""
    pair, state, blend = tiny
    preset = dataclasses.replace(load_preset("tiny"), held_out=10, rows=16)
    _, held = problems.train_and_held_out(preset)
    return blend, pair.instruct, {t: state.point(t) for t in (1.0, 0.0, 0.5)}, held, preset


@pytest.fixture(scope="module")
def swept(arguments):
    return finish(sweep(*arguments))


def test_a_sweep_counts_up_and_returns_its_points_in_order(swept):
    table, progress = swept
    assert progress == [(n, 30) for n in range(1, 31)]
    assert [point["t"] for point in table] == [0, 0.5, 1]
    assert all(point["n"] == 10 for point in table)
    assert table[0]["think_rate"] == 0
    assert table[2]["think_rate"] == 1
    assert 0 < flip(table) < 1


def test_a_sweep_so_far_compares_its_points_on_the_same_problems(arguments, swept):
    scores = {}
    steps = sweep(*arguments, scores=scores)
    for _ in range(29):
        next(steps)
    partial = so_far(scores)
    behind = min(len(of_point) for of_point in scores.values())
    assert behind == 9
    assert [point["n"] for point in partial] == [9, 9, 9]
    with pytest.raises(StopIteration):
        next(steps), next(steps)
    assert so_far(scores) == swept[0]


def test_a_sweep_with_a_point_that_has_no_answer_yet_has_no_table():
    one = Score(question=0, correct=True, thought=False, tokens=4, said="7", finish="stop")
    assert so_far({}) == so_far({0.0: [one], 1.0: []}) == []
    other = dataclasses.replace(one, question=1, correct=False)
    [first, second] = so_far({0.0: [one, other], 1.0: [other]})
    assert (first["n"], first["correct"], second["n"]) == (1, 0, 1)


@pytest.mark.parametrize("after", [0, 5])
def test_a_cancelled_sweep_says_so_and_returns_no_table(arguments, after):
    progress = []
    steps = sweep(*arguments, cancelled=lambda: len(progress) >= after)
    with pytest.raises(UserError, match="the sweep was stopped"):
        while True:
            progress.append(next(steps))
    assert after <= len(progress) < 30


def test_a_sweep_lends_the_model_between_its_steps(arguments, swept):
    """A visitor's question once waited until the whole sweep was over (B33)."""
    blend, checkpoint, points, _, _ = arguments
    ids = tuple(checkpoint.prompt_ids("What is 4 + 5 - 2?"))
    visitor = Row(ids, Sampling(max_new_tokens=4), recipe=points[0.5])
    alone = list(generate(blend, checkpoint.tokenizer, [visitor], checkpoint.stop_token_ids))
    answers = []

    def answer_a_visitor():
        if len(answers) < 5:
            answers.append(list(generate(blend, checkpoint.tokenizer, [visitor], checkpoint.stop_token_ids)))

    assert finish(sweep(*arguments, between_steps=answer_a_visitor)) == swept
    assert answers == [alone] * 5


def test_a_sweep_that_runs_out_of_memory_goes_on_with_fewer_rows(arguments, swept, monkeypatch):
    """Its batch size is the preset's, chosen for the loop; Explore may hold more beside it."""
    whole = Blend.forward
    sizes = []

    def limited(blend, *args, input_ids, **kwargs):
        if len(input_ids) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(input_ids))
        return whole(blend, *args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(Blend, "forward", limited)
    table, progress = finish(sweep(*arguments))
    assert max(sizes) == 4
    assert (table, progress) == swept
