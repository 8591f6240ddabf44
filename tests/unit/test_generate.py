"""One decode loop: what a row says depends on the row alone."""

import dataclasses

import pytest
import torch

from conftest import random_adapter
from thinkswitch import recipe, rounds
from thinkswitch.generate import IncrementalDetokenizer, Row, Sampler, Sampling, generate, group_rows
from thinkswitch.recipe import Schedule
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

WILD = Sampling(temperature=1.0, top_p=0.95, top_k=40, max_new_tokens=24)


@pytest.fixture(scope="module")
def setting(folders):
    pair = open_pair(*folders("qwen3"))
    return pair, materialise(pair, [], rounds.start(pair).instruct)


def prompt(pair, text):
    return tuple(pair.instruct.prompt_ids(text))


def texts(model, pair, rows, **more):
    return [c.text for c in sorted((c for c in generate(model, pair.instruct.tokenizer, rows, pair.instruct.stop_token_ids, **more) if c.finish),
                                   key=lambda c: c.row)]


def test_same_seed_same_text_alone_or_in_company(setting):
    pair, model = setting
    rows = [Row(prompt(pair, "a" * n), WILD, seed=n) for n in (3, 17, 5, 9, 1)]
    together = texts(model, pair, rows)
    assert together == [texts(model, pair, [row])[0] for row in rows]
    assert together == texts(model, pair, rows, batch=2)
    assert len(set(together)) == len(rows)


def test_another_seed_is_another_text(setting):
    pair, model = setting
    row = Row(prompt(pair, "hello"), WILD, seed=1)
    assert texts(model, pair, [row]) != texts(model, pair, [dataclasses.replace(row, seed=2)])


@pytest.mark.parametrize("greedy", [Sampling(max_new_tokens=24), dataclasses.replace(WILD, temperature=0.0), dataclasses.replace(WILD, top_k=1)])
def test_at_temperature_zero_the_seed_is_irrelevant(setting, greedy):
    pair, model = setting
    one, two = texts(model, pair, [Row(prompt(pair, "hello"), greedy, seed=s) for s in (1, 2)])
    assert one == two


def test_rows_of_one_batch_have_their_own_settings(setting):
    pair, model = setting
    rows = [Row(prompt(pair, "hi"), Sampling(max_new_tokens=5)), Row(prompt(pair, "hi"), WILD, seed=4),
            Row(prompt(pair, "hi"), dataclasses.replace(WILD, top_k=0, top_p=1.0), seed=4), Row(prompt(pair, "hi"), Sampling(max_new_tokens=9))]
    assert texts(model, pair, rows) == [texts(model, pair, [r])[0] for r in rows]


def test_greedy_equals_model_generate_with_padding_and_stops(setting):
    """Rows of uneven length, some stopping early, against transformers on the same left-padded batch."""
    pair, model = setting
    tok = pair.instruct.tokenizer
    rows = [Row(prompt(pair, "x" * n), Sampling(max_new_tokens=40)) for n in (2, 11, 30)]
    free = texts(model, pair, rows)
    stops = {tok.encode(free[0])[3], tok.encode(free[2])[10]}  # tokens that do come, so that rows leave at different steps
    ours = {c.row: c for c in generate(model, tok, rows, stops, stream=False)}
    assert {c.finish for c in ours.values()} >= {"stop"}
    batch = tok.pad([{"input_ids": list(r.ids)} for r in rows], return_tensors="pt", padding_side="left")
    out = model.generate(**batch, do_sample=False, max_new_tokens=40, eos_token_id=sorted(stops), pad_token_id=tok.pad_token_id)
    for i in range(3):
        ids = out[i, batch["input_ids"].shape[1]:].tolist()
        end = next((k for k, t in enumerate(ids) if t in stops), len(ids))
        assert ours[i].text == tok.decode(ids[:end]) and ours[i].tokens == end


