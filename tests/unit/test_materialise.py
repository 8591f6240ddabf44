"""From a recipe to a plain model: at the ends it is the parent, and it reloads strictly."""

import bitsandbytes as bnb
import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import ONE_SHAPE_EACH, random_adapter, save_pair
from thinkswitch import rounds
from thinkswitch.errors import UserError
from thinkswitch.recipe import INSTRUCT, THINKING, Schedule, uniform_recipe
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.offload import open_offloaded
from thinkswitch.weights.pair import open_pair

IDS = torch.arange(5, 25)[None]


@pytest.mark.parametrize("family, tied", ONE_SHAPE_EACH)
@torch.inference_mode()
def test_ends_are_the_parents_bit_for_bit(folders, family, tied):
    pair = open_pair(*folders(family, tied))
    for folder, point in zip(folders(family, tied), (INSTRUCT, THINKING), strict=True):
        ours = materialise(pair, [], uniform_recipe(pair.names, point))
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert torch.equal(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits)


@pytest.mark.parametrize("family, tied", ONE_SHAPE_EACH)
@torch.inference_mode()
def test_a_model_on_the_disk_computes_what_one_in_memory_does(folders, family, tied):
    pair = open_pair(*folders(family, tied))
    ours = open_offloaded(pair.thinking)
    theirs = AutoModelForCausalLM.from_pretrained(folders(family, tied)[1], dtype=torch.float32)
    assert torch.allclose(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
    matrices = [name for name, p in ours.named_parameters() if p.dim() == 2]
    assert matrices == []  # biases, gains and convolutions only


@torch.inference_mode()
def test_saved_and_reloaded_strictly(folders, tmp_path):
    pair = open_pair(*folders("qwen3"))
    state = rounds.rebuild(pair, rounds.start(pair), random_adapter(pair, 1), 0.8, "original", Schedule())
    model = materialise(pair, state.adapters, state.thinking)
    model.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert torch.equal(model(input_ids=IDS).logits, again(input_ids=IDS).logits)


def test_rounding_happens_once(folders):
    """bf16 is the rounding of the fp32 sum, not a sum of rounded parts."""
    pair = open_pair(*folders("qwen3"))
    point = rounds.start(pair).point(0.37)
    exact = materialise(pair, [], point)
    rounded = materialise(pair, [], point, dtype=torch.bfloat16)
    for (name, a), (_, b) in zip(exact.named_parameters(), rounded.named_parameters(), strict=True):
        assert torch.equal(a.bfloat16(), b), name


def test_four_bit_quantises_the_linear_layers_only(folders):
    pair = open_pair(*folders("qwen2"))
    model = materialise(pair, [], rounds.start(pair).instruct, four_bit=True)
    quantised = [name for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert len(quantised) == 2 * 7  # q k v o, gate up down, in two layers; never the head
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    bias = pair.instruct.tensor("model.layers.0.self_attn.q_proj.bias")
    assert torch.equal(model.model.layers[0].self_attn.q_proj.bias, bias)
    packed = model.model.layers[0].mlp.up_proj.weight
    weight = bnb.functional.dequantize_4bit(packed.data, packed.quant_state)
    exact = pair.instruct.tensor("model.layers.0.mlp.up_proj.weight")
    assert (
        0.05 < float((weight - exact).norm() / exact.norm()) < 0.12
    )  # NF4's error on Gaussian weights is 0.09


def test_rows_that_are_no_whole_blocks_stay_exact(tmp_path):
    """bitsandbytes 0.50.2 on a CPU reads wrong scales where a row is no multiple of 64: silently, by 38 %."""
    pair = open_pair(*save_pair(tmp_path, "qwen3", intermediate_size=80))
    model = materialise(pair, [], rounds.start(pair).instruct, four_bit=True)
    mlp = model.model.layers[0].mlp
    assert isinstance(mlp.up_proj, bnb.nn.Linear4bit) and not isinstance(mlp.down_proj, bnb.nn.Linear4bit)
    assert torch.equal(mlp.down_proj.weight, pair.instruct.tensor("model.layers.0.mlp.down_proj.weight"))


def test_a_missing_tensor_is_refused_not_made_up(folders, monkeypatch):
    """transformers would fill it with random numbers and go on."""
    pair = open_pair(*folders("qwen3"))
    fewer = [name for name in pair.names if "layers.1.mlp.up_proj" not in name]
    monkeypatch.setattr(type(pair), "names", property(lambda self: fewer))
    with pytest.raises(UserError, match=r"lack 1 tensors.*layers.1.mlp.up_proj"):
        materialise(pair, [], uniform_recipe(pair.names, INSTRUCT))


def test_a_tensor_that_the_architecture_lacks_is_refused(folders, monkeypatch):
    pair = open_pair(*folders("qwen3"))
    pair.instruct.entries["model.layers.0.router.weight"] = pair.instruct.entries["model.norm.weight"]
    monkeypatch.setattr(type(pair), "names", property(lambda self: ["model.layers.0.router.weight"]))
    monkeypatch.setattr(
        type(pair.instruct), "stream", lambda self, name, step: iter([torch.zeros(self.entries[name].shape)])
    )
    with pytest.raises(
        UserError, match=r"has the tensor model.layers.0.router.weight, which no qwen3 model has"
    ):
        materialise(pair, [], uniform_recipe(pair.names, INSTRUCT))
