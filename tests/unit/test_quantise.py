"""NF4 layers."""

import pytest
import torch

from thinkswitch.weights.quantise import four_bit_linear, four_bit_tensors, quantisable


@pytest.mark.parametrize("width, expected", [(64, True), (128, True), (80, False), (32, False)])
def test_rows_must_be_whole_blocks(width, expected):
    assert quantisable(torch.empty(4, width)) is expected


@torch.inference_mode()
def test_a_four_bit_layer_computes_nearly_what_the_weight_does():
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
    layer = four_bit_linear(weight, "cpu", torch.float32)
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(1))
    exact = x @ weight.T
    assert (
        0.02 < float((layer(x) - exact).norm() / exact.norm()) < 0.2
    )  # NF4's error on Gaussian weights is 0.09
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_the_scales_are_counted():
    """A scale of 8 bits for 64 weights and one of 32 bits for 256 of those, as the memory plan assumes."""
    weight = torch.randn(256, 1024)
    layer = four_bit_linear(weight, "cpu", torch.float32)
    tables = 4 * (16 + 256)  # what 4-bit and 8-bit codes mean
    scales = sum(tensor.nbytes for tensor in four_bit_tensors(layer.weight)) - tables
    assert scales == pytest.approx(weight.numel() * (1 / 64 + 4 / (64 * 256)), rel=0.01)
    assert four_bit_tensors(torch.nn.Parameter(weight)) == []
