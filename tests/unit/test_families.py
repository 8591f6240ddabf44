"""Every family that is listed is exact; the tests in this file show where a new one is not."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, DynamicCache, Lfm2Config, Qwen3MoeConfig

from conftest import FAMILIES as TESTED
from conftest import ONE_SHAPE_EACH
from thinkswitch.distil import Example, answer_loss, train_adapter
from thinkswitch.errors import UserError
from thinkswitch.generate import Row, generate
from thinkswitch.memory_plan import is_linear, weight_bytes
from thinkswitch.preset import Preset
from thinkswitch.recipe import instruct_point
from thinkswitch.rounds import start
from thinkswitch.sampler import Sampling
from thinkswitch.weights import families
from thinkswitch.weights.adapter import load_adapter
from thinkswitch.weights.families import FAMILIES, SUPPORTED, epsilon, layer_kind, require_supported
from thinkswitch.weights.kv_cache import cache_bytes
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair, config_differences, open_pair
from unit.export_helpers import IDS, after_rounds, export, load_strictly, relative_error

TS = (0.0, 0.4, 1.0)


@pytest.fixture(scope="module", params=SUPPORTED)
def model(request, folders):
    pair = open_pair(*folders(request.param))
    return materialise(pair, [], start(pair).instruct)


@pytest.fixture(
    scope="module",
    params=[(family, tied) for family in SUPPORTED for tied in (True, False)],
    ids=lambda s: f"{s[0]}-{'tied' if s[1] else 'untied'}",
)
def setting(request, folders):
    """(pair, a round with an adapter, the live blend, at each of TS the point as a plain model)."""
    pair = open_pair(*folders(*request.param))
    state = after_rounds(pair, 1)
    plain = [materialise(pair, state.adapters, state.point(t)) for t in TS]
    return pair, state, Blend(pair, state.adapters), plain


def rows_of(pair, state, lengths: list[int], tokens: int) -> list[Row]:
    """A row of random prompt at each of TS."""
    g = torch.Generator().manual_seed(0)
    prompts = [tuple(torch.randint(5, 250, (n,), generator=g).tolist()) for n in lengths]
    return [
        Row(ids, Sampling(max_new_tokens=tokens), recipe=state.point(t))
        for ids, t in zip(prompts, TS, strict=True)
    ]


def generate_in_transformers(model, ids: tuple[int, ...], tokens: int) -> torch.Tensor:
    """The greedy tokens of transformers' own loop."""
    model.generation_config.eos_token_id = None
    prompt = torch.tensor([ids])
    out = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False
    )
    return out[0, len(ids) :]


def test_every_listed_family_is_tested():
    assert set(TESTED) == set(SUPPORTED)


# ---- exact, tied and untied


@torch.inference_mode()
def test_the_blend_is_the_materialised_point(setting):
    """Three points and three lengths in one left-padded batch."""
    pair, state, blend, plain = setting
    rows = rows_of(pair, state, [24, 9, 17], 1)
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[0] * (width - len(row.ids)) + list(row.ids) for row in rows])
    mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in rows])
    blend.place([row.recipe for row in rows])
    together = blend(
        input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
    ).logits
    for i, row in enumerate(rows):
        ours = together[i, -len(row.ids) :]
        alone = [model(input_ids=torch.tensor([row.ids])).logits[0] for model in plain]
        errors = [relative_error(ours, logits) for logits in alone]
        assert errors[i] <= 1e-5
        assert all(error > 1e-2 for j, error in enumerate(errors) if j != i)  # the check can fail


def test_decoding_is_that_of_transformers(setting):
    """Cached and padded, beyond the length of a sliding window, rows leaving at different steps."""
    pair, state, blend, plain = setting
    tokenizer = pair.instruct.tokenizer
    rows = rows_of(pair, state, [24, 5, 12], 24)
    theirs = [generate_in_transformers(model, row.ids, 24) for model, row in zip(plain, rows, strict=True)]
    stop = int(theirs[1][10])
    texts = {c.row: c.text for c in generate(blend, tokenizer, rows, {stop}, stream=False)}
    for i, tokens in enumerate(theirs):
        ended = tokens.tolist().index(stop) if stop in tokens else None
        assert texts[i] == tokenizer.decode(tokens[:ended])


