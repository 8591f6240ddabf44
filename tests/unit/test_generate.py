"""One decode loop: the text of a row depends on the row alone."""

import dataclasses
import weakref

import pytest
import torch

from conftest import random_adapter
from thinkswitch import recipe, rounds
from thinkswitch.errors import UserError
from thinkswitch.generate import IncrementalDetokenizer, Row, generate, group_rows
from thinkswitch.recipe import Schedule
from thinkswitch.sampler import Sampler, Sampling
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

WILD = Sampling(temperature=1.0, top_p=0.95, top_k=40, max_new_tokens=24)
OUT_OF_MEMORY = [  # as CUDA and as a CPU say it
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] not enough memory: you tried to allocate"),
]


@pytest.fixture(scope="module")
def pair(folders):
    return open_pair(*folders("qwen3"))


@pytest.fixture(scope="module")
def model(pair):
    return materialise(pair, [], rounds.start(pair).instruct)


def prompt(pair, text):
    return tuple(pair.instruct.prompt_ids(text))


def row(pair, text="hi", sampling=WILD, **changes):
    return Row(prompt(pair, text), sampling, **changes)


def limited(pair, tokens, **changes):
    """A greedy row of at most so many tokens."""
    return row(pair, sampling=Sampling(max_new_tokens=tokens), **changes)


def finished(chunks):
    """{row: last chunk}; every row has exactly one."""
    last = [chunk for chunk in chunks if chunk.finish]
    assert len(last) == len({chunk.row for chunk in last})
    return {chunk.row: chunk for chunk in last}


def decoded(model, pair, rows, **options):
    return finished(generate(model, pair.instruct.tokenizer, rows, pair.instruct.stop_token_ids, **options))


def texts(model, pair, rows, **options):
    last = decoded(model, pair, rows, **options)
    return [last[i].text for i in range(len(rows))]


class Watched(torch.nn.Module):
    """A model that notes how many rows each step has, and calls `before(rows)` first."""

    def __init__(self, model, before=lambda rows: None):
        super().__init__()
        self.model, self.before, self.widths = model, before, []

    @property
    def config(self):
        return self.model.config

    def forward(self, **inputs):
        self.widths.append(len(inputs["input_ids"]))
        self.before(self.widths[-1])
        return self.model(**inputs)


# ---- the text of a row


def test_same_seed_same_text_alone_or_in_a_batch(pair, model):
    rows = [row(pair, "a" * n, seed=n) for n in (3, 17, 5, 9, 1)]
    together = texts(model, pair, rows)
    assert together == [texts(model, pair, [one])[0] for one in rows]
    assert together == texts(model, pair, rows, batch=2)
    assert len(set(together)) == len(rows)


def test_another_seed_is_another_text(pair, model):
    assert texts(model, pair, [row(pair, seed=1)]) != texts(model, pair, [row(pair, seed=2)])


@pytest.mark.parametrize(
    "greedy",
    [
        Sampling(max_new_tokens=24),
        dataclasses.replace(WILD, temperature=0.0),
        dataclasses.replace(WILD, top_k=1),
    ],
)
def test_at_temperature_zero_the_seed_is_irrelevant(pair, model, greedy):
    one, two = texts(model, pair, [row(pair, "hello", greedy, seed=seed) for seed in (1, 2)])
    assert one == two


def test_rows_of_one_batch_have_their_own_settings(pair, model):
    rows = [
        limited(pair, 5),
        row(pair, seed=4),
        row(pair, sampling=dataclasses.replace(WILD, top_k=0, top_p=1.0), seed=4),
        limited(pair, 9),
    ]
    assert texts(model, pair, rows) == [texts(model, pair, [one])[0] for one in rows]


def test_greedy_equals_model_generate_with_padding_and_stops(pair, model):
    """Rows of uneven length, some stopping early, against transformers on the same left-padded batch."""
    tokenizer = pair.instruct.tokenizer
    rows = [row(pair, "x" * n, Sampling(max_new_tokens=40)) for n in (2, 11, 30)]
    free = texts(model, pair, rows)
    # tokens that do come, so that rows leave at different steps
    stops = {tokenizer.encode(free[0])[3], tokenizer.encode(free[2])[10]}
    ours = finished(generate(model, tokenizer, rows, stops, stream=False))
    assert "stop" in {chunk.finish for chunk in ours.values()}

    prompts = [{"input_ids": list(one.ids)} for one in rows]
    batch = tokenizer.pad(prompts, return_tensors="pt", padding_side="left")
    theirs = model.generate(
        **batch,
        do_sample=False,
        max_new_tokens=40,
        eos_token_id=sorted(stops),
        pad_token_id=tokenizer.pad_token_id,
    )
    for i in range(3):
        ids = theirs[i, batch["input_ids"].shape[1] :].tolist()
        end = next((k for k, token in enumerate(ids) if token in stops), len(ids))
        assert (ours[i].text, ours[i].tokens) == (tokenizer.decode(ids[:end]), end)


