"""The live model equals the weights it stands for."""

import pytest
import torch
import torch.nn.functional as F

from conftest import random_adapter
from thinkswitch import recipe, rounds
from thinkswitch.errors import UserError
from thinkswitch.generate import Row, generate
from thinkswitch.recipe import Schedule
from thinkswitch.sampler import Sampling
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

TS = (0.0, 0.3, 0.55, 0.8, 1.0)
LENGTHS = [9, 4, 12, 7, 9]  # of the prompts that go with them
SHAPES = [
    *(("qwen3", True), ("qwen3", False), ("qwen2", True), ("llama", False), ("mistral", False)),
    *(("gemma2", True), ("lfm2", False)),  # layers of their own; test_families.py has all families
]


@pytest.fixture(scope="module", params=SHAPES, ids=lambda s: f"{s[0]}-{'tied' if s[1] else 'untied'}")
def setting(request, folders):
    """(pair, round with two adapters, live blend of both)."""
    pair = open_pair(*folders(*request.param))
    state = rounds.start(pair)
    for seed in (1, 2):
        state = rounds.rebuild(pair, state, random_adapter(pair, seed), 0.8, "original", Schedule())
    return pair, state, Blend(pair, state.adapters)


def random_prompts(pair, lengths: list[int]) -> list[torch.Tensor]:
    """Token ids of random prompts, (1, length) each."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, pair.config.vocab_size, (1, n), generator=generator) for n in lengths]


def pad_left(prompts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Prompts of several lengths as the model's arguments for one batch."""
    width = max(ids.shape[1] for ids in prompts)
    ids = torch.cat([F.pad(ids, (width - ids.shape[1], 0)) for ids in prompts])
    mask = torch.cat([F.pad(torch.ones_like(ids), (width - ids.shape[1], 0)) for ids in prompts])
    return dict(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))


def equal_prompts(pair, rows: int, length: int = 6) -> torch.Tensor:
    """(rows, length): nothing is padded."""
    return torch.cat(random_prompts(pair, [length] * rows))


def logits_at(pair, adapters, point, ids: torch.Tensor) -> torch.Tensor:
    """(length, vocabulary) of a plain model with the materialised weights of a point."""
    return materialise(pair, adapters, point)(input_ids=ids).logits[0]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@torch.inference_mode()
def test_logits_equal_materialised_weights_with_every_row_elsewhere(setting):
    """Five values of t, five prompt lengths, two adapters, one batch: each row is its own checkpoint."""
    pair, state, blend = setting
    prompts = random_prompts(pair, LENGTHS)
    points = [state.point(t) for t in TS]
    blend.place(points)
    together = blend(**pad_left(prompts)).logits
    for row, (ids, point) in enumerate(zip(prompts, points, strict=True)):
        ours = together[row, -ids.shape[1] :]
        assert relative(ours, logits_at(pair, state.adapters, point, ids)) <= 1e-5, TS[row]
        elsewhere = points[(row + 2) % 5]
        assert relative(ours, logits_at(pair, state.adapters, elsewhere, ids)) > 1e-2  # the check can fail


def test_greedy_tokens_equal_generate_at_every_t(setting):
    pair, state, blend = setting
    tokenizer = pair.instruct.tokenizer
    prompts = random_prompts(pair, LENGTHS)
    rows = [
        Row(tuple(ids[0].tolist()), Sampling(max_new_tokens=20), recipe=state.point(t))
        for ids, t in zip(prompts, TS, strict=True)
    ]
    texts = {c.row: c.text for c in generate(blend, tokenizer, rows, set(), stream=False)}
    for i, (row, ids) in enumerate(zip(rows, prompts, strict=True)):
        model = materialise(pair, state.adapters, row.recipe)
        model.generation_config.eos_token_id = None
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
        )
        assert texts[i] == tokenizer.decode(out[0, len(row.ids) :])


@torch.inference_mode()
def test_rows_that_stay_are_unchanged(setting):
    pair, state, blend = setting
    ids = equal_prompts(pair, 5)
    placement = blend.place([state.point(t) for t in TS])
    full = blend(input_ids=ids).logits
    rows = torch.tensor([1, 4])
    blend.put(placement[rows])
    assert relative(blend(input_ids=ids[rows]).logits, full[rows]) <= 1e-6


