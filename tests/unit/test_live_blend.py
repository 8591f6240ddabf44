"""The live model equals the weights it stands for."""

import pytest
import torch

from conftest import random_adapter
from thinkswitch import recipe, rounds
from thinkswitch.errors import UserError
from thinkswitch.generate import Row, Sampling, generate
from thinkswitch.recipe import Schedule
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

TS = (0.0, 0.3, 0.55, 0.8, 1.0)
SHAPES = [("qwen3", True), ("qwen3", False), ("qwen2", True), ("llama", False)]


@pytest.fixture(scope="module", params=SHAPES, ids=lambda s: f"{s[0]}-{'tied' if s[1] else 'untied'}")
def setting(request, folders):
    """(pair, round with two adapters, live blend)"""
    pair = open_pair(*folders(*request.param))
    state = rounds.start(pair)
    for seed in (1, 2):
        state = rounds.rebuild(pair, state, random_adapter(pair, seed), 0.8, "original", Schedule())
    return pair, state, Blend(pair, state.adapters)


def padded(lengths, vocabulary, seed=0):
    """Random prompts of several lengths, padded left: (ids, mask, positions)."""
    g = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    for i, n in enumerate(lengths):
        ids[i, width - n:], mask[i, width - n:] = torch.randint(5, vocabulary, (n,), generator=g), 1
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def relative(a, b):
    return float((a - b).norm() / b.norm())


@torch.inference_mode()
def test_logits_equal_materialised_weights_with_every_row_elsewhere(setting):
    """Five values of t, five prompt lengths, two adapters, one batch: each row is its own checkpoint."""
    pair, state, blend = setting
    ids, mask, position = padded([9, 4, 12, 7, 9], pair.config.vocab_size)
    points = [state.point(t) for t in TS]
    blend.place(points)
    together = blend(input_ids=ids, attention_mask=mask, position_ids=position).logits
    for row, point in enumerate(points):
        alone = materialise(pair, state.adapters, point)(input_ids=ids[row][mask[row] == 1][None]).logits[0]
        assert relative(together[row][mask[row] == 1], alone) <= 1e-5, TS[row]
        other = materialise(pair, state.adapters, points[(row + 2) % 5])(input_ids=ids[row][mask[row] == 1][None]).logits[0]
        assert relative(together[row][mask[row] == 1], other) > 1e-2  # the check can fail


def test_greedy_tokens_equal_generate_at_every_t(setting):
    pair, state, blend = setting
    ids, mask, _ = padded([9, 4, 12, 7, 9], pair.config.vocab_size)
    rows = [Row(tuple(ids[i][mask[i] == 1].tolist()), Sampling(max_new_tokens=20), recipe=state.point(t)) for i, t in enumerate(TS)]
    texts = {c.row: c.text for c in generate(blend, pair.instruct.tokenizer, rows, set(), stream=False)}
    for i, row in enumerate(rows):
        model = materialise(pair, state.adapters, row.recipe)
        model.generation_config.eos_token_id = None
        out = model.generate(input_ids=torch.tensor([row.ids]), attention_mask=torch.ones(1, len(row.ids), dtype=torch.long),
                             max_new_tokens=20, do_sample=False)
        assert texts[i] == pair.instruct.tokenizer.decode(out[0, len(row.ids):])


@torch.inference_mode()
def test_rows_that_stay_are_unchanged(setting):
    pair, state, blend = setting
    ids, mask, position = padded([6] * 5, pair.config.vocab_size)
    placement = blend.place([state.point(t) for t in TS])
    full = blend(input_ids=ids).logits
    rows = torch.tensor([1, 4])
    blend.put(placement[rows])
    assert relative(blend(input_ids=ids[rows]).logits, full[rows]) <= 1e-6


@torch.inference_mode()
@pytest.mark.parametrize("order", [(0.0, 1.0, 0.5), (1.0, 0.0, 1.0), (0.0, 0.0), (1.0,)])
def test_any_order_of_sides_gives_the_same_rows(setting, order):
    """A side is skipped for rows that do not need it; where those rows stand must not matter."""
    pair, state, blend = setting
    ids, _, _ = padded([6] * len(order), pair.config.vocab_size)
    base = rounds.start(pair)
    blend.place([base.point(t) for t in order])  # no adapters: both sides can be idle
    together = blend(input_ids=ids).logits
    for i, t in enumerate(order):
        assert relative(together[i], materialise(pair, [], base.point(t))(input_ids=ids[i:i + 1]).logits[0]) <= 1e-5


