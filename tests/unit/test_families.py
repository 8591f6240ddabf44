"""Every family that is listed fits the live blend; the tests in this file show where a new one does not."""

import pytest
import torch
from transformers import AutoConfig, Qwen3MoeConfig

from conftest import FAMILIES as TESTED
from thinkswitch.errors import UserError
from thinkswitch.rounds import start
from thinkswitch.weights import families
from thinkswitch.weights.families import SUPPORTED, layer_kind, require_supported
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair


@pytest.fixture(scope="module", params=SUPPORTED)
def model(request, folders):
    pair = open_pair(*folders(request.param))
    return materialise(pair, [], start(pair).instruct)


def test_every_listed_family_is_tested():
    assert set(TESTED) == set(SUPPORTED)


def test_every_module_with_weights_is_of_a_known_kind(model):
    kinds = {name: layer_kind(module, model.config) for name, module in model.named_modules()}
    holders = {name.rpartition(".")[0] for name, _ in model.named_parameters(remove_duplicate=False)}
    assert {name for name, kind in kinds.items() if kind} == holders
    assert {kinds[name] for name in holders} == {"linear", "embedding", "norm"}


def test_norms_multiply_a_gain_by_the_normalised_input(model):
    """The blend computes them itself. Gemma's multiply by 1 + gain, for example."""
    norms = [m for m in model.modules() if layer_kind(m, model.config) == "norm"]
    assert len(norms) >= 2 * model.config.num_hidden_layers + 1
    for norm in norms:
        x = torch.randn(3, norm.weight.numel(), generator=torch.Generator().manual_seed(0))
        root = (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
        assert torch.allclose(norm(x), norm.weight * x / root, rtol=1e-5, atol=1e-6)


def test_keys_that_must_agree_are_in_a_config(folders):
    """A misspelt key would be None on both sides and never differ."""
    known = set()
    for family in SUPPORTED:
        known |= AutoConfig.from_pretrained(folders(family)[0]).to_dict().keys()
    assert set(families.CONFIG_KEYS_THAT_MUST_AGREE) <= known


def test_other_families_are_refused():
    with pytest.raises(UserError, match=r"^mine is a gpt2 model; known are llama, mistral, qwen2, qwen3$"):
        require_supported("mine", AutoConfig.for_model("gpt2"))
    with pytest.raises(UserError, match=r"^mine is a qwen3_moe model, and mixture-of-experts layers are not"):
        require_supported("mine", Qwen3MoeConfig(num_experts=4))