@torch.inference_mode()
@pytest.mark.parametrize("order", [(0.0, 1.0, 0.5), (1.0, 0.0, 1.0), (0.0, 0.0), (1.0,)])
def test_any_order_of_sides_gives_the_same_rows(setting, order):
    """A side is skipped for rows that do not need it; where those rows stand must not matter."""
    pair, _, blend = setting
    ids = equal_prompts(pair, len(order))
    base = rounds.start(pair)
    blend.place([base.point(t) for t in order])  # no adapters: both sides can be idle
    together = blend(input_ids=ids).logits
    for i, t in enumerate(order):
        assert relative(together[i], logits_at(pair, [], base.point(t), ids[i : i + 1])) <= 1e-5


@torch.inference_mode()
def test_four_bit_blend_is_the_blend_of_the_four_bit_sides(folders):
    """NF4 on a CPU: at the ends it equals the quantised parents; adapters and norms stay exact."""
    pair = open_pair(*folders("qwen3"))
    state = rounds.start(pair)
    blend = Blend(pair, four_bit=True)
    ids = equal_prompts(pair, 2, length=8)
    blend.place([state.instruct, state.thinking])
    both = blend(input_ids=ids).logits
    for row, point in enumerate((state.instruct, state.thinking)):
        own = ids[row : row + 1]
        quantised = materialise(pair, [], point, four_bit=True)(input_ids=own).logits[0]
        assert relative(both[row], quantised) <= 1e-5
        error = relative(both[row], logits_at(pair, [], point, own))
        assert 1e-3 < error < 1  # NF4 is coarse, the more so in a random network


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
    batch = pad_left(random_prompts(pair, LENGTHS))
    logits = []
    for model in (blend, later):
        model.place([state.point(t) for t in TS])
        logits.append(model(**batch).logits)
    assert torch.equal(*logits)


@torch.inference_mode()
def test_one_blend_serves_runs_that_know_nothing_of_each_other(setting):
    """Run a's second round came after run b's first, so their adapters are in slots 0, 2 and 1.

    One batch holds points of both.
    """
    pair, a, _ = setting
    b = rounds.rebuild(pair, rounds.start(pair), random_adapter(pair, 3), 0.6, "previous", Schedule(mlp=0.5))
    shared = Blend(pair, [a.adapters[0], b.adapters[0], a.adapters[1]])
    ids = equal_prompts(pair, 4)
    batch = [(a, [0, 2], 0.3), (b, [1], 0.0), (a, [0, 2], 1.0), (b, [1], 0.7)]
    shared.place([recipe.remap_adapters(run.point(t), slots) for run, slots, t in batch])
    together = shared(input_ids=ids).logits
    shared.place([run.point(t) for run, _, t in batch])
    unmoved = shared(input_ids=ids).logits
    for row, (run, _, t) in enumerate(batch):
        own = Blend(pair, run.adapters)
        own.place([run.point(t)])
        alone = own(input_ids=ids[row : row + 1]).logits[0]
        assert relative(together[row], alone) <= 1e-5
        assert relative(unmoved[row], alone) > 1e-3  # the check can fail


@torch.inference_mode()
def test_a_placement_can_be_put_back_after_another_batch_had_the_model(setting):
    """Other rows, other sides in use, a wider basis: coming back gives the same bits."""
    pair, state, _ = setting
    blend = Blend(pair, state.adapters)
    ids = equal_prompts(pair, 3)
    mine = blend.place([state.point(t) for t in (0.0, 0.5, 1.0)])
    before = blend(input_ids=ids).logits
    blend.add(random_adapter(pair, 5))
    for others in (
        [recipe.uniform_recipe(pair.names, (0.5, 0.5, 0.0, 0.0, 1.0))] * 3,
        [rounds.start(pair).thinking],
    ):
        blend.place(others)
        assert relative(blend(input_ids=ids[: len(others)]).logits, before[: len(others)]) > 1e-2
        assert blend.put(mine) is mine
        assert torch.equal(blend(input_ids=ids).logits, before)


# ---- adapters come and go