@pytest.mark.parametrize("family, tied", ONE_SHAPE_EACH)
def test_a_plain_model_decodes_like_transformers_too(folders, family, tied):
    """The loop decodes with plain models. Rows leave one by one, padded on the left."""
    pair = open_pair(*folders(family, tied))
    model = materialise(pair, [], start(pair).thinking)
    rows = [
        replace(row, sampling=Sampling(max_new_tokens=8 + i), recipe=None)
        for i, row in enumerate(rows_of(pair, start(pair), [12, 5, 17], 0))
    ]
    texts = {c.row: c.text for c in generate(model, pair.instruct.tokenizer, rows, set(), stream=False)}
    for i, row in enumerate(rows):
        theirs = generate_in_transformers(model, row.ids, row.sampling.max_new_tokens)
        assert texts[i] == pair.instruct.tokenizer.decode(theirs)


def test_the_loss_is_the_model_s_own(setting):
    *_, plain = setting
    model = plain[0]
    examples = [Example(tuple(range(9, 12 + i)), tuple(range(40, 45 + i))) for i in range(3)]
    ours = answer_loss(model, examples, "cpu").item()
    theirs = 0.0
    for example in examples:
        ids = torch.tensor([[*example.prompt, *example.answer]])
        labels = ids.clone()
        labels[:, : len(example.prompt)] = -100
        theirs += model(input_ids=ids, labels=labels).loss.item() * len(example.answer)
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("family, tied", ONE_SHAPE_EACH)
def test_a_trained_adapter_does_in_the_blend_what_it_does_in_peft(folders, tmp_path, family, tied):
    """Every linear layer of the family is trained, and found again by its name."""
    pair = open_pair(*folders(family, tied))
    trained = materialise(pair, [], start(pair).instruct)
    settings = Preset(epochs=1, batch=2, learning_rate=3e-2, lora_rank=2, lora_alpha=4)
    examples = [Example(tuple(range(9, 12 + i)), tuple(range(40, 45 + i))) for i in range(4)]
    list(train_adapter(trained, examples, settings, 0, tmp_path))  # leaves the adapter on the model
    adapter = load_adapter(tmp_path / "adapter")
    linear = {name for name, info in pair.instruct.entries.items() if is_linear(name, info.shape)}
    assert adapter.low_rank.keys() == linear
    blend = Blend(pair, [adapter])
    blend.place([instruct_point(pair.names, 1)])
    with torch.inference_mode():
        error = relative_error(blend(input_ids=IDS).logits, trained.eval()(input_ids=IDS).logits)
    assert error < 1e-5


@torch.inference_mode()
def test_an_export_reloads_with_equal_logits_and_is_verified(setting, tmp_path):
    pair, state, blend, plain = setting
    done = export(pair, state, TS[1], tmp_path / "out", blend=blend)
    assert done.error < 1e-5 and done.same_tokens == 1
    again = load_strictly(tmp_path / "out")
    assert relative_error(again(input_ids=IDS).logits, plain[1](input_ids=IDS).logits) < 1e-5


def test_the_plan_has_the_weights_and_the_cache_that_there_are(setting):
    pair, _, _, plain = setting
    model = plain[0]
    held = {p.data_ptr(): p.nbytes for p in model.parameters()}
    assert weight_bytes(pair, 4, four_bit=False) == pytest.approx(sum(held.values()), rel=0.03)
    cache = DynamicCache(config=model.config)
    ids = torch.arange(5, 45)[None]
    model(input_ids=ids, past_key_values=cache, use_cache=True)
    kept = sum(tensor.nbytes for tensor in cache_tensors(cache))
    assert cache_bytes(model.config, 4, 40) == pytest.approx(kept, rel=0.03)