def test_the_cache_grows_past_its_first_room(pair, model):
    """More tokens than the first buffers hold, and rows that leave before and after they grow."""
    rows = [limited(pair, 150), limited(pair, 10), limited(pair, 100)]
    ours = finished(generate(model, pair.instruct.tokenizer, rows, set(), stream=False))
    ids = torch.tensor([rows[0].ids])
    theirs = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=150, eos_token_id=-1
    )
    expected = theirs[0, ids.shape[1] :].tolist()
    for i in range(3):
        assert ours[i].text == pair.instruct.tokenizer.decode(expected[: rows[i].sampling.max_new_tokens])


def test_limits_and_finish(pair, model):
    last = finished(generate(model, pair.instruct.tokenizer, [limited(pair, n) for n in (1, 4, 7)], set()))
    assert [(last[i].tokens, last[i].finish) for i in range(3)] == [
        (1, "length"),
        (4, "length"),
        (7, "length"),
    ]


def test_groups_put_like_lengths_together_and_miss_none():
    rows = [Row((1,) * n) for n in (3, 9, 1, 9, 5)]
    assert group_rows(rows, 2) == [[1, 3], [4, 0], [2]]


def test_finished_rows_leave_the_batch(pair, model):
    watched = Watched(model)
    list(generate(watched, pair.instruct.tokenizer, [limited(pair, n) for n in (2, 2, 6)], set()))
    assert watched.widths == [3, 3, 1, 1, 1, 1]


# ---- streaming and cancelling


def test_stream_grows_to_the_last_chunk(pair, model):
    shown = ""
    for chunk in generate(model, pair.instruct.tokenizer, [row(pair, seed=3)], set()):
        now = chunk.trace + chunk.answer
        assert now.startswith(shown.rstrip()) or chunk.finish
        assert not now.endswith("\ufffd") or chunk.finish  # half a character waits for its other half
        shown = now


def test_without_a_stream_only_last_chunks_come(pair, model):
    chunks = list(
        generate(model, pair.instruct.tokenizer, [row(pair, seed=s) for s in (1, 2)], set(), stream=False)
    )
    assert sorted(chunk.row for chunk in chunks) == [0, 1] and all(chunk.finish for chunk in chunks)


def test_cancel_takes_effect_within_one_step(pair, model):
    watched = Watched(model)
    rows = [limited(pair, 200) for _ in range(2)]
    stream = generate(
        watched, pair.instruct.tokenizer, rows, set(), cancelled=lambda: len(watched.widths) >= 5
    )
    last = finished(stream)
    assert len(watched.widths) == 5
    assert all(chunk.finish == "cancel" and chunk.tokens == 5 and chunk.text for chunk in last.values())


def test_cancel_ends_rows_that_have_not_begun(pair, model):
    """Each row has one last chunk, those of later groups too; for them no step is made."""
    watched = Watched(model)
    rows = [limited(pair, 200) for _ in range(5)]
    stream = generate(
        watched, pair.instruct.tokenizer, rows, set(), batch=2, cancelled=lambda: len(watched.widths) >= 3
    )
    last = finished(stream)
    assert {chunk.finish for chunk in last.values()} == {"cancel"}
    assert sorted(chunk.tokens for chunk in last.values()) == [0, 0, 0, 3, 3]
    assert len(watched.widths) == 3


def test_a_generator_left_early_leaks_no_inference_mode(pair, model):
    stream = generate(model, pair.instruct.tokenizer, [row(pair)], set())
    next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()
    assert torch.ones(1, requires_grad=True).mul(2).requires_grad


def test_characters_of_several_tokens_are_never_shown_in_half(pair):
    tokenizer = pair.instruct.tokenizer
    text = "½ 你好 \U0001f914 <think>\nnaïve</think>\n\né"
    detokenizer = IncrementalDetokenizer(tokenizer, Row(()), 0)
    for token in tokenizer.encode(text):
        detokenizer.add(token)
        detokenizer.read()
        assert text.startswith(detokenizer.text)
    last = detokenizer.end("stop")
    assert last.text == text
    assert last.answer.endswith("é") and "naïve" in last.trace