def test_limits_and_finish(setting):
    pair, model = setting
    rows = [Row(prompt(pair, "hi"), Sampling(max_new_tokens=n)) for n in (1, 4, 7)]
    last = {c.row: c for c in generate(model, pair.instruct.tokenizer, rows, set())  if c.finish}
    assert [(last[i].tokens, last[i].finish) for i in range(3)] == [(1, "length"), (4, "length"), (7, "length")]


def test_cancel_takes_effect_within_one_step(setting):
    pair, model = setting
    steps = []

    class Counting(torch.nn.Module):
        config = model.config
        parameters = model.parameters

        def forward(self, **inputs):
            steps.append(1)
            return model(**inputs)

    rows = [Row(prompt(pair, "hi"), Sampling(max_new_tokens=200)) for _ in range(2)]
    chunks = list(generate(Counting(), pair.instruct.tokenizer, rows, set(), cancelled=lambda: len(steps) >= 5))
    assert len(steps) == 5 and [c.finish for c in chunks[-2:]] == ["cancel", "cancel"]
    assert all(c.text and c.tokens == 5 for c in chunks[-2:])  # what was written is kept


def test_stream_grows_to_the_last_chunk(setting):
    pair, model = setting
    shown = ""
    for chunk in generate(model, pair.instruct.tokenizer, [Row(prompt(pair, "hi"), WILD, seed=3)], set()):
        now = chunk.trace + chunk.answer
        assert now.startswith(shown.rstrip()) or chunk.finish
        assert not now.endswith("\ufffd") or chunk.finish  # half a character waits for its other half
        shown = now


def test_finished_rows_leave_the_batch(setting):
    pair, model = setting
    sizes = []

    class Watching(torch.nn.Module):
        config = model.config
        parameters = model.parameters

        def forward(self, **inputs):
            sizes.append(len(inputs["input_ids"]))
            return model(**inputs)

    rows = [Row(prompt(pair, "hi"), Sampling(max_new_tokens=n)) for n in (2, 2, 6)]
    list(generate(Watching(), pair.instruct.tokenizer, rows, set()))
    assert sizes == [3, 3, 1, 1, 1, 1]


def test_a_generator_left_early_leaks_no_inference_mode(setting):
    pair, model = setting
    stream = generate(model, pair.instruct.tokenizer, [Row(prompt(pair, "hi"), WILD)], set())
    next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()
    assert torch.ones(1, requires_grad=True).mul(2).requires_grad


def test_characters_of_several_tokens_are_never_shown_in_half(setting):
    pair, _ = setting
    tok = pair.instruct.tokenizer
    writer, text = IncrementalDetokenizer(tok, Row(()), 0), "½ 你好 \U0001f914 <think>\nnaïve</think>\n\né"
    for token in tok.encode(text):
        writer.add(token)
        writer.read()
        assert text.startswith(writer.text)
    writer.end("stop")
    assert writer.text == text and writer.split.answer.endswith("é") and "naïve" in writer.split.trace


