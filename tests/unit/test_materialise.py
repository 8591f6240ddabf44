"""Recipe -> plain model: at the ends it is the parent, and it reloads strictly."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import random_adapter, save_pair
from thinkswitch import recipe, rounds
from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair


@pytest.mark.parametrize("family, tied", [("qwen3", True), ("qwen2", False), ("llama", True)])
@torch.inference_mode()
def test_ends_are_the_parents_bit_for_bit(folders, family, tied):
    pair = open_pair(*folders(family, tied))
    ids = torch.arange(5, 25)[None]
    for folder, point in zip(folders(family, tied), (recipe.INSTRUCT, recipe.THINKING)):
        ours = materialise(pair, [], recipe.uniform_recipe(pair.names, point))
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)


@torch.inference_mode()
def test_saved_and_reloaded_strictly(folders, tmp_path):
    pair = open_pair(*folders("qwen3"))
    state = rounds.rebuild(pair, rounds.start(pair), random_adapter(pair, 1), 0.8, "original", Schedule())
    model = materialise(pair, state.adapters, state.thinking)
    model.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    ids = torch.arange(5, 25)[None]
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


def test_rounding_happens_once(folders):
    """bf16 is the rounding of the fp32 sum, not a sum of rounded parts."""
    pair = open_pair(*folders("qwen3"))
    point = rounds.start(pair).point(0.37)
    exact, rounded = materialise(pair, [], point), materialise(pair, [], point, dtype=torch.bfloat16)
    for (name, a), (_, b) in zip(exact.named_parameters(), rounded.named_parameters()):
        assert torch.equal(a.bfloat16(), b), name


def test_four_bit_quantises_the_linear_layers_only(folders):
    import bitsandbytes as bnb
    pair = open_pair(*folders("qwen2"))
    model = materialise(pair, [], rounds.start(pair).instruct, four_bit=True)
    quantised = [n for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(quantised) == 2 * 7  # q k v o, gate up down, in two layers; never the head
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert torch.equal(model.model.layers[0].self_attn.q_proj.bias, pair.instruct.tensor("model.layers.0.self_attn.q_proj.bias"))
    layer, name = model.model.layers[0].mlp.up_proj, "model.layers.0.mlp.up_proj.weight"
    weight, exact = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state), pair.instruct.tensor(name)
    assert 0.05 < float((weight - exact).norm() / exact.norm()) < 0.12  # NF4's error on Gaussian weights is 0.09


def test_rows_that_are_no_whole_blocks_stay_exact(tmp_path):
    """bitsandbytes 0.50.2 on a CPU reads the wrong block scales where a row is not a multiple of 64: 38 % error, silently."""
    import bitsandbytes as bnb
    pair = open_pair(*save_pair(tmp_path, "qwen3", intermediate_size=80))
    model = materialise(pair, [], rounds.start(pair).instruct, four_bit=True)
    mlp = model.model.layers[0].mlp
    assert isinstance(mlp.up_proj, bnb.nn.Linear4bit) and not isinstance(mlp.down_proj, bnb.nn.Linear4bit)
    assert torch.equal(mlp.down_proj.weight, pair.instruct.tensor("model.layers.0.mlp.down_proj.weight"))


def test_a_missing_tensor_is_refused_not_made_up(folders, monkeypatch):
    """transformers would fill it with random numbers and go on."""
    pair = open_pair(*folders("qwen3"))
    fewer = [n for n in pair.names if "layers.1.mlp.up_proj" not in n]
    monkeypatch.setattr(type(pair), "names", property(lambda self: fewer))
    with pytest.raises(UserError, match="lack 1 tensors.*layers.1.mlp.up_proj"):
        materialise(pair, [], recipe.uniform_recipe(pair.names, recipe.INSTRUCT))
