"""The sampler's settings against transformers' own processors, and what a row without them pays: nothing."""

import dataclasses
import math

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from thinkswitch import evaluate, rounds, sampler
from thinkswitch.generate import Batch, Row, generate
from thinkswitch.penalties import Penalties
from thinkswitch.preset import Preset
from thinkswitch.sampler import Sampler, Sampling
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

VOCABULARY = 64
DRAWS = 4000
PROMPTS = [(3, 5, 5, 7), (1,), (9, 8, 7, 6, 5, 4)]


def random_logits(rows: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def sampler_of(rows: list[Row]) -> Sampler:
    return Sampler(
        [row.sampling for row in rows], [row.seed for row in rows], [row.ids for row in rows], "cpu"
    )


def frequencies(sampling: Sampling, logits: torch.Tensor) -> torch.Tensor:
    """How often each token is drawn from one row of logits."""
    rows = [Row((), sampling, seed=seed) for seed in range(DRAWS)]
    tokens = sampler_of(rows)(logits.expand(DRAWS, -1))
    return torch.bincount(tokens, minlength=VOCABULARY) / DRAWS


def of_transformers(sampling: Sampling, logits: torch.Tensor) -> torch.Tensor:
    """The probabilities that transformers samples from, its processors in the order of its `generate`."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(MinPLogitsWarper(sampling.min_p))
    return processors(None, logits).softmax(-1)


# ---- min_p


@pytest.mark.parametrize(
    "filters",
    [
        dict(min_p=0.1),
        dict(min_p=0.3),
        dict(min_p=0.05, top_k=12),
        dict(min_p=0.05, top_p=0.8),
        dict(min_p=0.02, top_p=0.95, top_k=20),
        dict(min_p=0.2, top_p=0.9, top_k=20, temperature=2.0),
        dict(min_p=1.0),
    ],
)
def test_min_p_beside_the_other_filters_is_that_of_transformers(filters):
    sampling = Sampling(**{"temperature": 1.0, **filters})
    logits = random_logits(1, seed=3)
    expected = of_transformers(sampling, logits)[0]
    found = frequencies(sampling, logits)
    assert set(found.nonzero()[:, 0].tolist()) <= set(expected.nonzero()[:, 0].tolist())
    assert found.tolist() == pytest.approx(expected.tolist(), abs=4 * math.sqrt(0.25 / DRAWS))


def test_min_p_by_hand():
    """0.5, 0.3, 0.15, 0.05: a share of 0.31 of the largest keeps what is at least 0.155."""
    logits = torch.full((1, VOCABULARY), -torch.inf)
    logits[0, :4] = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    found = frequencies(Sampling(temperature=1.0, min_p=0.31), logits)
    assert found[:4].tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)


# ---- a large vocabulary, of which the likeliest tokens are sorted first


@pytest.mark.parametrize("flatness", [0.1, 1.0, 4.0])
@pytest.mark.parametrize(
    "settings",
    [
        [dict(top_p=0.95)],
        [dict()],  # plain sampling: the draw may fall behind the likeliest
        [dict(min_p=0.02)],
        [dict(top_p=0.999, min_p=0.001)],
        [dict(top_k=2000)],
        [dict(top_k=20), dict(top_p=0.9), dict(), dict(top_k=1500), dict(temperature=0.0), dict(min_p=0.3)],
    ],
)
def test_how_many_are_sorted_first_changes_no_draw(monkeypatch, settings, flatness):
    logits = torch.randn(300, 5000, generator=torch.Generator().manual_seed(1)) * flatness
    rows = [
        Row((), Sampling(**{"temperature": 1.0, **settings[seed % len(settings)]}), seed=seed)
        for seed in range(len(logits))
    ]
    found = sampler_of(rows)(logits)
    alone = [sampler_of([row])(logits[i : i + 1]).item() for i, row in enumerate(rows[:12])]
    assert found[:12].tolist() == alone
    ranks = logits.argsort(-1, descending=True).argsort(-1)
    for width in (30, 5000):
        monkeypatch.setattr(sampler, "FIRST", width)
        other = sampler_of(rows)(logits)
        off = ranks.gather(-1, torch.stack([found, other], -1)).diff().abs()
        assert off.max() <= 1 and off.count_nonzero() <= 3  # sums of the same numbers, rounded otherwise


@pytest.mark.parametrize("filters", [dict(), dict(top_p=0.9), dict(min_p=0.2), dict(top_k=40)])
def test_what_is_drawn_behind_the_likeliest_is_drawn_as_often(monkeypatch, filters):
    monkeypatch.setattr(sampler, "FIRST", 8)
    sampling = Sampling(**{"temperature": 1.0, **filters})
    logits = random_logits(1, seed=3) / 3
    expected = of_transformers(sampling, logits)[0]
    found = frequencies(sampling, logits)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=4 * math.sqrt(0.25 / DRAWS))


# ---- penalties


@pytest.mark.parametrize("penalty", [1.05, 1.3, 0.8])
def test_the_repetition_penalty_is_that_of_transformers(penalty):
    """Of the prompt and of what was written since, each token once, negative logits made smaller, too."""
    penalties = Penalties(PROMPTS, [penalty] * 3, [0.0] * 3, "cpu")
    histories = [list(prompt) for prompt in PROMPTS]
    for step in range(6):
        logits = random_logits(3, seed=step)
        ours = penalties.apply(logits)
        processor = RepetitionPenaltyLogitsProcessor(penalty)
        for row, history in enumerate(histories):
            theirs = processor(torch.tensor([history]), logits[row : row + 1])
            assert torch.equal(ours[row : row + 1], theirs)
        tokens = torch.tensor([step, step, 5])  # 5 is in two of the prompts already
        penalties.add(tokens)
        for history, token in zip(histories, tokens.tolist(), strict=True):
            history.append(token)


def test_the_presence_penalty_is_taken_once_and_not_for_the_prompt():
    penalties = Penalties([(3, 5)], [1.0], [1.5], "cpu")
    logits = random_logits(1)
    assert torch.equal(penalties.apply(logits), logits)  # nothing is written yet
    for token in (5, 9, 9):
        penalties.add(torch.tensor([token]))
    expected = logits.clone()
    expected[0, [5, 9]] -= 1.5
    assert torch.equal(penalties.apply(logits), expected)


def test_the_presence_penalty_follows_the_repetition_penalty():
    """vLLM scales first, then subtracts."""
    penalties = Penalties([(3,)], [2.0], [0.5], "cpu")
    logits = torch.tensor([[4.0, -4.0, 4.0, 4.0]])
    penalties.add(torch.tensor([0]))
    penalties.add(torch.tensor([1]))
    assert penalties.apply(logits).tolist() == [[1.5, -8.5, 4.0, 2.0]]


def test_penalties_come_before_temperature_and_before_greedy():
    logits = torch.tensor([[2.0, 1.9, 0.0]])
    greedy = sampler_of([Row((0,), Sampling(repetition_penalty=1.1))])
    assert greedy(logits).tolist() == [1]  # 2.0 / 1.1 < 1.9
    assert greedy(logits).tolist() == [0]  # now both are lowered
    cold = sampler_of([Row((0,), Sampling(temperature=0.01, repetition_penalty=1.1), seed=4)])
    assert cold(logits).tolist() == [1]
    present = sampler_of([Row((0,), Sampling(presence_penalty=0.2))])
    assert [present(logits).item() for _ in range(2)] == [0, 1]


def test_a_row_without_penalties_keeps_its_logits_to_the_bit_beside_one_with():
    penalties = Penalties(PROMPTS, [1.0, 1.3, 1.0], [0.0, 0.0, 1.5], "cpu")
    logits = random_logits(3)
    logits[0, 0] = -torch.inf
    for token in range(VOCABULARY):
        penalties.add(torch.tensor([token] * 3))
    lowered = penalties.apply(logits)
    assert torch.equal(lowered[0], logits[0])
    assert not torch.equal(lowered[1], logits[1]) and not torch.equal(lowered[2], logits[2])


def test_who_has_no_penalty_pays_nothing():
    plain = Sampling(temperature=0.7, top_p=0.8, top_k=20)
    strict = dataclasses.replace(plain, repetition_penalty=1.05)
    assert sampler_of([Row((1,), plain)]).penalties is None
    mixed = sampler_of([Row((1,), plain), Row((1,), strict), Row((1,), plain)])
    mixed(random_logits(3))
    mixed.filter(torch.tensor([1, 2]))
    assert mixed.penalties.seen.shape == (2, 2)  # a token read, a token written
    mixed.filter(torch.tensor([1]))  # the row with a penalty has left
    assert mixed.penalties is None


# ---- in a decode


@pytest.fixture(scope="module")
def pair(folders):
    return open_pair(*folders("qwen3"))


@pytest.fixture(scope="module")
def model(pair):
    return materialise(pair, [], rounds.start(pair).instruct)


def texts(model, pair, rows, **options):
    chunks = generate(model, pair.instruct.tokenizer, rows, set(), stream=False, **options)
    return {chunk.row: chunk.text for chunk in chunks}


@pytest.mark.parametrize("penalty", [1.2, 2.0])
def test_greedy_rows_write_what_transformers_writes(pair, model, penalty):
    """Rows of different lengths, padded on the left; some leave the batch before the others."""
    tokenizer = pair.instruct.tokenizer
    rows = []
    for prompt, tokens in (("hi", 24), ("a longer one", 9), ("three", 17)):
        sampling = Sampling(repetition_penalty=penalty, max_new_tokens=tokens)
        rows.append(Row(tuple(pair.instruct.prompt_ids(prompt)), sampling))
    found = texts(model, pair, rows)
    for number, row in enumerate(rows):
        out = model.generate(
            torch.tensor([row.ids]),
            attention_mask=torch.ones(1, len(row.ids), dtype=torch.long),
            do_sample=False,
            repetition_penalty=penalty,
            max_new_tokens=row.sampling.max_new_tokens,
            eos_token_id=None,
        )
        assert found[number] == tokenizer.decode(out[0, len(row.ids) :])
    assert found != texts(model, pair, [dataclasses.replace(r, sampling=Sampling()) for r in rows])


def test_a_row_s_text_depends_on_its_own_penalties_alone(pair, model):
    """Alone, and in a batch whose other rows leave early or have other settings."""
    wild = Sampling(temperature=1.0, top_k=40, max_new_tokens=24)
    strict = dataclasses.replace(wild, repetition_penalty=1.3, presence_penalty=1.5, min_p=0.02)
    short = dataclasses.replace(strict, max_new_tokens=3)
    ids = tuple(pair.instruct.prompt_ids("hi"))
    rows = [Row(ids, short, seed=1), Row(ids, wild, seed=2), Row(ids, strict, seed=3)]
    together = texts(model, pair, rows)
    assert [texts(model, pair, [row])[0] for row in rows] == [together[i] for i in range(3)]


def test_a_batch_takes_the_prompts_and_not_their_padding(pair, model):
    rows = [Row((5, 6), Sampling(repetition_penalty=1.2)), Row((7, 8, 9, 9), Sampling())]
    batch = Batch(model, rows)
    tokens = batch.step()
    for row, seen, token in zip(rows, batch.sampler.penalties.seen, tokens, strict=True):
        assert set(seen.tolist()) == {*row.ids, token}


# ---- the preset


def test_each_side_has_its_own_settings():
    preset = Preset(think_min_p=0.1, think_repetition_penalty=1.05, instruct_presence_penalty=1.5)
    thinking = evaluate.sampling(preset, "thinking")
    instruct = evaluate.sampling(preset, "instruct")
    assert (thinking.min_p, thinking.repetition_penalty, thinking.presence_penalty) == (0.1, 1.05, 0.0)
    assert (instruct.min_p, instruct.repetition_penalty, instruct.presence_penalty) == (0.0, 1.0, 1.5)


def test_greedy_keeps_the_penalties():
    preset = Preset(think_min_p=0.1, think_repetition_penalty=1.05, think_presence_penalty=0.5)
    expected = Sampling(max_new_tokens=preset.think_tokens, repetition_penalty=1.05, presence_penalty=0.5)
    assert evaluate.sampling(preset, "thinking", greedy=True) == expected
    plain = evaluate.sampling(Preset(), "instruct", greedy=True)
    assert plain == Sampling(max_new_tokens=Preset().instruct_tokens)