@torch.inference_mode()
def test_fifty_adapters_come_and_go_and_leave_the_blend_as_it_was(setting):
    """A long-lived demo kept the adapters of every round that anybody ever looked at, 132 MB each at 4 B."""
    pair, state, _ = setting
    blend = Blend(pair, state.adapters)
    ids = equal_prompts(pair, 3)
    points = [state.point(t) for t in (0.0, 0.5, 1.0)]
    blend.place(points)
    before, held, sides = blend(input_ids=ids).logits, blend.nbytes, blend.sides
    for seed in range(50):
        without = blend.nbytes
        slot = blend.add(random_adapter(pair, seed))
        assert blend.nbytes > without
        blend.place([recipe.uniform_recipe(pair.names, (0.5, 0.5, 0.0, 1.0, 1.0))])  # it is truly used
        blend(input_ids=ids[:1])
        blend.remove(slot)
        assert slot == 2
    blend.place(points)
    assert torch.equal(blend(input_ids=ids).logits, before)
    assert (blend.nbytes, blend.sides) == (held, sides)


@torch.inference_mode()
def test_a_free_slot_serves_the_next_adapter(folders):
    """Others keep their slots, so that recipes made before stay what they were."""
    pair = open_pair(*folders("qwen3"))
    one, two, three, four = (random_adapter(pair, seed) for seed in range(4))
    blend = Blend(pair, [one, two, three])
    blend.remove(1)
    blend.place([recipe.uniform_recipe(pair.names, (1.0, 0.0, 0.5, 0.0, 0.7))])
    ids = equal_prompts(pair, 1)
    kept = blend(input_ids=ids).logits
    assert blend.add(four) == 1
    for adapters in ([one, two, three], [one, four, three]):
        expected = Blend(pair, adapters)
        expected.place([recipe.uniform_recipe(pair.names, (1.0, 0.0, 0.5, 0.0, 0.7))])
        assert torch.equal(kept, expected(input_ids=ids).logits)
    blend.place([recipe.uniform_recipe(pair.names, (1.0, 0.0, 0.5, 0.3, 0.7))])
    expected.place([recipe.uniform_recipe(pair.names, (1.0, 0.0, 0.5, 0.3, 0.7))])
    assert torch.equal(blend(input_ids=ids).logits, expected(input_ids=ids).logits)


def test_what_was_placed_with_an_adapter_cannot_be_put_back_without_it(folders):
    """A decode that goes on after its adapter was removed must not go on with other weights in silence."""
    pair = open_pair(*folders("qwen3"))
    blend = Blend(pair, [random_adapter(pair, seed) for seed in range(2)])
    mine = blend.place([recipe.uniform_recipe(pair.names, (1.0, 0.0, 1.0, 0.0))])
    other = blend.place([recipe.uniform_recipe(pair.names, (1.0, 0.0, 0.0, 1.0))])
    blend.remove(0)
    with pytest.raises(RuntimeError, match="no recipes are placed"):
        blend(input_ids=torch.tensor([[1]]))
    with pytest.raises(ValueError, match="the adapter in slot 0, which these rows use, was removed"):
        blend.put(mine)
    assert blend.put(other) is other
    blend.remove(1)
    with pytest.raises(ValueError, match="more coefficients than this blend has sides"):
        blend.place([recipe.uniform_recipe(pair.names, (1.0, 0.0, 0.0, 1.0))])


@pytest.mark.parametrize("four_bit", [False, True])
def test_what_a_blend_holds_is_counted_whole(folders, four_bit):
    """The page said 7.1 MB of a blend that held 13.8: stacked copies, scales and adapters were left out."""
    pair = open_pair(*folders("qwen2", False))
    blend = Blend(pair, four_bit=four_bit)
    weights = sum(parameter.nbytes for parameter in blend.parameters())
    copies = [layer.stacked for layer in blend.modules() if getattr(layer, "stacked", None) is not None]
    assert copies and bool(copies[1:]) is not four_bit  # of NF4 layers there are none, the head is none
    assert blend.nbytes >= weights + sum(copy.nbytes for copy in copies)
    adapter = random_adapter(pair, 1)
    held = blend.nbytes
    blend.add(adapter)
    assert blend.nbytes - held == sum(x.nbytes for low_rank in adapter.low_rank.values() for x in low_rank)


def test_a_tied_head_is_counted_once(folders):
    tied, untied = (Blend(open_pair(*folders("qwen3", is_tied))) for is_tied in (True, False))
    table = next(p for name, p in untied.named_parameters() if "embed_tokens" in name)
    assert untied.nbytes - tied.nbytes == 2 * table.nbytes


def test_progress_counts_up_to_the_total(folders):
    calls = []
    Blend(open_pair(*folders("qwen3")), progress=lambda done, total: calls.append((done, total)))
    assert len(calls) > 20
    assert calls == [(done, len(calls)) for done in range(1, len(calls) + 1)]