def test_the_plan_has_the_weights_in_four_bits(model, folders):
    pair = open_pair(*folders(model.config.model_type))
    quantised = materialise(pair, [], start(pair).instruct, four_bit=True)
    states = [s for p in quantised.parameters() if (s := getattr(p, "quant_state", None))]
    held = {p.data_ptr(): p.nbytes for p in quantised.parameters()}
    scales = sum(s.absmax.nbytes + s.state2.absmax.nbytes for s in states)
    assert weight_bytes(pair, 4, four_bit=True) == pytest.approx(sum(held.values()) + scales, rel=0.03)


def cache_tensors(cache: DynamicCache) -> list[torch.Tensor]:
    """Keys and values; the last inputs of a convolution."""
    held = []
    for layer in cache.layers:
        held += layer.conv_states.values() if hasattr(layer, "conv_states") else [layer.keys, layer.values]
    return held


# ---- module by module


def test_every_module_with_weights_is_of_a_known_kind(model):
    kinds = {name: layer_kind(module, model.config) for name, module in model.named_modules()}
    holders = {name.rpartition(".")[0] for name, _ in model.named_parameters(remove_duplicate=False)}
    assert {name for name, kind in kinds.items() if kind} == holders
    assert {kinds[name] for name in holders} == {"linear", "embedding", "norm"} | (
        {"convolution"} if model.config.model_type == "lfm2" else set()
    )


def test_norms_multiply_a_gain_by_the_normalised_input(model):
    """The blend computes them itself. Gemma's gain is 1 + weight, for example."""
    offset = FAMILIES[model.config.model_type].gain_offset
    norms = [m for m in model.modules() if layer_kind(m, model.config) == "norm"]
    assert len(norms) >= 2 * model.config.num_hidden_layers + 1
    for norm in norms:
        x = torch.randn(3, norm.weight.numel(), generator=torch.Generator().manual_seed(0))
        root = (x.square().mean(-1, keepdim=True) + epsilon(norm)).sqrt()
        assert torch.allclose(norm(x), (offset + norm.weight) * x / root, rtol=1e-5, atol=1e-6)


def test_keys_that_must_agree_are_in_a_config(folders):
    """A misspelt key would be None on both sides and never differ."""
    known = set()
    for family in SUPPORTED:
        known |= AutoConfig.from_pretrained(folders(family)[0]).to_dict().keys()
    assert set(families.CONFIG_KEYS_THAT_MUST_AGREE) <= known


@pytest.mark.parametrize(
    "family, key, value",
    [
        ("phi3", "original_max_position_embeddings", 128),
        ("phi3", "max_position_embeddings", 1024),
        ("phi3", "rope_parameters", {"rope_type": "default", "rope_theta": 1e4}),
        ("smollm3", "no_rope_layers", [0, 1]),
        ("granite", "embedding_multiplier", 1.0),
        ("granite", "attention_multiplier", 1.0),
        ("granite", "residual_multiplier", 1.0),
        ("granite", "logits_scaling", 1.0),
        ("gemma2", "query_pre_attn_scalar", 32),
        ("gemma2", "attn_logit_softcapping", None),
        ("gemma2", "final_logit_softcapping", None),
        ("gemma3_text", "hidden_activation", "silu"),
        ("gemma3_text", "use_bidirectional_attention", True),
        ("lfm2", "norm_eps", 1e-6),
    ],
)
def test_what_changes_the_function_but_no_shape_must_agree(folders, family, key, value):
    pair = open_pair(*folders(family))
    other = deepcopy(pair.config)
    setattr(other, key, value)
    [found] = config_differences(Pair(pair.instruct, replace(pair.thinking, config=other)))
    assert found.startswith(f"{key} differs")


def test_other_families_are_refused():
    known = r"known are exaone4, .*, smollm3, and the text models in mistral3 and qwen3_vl$"
    with pytest.raises(UserError, match="^mine is a gpt2 model; " + known):
        require_supported("mine", AutoConfig.for_model("gpt2"))
    with pytest.raises(UserError, match=r"^mine is a qwen3_moe model, and mixture-of-experts layers are not"):
        require_supported("mine", Qwen3MoeConfig(num_experts=4))
    with pytest.raises(UserError, match=r"^mine has convolutions with a bias"):
        require_supported("mine", Lfm2Config(conv_bias=True))