@torch.inference_mode()
def test_four_bit_blend_is_the_blend_of_the_four_bit_sides(folders):
    """NF4 on a CPU: at the ends it equals the quantised parents; adapters and norms stay exact."""
    pair = open_pair(*folders("qwen3"))
    state = rounds.start(pair)
    blend = Blend(pair, four_bit=True)
    ids, _, _ = padded([8, 8], pair.config.vocab_size)
    blend.place([state.instruct, state.thinking])
    both = blend(input_ids=ids).logits
    for row, point in enumerate((state.instruct, state.thinking)):
        quantised = materialise(pair, [], point, four_bit=True)(input_ids=ids[row:row + 1]).logits[0]
        exact = materialise(pair, [], point)(input_ids=ids[row:row + 1]).logits[0]
        assert relative(both[row], quantised) <= 1e-5
        assert 1e-3 < relative(both[row], exact) < 1  # NF4 is coarse, the more so in a random network


def test_a_tensor_the_blend_does_not_know_is_refused(folders, monkeypatch):
    pair = open_pair(*folders("qwen3"))
    odd = dict(pair.instruct.entries)
    odd["model.layers.0.router.weight"] = next(iter(odd.values()))
    monkeypatch.setattr(type(pair), "names", property(lambda self: sorted(odd)))
    with pytest.raises(UserError, match="router"):
        Blend(pair)


@torch.inference_mode()
def test_an_adapter_added_later_is_as_one_that_was_there_from_the_start(setting):
    pair, state, blend = setting
    later = Blend(pair)
    assert [later.add(adapter) for adapter in state.adapters] == [0, 1]
    ids, mask, position = padded([9, 4, 12, 7, 9], pair.config.vocab_size)
    logits = []
    for model in (blend, later):
        model.place([state.point(t) for t in TS])
        logits.append(model(input_ids=ids, attention_mask=mask, position_ids=position).logits)
    assert torch.equal(*logits)


@torch.inference_mode()
def test_one_blend_serves_runs_that_know_nothing_of_each_other(setting):
    """Run a's second round came after run b's first: their adapters stand at 0, 2 and 1. One batch holds points of both."""
    pair, a, _ = setting
    b = rounds.rebuild(pair, rounds.start(pair), random_adapter(pair, 3), 0.6, "previous", Schedule(mlp=0.5))
    shared, places = Blend(pair, [a.adapters[0], b.adapters[0], a.adapters[1]]), {"a": [0, 2], "b": [1]}
    ids, _, _ = padded([7] * 4, pair.config.vocab_size)
    batch = [("a", a, 0.3), ("b", b, 0.0), ("a", a, 1.0), ("b", b, 0.7)]
    shared.place([recipe.remap_adapters(run.point(t), places[name]) for name, run, t in batch])
    together = shared(input_ids=ids).logits
    shared.place([run.point(t) for _, run, t in batch])
    unmoved = shared(input_ids=ids).logits
    for row, (_, run, t) in enumerate(batch):
        own = Blend(pair, run.adapters)
        own.place([run.point(t)])
        alone = own(input_ids=ids[row:row + 1]).logits[0]
        assert relative(together[row], alone) <= 1e-5
        assert relative(unmoved[row], alone) > 1e-3  # the check can fail


@torch.inference_mode()
def test_a_placement_can_be_put_back_after_another_batch_had_the_model(setting):
    """Other rows, other sides in use, a wider basis: coming back gives the same bits."""
    pair, state, _ = setting
    blend = Blend(pair, state.adapters)
    ids, _, _ = padded([6] * 3, pair.config.vocab_size)
    mine = blend.place([state.point(t) for t in (0.0, 0.5, 1.0)])
    before = blend(input_ids=ids).logits
    blend.add(random_adapter(pair, 5))
    for others in ([recipe.uniform_recipe(pair.names, (0.5, 0.5, 0.0, 0.0, 1.0))] * 3, [rounds.start(pair).thinking]):
        blend.place(others)
        assert relative(blend(input_ids=ids[:len(others)]).logits, before[:len(others)]) > 1e-2
        assert blend.put(mine) is mine
        assert torch.equal(blend(input_ids=ids).logits, before)


def test_progress_counts_up_to_the_total(folders):
    told = []
    Blend(open_pair(*folders("qwen3")), progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == list(range(1, len(told) + 1)) and {total for _, total in told} == {len(told)} and len(told) > 20