def test_half_a_character_at_the_end_is_shown_as_what_it_is(pair):
    """A limit may cut a character in two; the text is still what the tokenizer makes of all tokens."""
    tokenizer = pair.instruct.tokenizer
    ids = tokenizer.encode("a½")[:-1]
    detokenizer = IncrementalDetokenizer(tokenizer, Row(()), 0)
    for token in ids:
        detokenizer.add(token)
        detokenizer.read()
    assert detokenizer.text == "a"
    assert detokenizer.end("length").text == tokenizer.decode(ids) == "a\ufffd"


def test_sampler_follows_the_filters():
    """Against probabilities worked out by hand: 0.5, 0.3, 0.15, 0.05."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = 2000

    def frequencies(**filters) -> list[float]:
        settings = [Sampling(temperature=1.0, **filters)] * draws
        tokens = Sampler(settings, list(range(draws)), [()] * draws, "cpu")(logits.expand(draws, -1))
        return (torch.bincount(tokens, minlength=4) / draws).tolist()

    assert frequencies() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.04)
    assert frequencies(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.04)
    assert frequencies(top_p=0.75) == pytest.approx([0.625, 0.375, 0, 0], abs=0.04)
    assert frequencies(top_p=0.81) == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], abs=0.04)
    assert frequencies(top_p=0.01) == [1, 0, 0, 0]


# ---- rows that are answered already


def test_done_rows_yield_nothing_and_their_groups_are_skipped(pair, model):
    watched = Watched(model)
    rows = [row(pair, "a" * n, seed=n) for n in (9, 8, 7, 6, 5, 4)]  # groups of two, in this order
    whole = decoded(model, pair, rows, batch=2)
    rest = decoded(watched, pair, rows, batch=2, done={0, 1, 2})
    assert rest == {i: whole[i] for i in (3, 4, 5)}
    assert watched.widths[0] == 2  # row 2 is decoded again: row 3 gets the same bits only beside it


def test_done_is_copied_so_the_reader_may_add_to_it(pair, model):
    """The loop keeps its own set of answered rows, which grows as chunks arrive."""
    rows = [limited(pair, n, seed=n) for n in (2, 4, 6, 8)]
    answered: set[int] = set()
    for chunk in generate(model, pair.instruct.tokenizer, rows, set(), stream=False, done=answered):
        answered.add(chunk.row)
    assert answered == {0, 1, 2, 3}


# ---- out of memory


def crowded(most: int, error: Exception):
    """Fails where more than `most` rows share a step, from the third step on: some have finished by then."""
    steps = 0

    def before(width: int) -> None:
        nonlocal steps
        steps += 1
        if width > most and steps > 2:
            raise error

    return before


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_batch_and_loses_nothing(pair, model, error):
    """Finished rows are not yielded twice, the others begin again, and no later group is tried as wide."""
    rows = [limited(pair, 1 if i == 0 else 6, seed=i) for i in range(20)]
    plain = decoded(model, pair, rows, batch=8)
    watched = Watched(model, crowded(3, error))
    assert decoded(watched, pair, rows, batch=8) == plain
    assert watched.widths[0] == 8 and watched.widths.count(8) == 1
    assert max(watched.widths[3:]) <= 4


def test_out_of_memory_in_a_live_blend_keeps_each_row_at_its_point(pair):
    """Compare decodes eleven points at once; the memory plan counts with three."""
    start = rounds.start(pair)
    rows = [limited(pair, 8, recipe=start.point(i / 10)) for i in range(11)]
    blend = Blend(pair)
    plain = texts(blend, pair, rows)
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.MonkeyPatch.context() as patch:
        watched = Watched(blend.model, crowded(3, error))
        patch.setattr(blend, "forward", watched.forward)
        assert texts(blend, pair, rows) == plain
    assert max(watched.widths[-8:]) <= 3 and len(set(plain)) > 2


def test_a_single_row_that_does_not_fit_is_refused_in_words(pair, model):
    def full(width: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match=r"single row of up to 4 new tokens does not fit.*think_tokens"):
        decoded(Watched(model, full), pair, [limited(pair, 4) for _ in range(4)])


def test_other_errors_are_not_taken_for_memory(pair, model):
    def broken(width: int) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        decoded(Watched(model, broken), pair, [limited(pair, 4) for _ in range(4)])


def test_memory_of_the_failed_step_is_free_before_the_next(pair, model):
    """The error holds on to the tensors of the step that failed; they are gone when the halves are tried."""
    alive: list[weakref.ref] = []
    seen = []

    class Holding(torch.nn.Module):
        config = model.config
        parameters = model.parameters

        def forward(self, **inputs):
            seen.append(sum(ref() is not None for ref in alive))
            cache = inputs["past_key_values"]
            alive.append(weakref.ref(cache))
            if len(inputs["input_ids"]) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return model(**inputs)

    decoded(Holding(), pair, [limited(pair, 1) for _ in range(2)])
    assert seen == [0, 0, 0]


# ---- a live blend, shared


def test_blend_rows_leave_with_their_recipes(pair):
    """Rows at different t finishing at different steps: those that stay keep their own point."""
    start = rounds.start(pair)
    blend = Blend(pair)
    rows = [limited(pair, n, recipe=start.point(t)) for n, t in ((3, 0.0), (20, 0.5), (6, 1.0), (20, 1.0))]
    plain = []
    for one in rows:
        materialised = materialise(pair, [], one.recipe)
        plain += texts(materialised, pair, [dataclasses.replace(one, recipe=None)])
    assert texts(blend, pair, rows) == plain


@pytest.fixture(scope="module")
def shared(pair):
    """(round 1 of the pair, a live blend, two batches: other prompts, recipes, lengths, sampling)"""
    start = rounds.start(pair)
    state = rounds.rebuild(pair, start, random_adapter(pair, 1), 0.8, "original", Schedule())
    one = [
        row(pair, "a" * n, dataclasses.replace(WILD, max_new_tokens=tokens), seed=n, recipe=state.point(t))
        for n, tokens, t in ((3, 9, 0.0), (12, 24, 0.4), (1, 17, 1.0))
    ]
    two = [
        row(pair, "What is it? " * n, Sampling(max_new_tokens=tokens), recipe=start.point(t))
        for n, tokens, t in ((2, 21, 0.8), (1, 5, 1.0))
    ]
    return state, Blend(pair, state.adapters), (one, two)


def test_two_batches_taking_turns_on_one_blend_equal_each_alone(pair, shared):
    """Chunk by chunk, alternately, as two visitors of the page: neither sees the rows of the other."""
    _, blend, batches = shared

    def start(rows):
        return generate(blend, pair.instruct.tokenizer, rows, pair.instruct.stop_token_ids)

    alone = [finished(start(rows)) for rows in batches]
    streams = {i: start(rows) for i, rows in enumerate(batches)}
    came: tuple[list, list] = ([], [])
    turns = []
    while streams:
        for i, chunks in list(streams.items()):
            chunk = next(chunks, None)
            if chunk is None:
                del streams[i]
            else:
                came[i].append(chunk)
                turns.append(i)
    assert turns[:8] == [0, 1] * 4  # they did take turns
    assert [finished(chunks) for chunks in came] == alone
    assert len({chunk.text for last in alone for chunk in last.values()}) == 5


def test_a_batch_that_lends_the_model_between_two_steps_goes_on_as_if_alone(pair, shared):
    """`between_steps` may let a whole other batch through; then the own placement is put back."""
    _, blend, (one, two) = shared
    alone = [decoded(blend, pair, rows) for rows in (one, two)]
    lent = []

    def lend() -> None:
        lent.append(decoded(blend, pair, two))

    assert decoded(blend, pair, one, between_steps=lend) == alone[0]
    assert len(lent) > 10 and all(last == alone[1] for last in lent)


def test_who_leaves_while_the_model_is_lent_costs_no_further_step(pair, model):
    """`cancelled` is asked after `between_steps`, which may have taken a while."""
    watched, calls = Watched(model), []
    stream = generate(
        watched,
        pair.instruct.tokenizer,
        [limited(pair, 200)],
        set(),
        cancelled=lambda: len(calls) == 3,
        between_steps=lambda: calls.append(1),
    )
    assert finished(stream)[0].finish == "cancel"
    assert watched.widths == [1, 1]


def test_an_adapter_added_in_the_middle_of_a_decode_changes_nothing_for_it(pair, shared):
    """Somebody opens another run's round in Compare while an answer is being written."""
    state, _, (one, _) = shared
    blend = Blend(pair, state.adapters)

    def start():
        return generate(blend, pair.instruct.tokenizer, one, pair.instruct.stop_token_ids)

    alone = finished(start())
    chunks = start()
    before = [next(chunks) for _ in range(4)]
    added = blend.add(random_adapter(pair, 7))
    assert added == 1 and not finished(before)
    assert finished([*before, *chunks]) == alone == finished(start())
    # the new one does count where it is asked for
    moved = [dataclasses.replace(r, recipe=recipe.remap_adapters(r.recipe, [added])) for r in one]
    assert decoded(blend, pair, moved) != alone