def test_sampler_follows_the_filters():
    """Against probabilities worked out by hand: 0.5, 0.3, 0.15, 0.05."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    count = lambda **s: torch.bincount(torch.stack([Sampler([Row((), Sampling(temperature=1.0, **s), seed=i)], "cpu")(logits[None])[0]
                                                    for i in range(2000)]), minlength=4) / 2000
    assert count().tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.04)
    assert count(top_k=2).tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.04)
    assert count(top_p=0.75).tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.04)
    assert count(top_p=0.81).tolist() == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], abs=0.04)
    assert count(top_p=0.01).tolist() == [1, 0, 0, 0]


def test_groups_put_like_lengths_together_and_miss_none():
    rows = [Row((1,) * n) for n in (3, 9, 1, 9, 5)]
    assert group_rows(rows, 2) == [[1, 3], [4, 0], [2]]


def test_blend_rows_leave_with_their_recipes(folders):
    """Rows at different t finishing at different steps: those that stay keep their own point."""
    pair = open_pair(*folders("qwen3"))
    state = rounds.start(pair)
    blend = Blend(pair)
    rows = [Row(prompt(pair, "hi"), Sampling(max_new_tokens=n), recipe=state.point(t)) for n, t in ((3, 0.0), (20, 0.5), (6, 1.0), (20, 1.0))]
    assert texts(blend, pair, rows) == [texts(materialise(pair, [], r.recipe), pair, [dataclasses.replace(r, recipe=None)])[0] for r in rows]


@pytest.fixture(scope="module")
def shared(folders):
    """(pair, its round 1, a live blend, two batches: other prompts, recipes, lengths, sampling)"""
    pair = open_pair(*folders("qwen3"))
    state = rounds.rebuild(pair, rounds.start(pair), random_adapter(pair, 1), 0.8, "original", Schedule())
    one = [Row(prompt(pair, "a" * n), dataclasses.replace(WILD, max_new_tokens=m), seed=n, recipe=state.point(t)) for n, m, t in ((3, 9, 0.0), (12, 24, 0.4), (1, 17, 1.0))]
    two = [Row(prompt(pair, "What is it? " * n), Sampling(max_new_tokens=m), recipe=rounds.start(pair).point(t)) for n, m, t in ((2, 21, 0.8), (1, 5, 1.0))]
    return pair, state, Blend(pair, state.adapters), (one, two)


def finished(chunks):
    return {c.row: (c.text, c.tokens, c.finish) for c in chunks if c.finish}


def test_two_batches_taking_turns_on_one_blend_say_what_each_says_alone(shared):
    """Chunk by chunk, alternately, as two visitors of the page: neither sees the other's rows."""
    pair, _, blend, batches = shared
    start = lambda rows: generate(blend, pair.instruct.tokenizer, rows, pair.instruct.stop_token_ids)
    alone = [finished(start(rows)) for rows in batches]
    said, going = ([], []), {i: start(rows) for i, rows in enumerate(batches)}
    turns = []
    while going:
        for i, chunks in list(going.items()):
            if (chunk := next(chunks, None)) is None:
                del going[i]
            else:
                said[i].append(chunk)
                turns.append(i)
    assert turns[:8] == [0, 1] * 4  # they did take turns
    assert [finished(chunks) for chunks in said] == alone
    assert len({text for one in alone for text, _, _ in one.values()}) == 5


def test_a_batch_that_lends_the_model_between_two_steps_goes_on_as_if_alone(shared):
    """`cancelled` is asked between steps; there the holder may let a whole other batch through."""
    pair, _, blend, (one, two) = shared
    tok, stops, lent = pair.instruct.tokenizer, pair.instruct.stop_token_ids, []
    alone = [finished(generate(blend, tok, rows, stops)) for rows in (one, two)]

    def lend() -> bool:
        lent.append(finished(generate(blend, tok, two, stops)))
        return False

    assert finished(generate(blend, tok, one, stops, cancelled=lend)) == alone[0]
    assert len(lent) > 10 and all(said == alone[1] for said in lent)


def test_an_adapter_added_in_the_middle_of_a_decode_changes_nothing_for_it(shared):
    """Somebody opens another run's round in Compare while an answer is being written."""
    pair, state, _, (one, _) = shared
    blend = Blend(pair, state.adapters)
    start = lambda: generate(blend, pair.instruct.tokenizer, one, pair.instruct.stop_token_ids)
    alone, chunks = finished(start()), start()
    before = [next(chunks) for _ in range(4)]
    place = blend.add(random_adapter(pair, 7))
    assert place == 1 and not finished(before)
    assert finished([*before, *chunks]) == alone == finished(start())
    moved = [dataclasses.replace(row, recipe=recipe.remap_adapters(row.recipe, [place])) for row in one]
    assert finished(generate(blend, pair.instruct.tokenizer, moved, pair.instruct.stop_token_ids)) != alone  # the new one does count, where asked for
