"""NF4 layers by bitsandbytes."""

import torch
from torch import nn

NF4_BLOCK = 64  # weights that share a scale


def quantisable(weight: torch.Tensor) -> bool:
    """Whether every row is a whole number of NF4 blocks.

    If not, bitsandbytes 0.50.2 takes the wrong scales on a CPU, without a word: an error of 38 % was
    measured.
    """
    return weight.shape[1] % NF4_BLOCK == 0


def four_bit_linear(weight: torch.Tensor, device: str, dtype: torch.dtype, bias: bool = False) -> nn.Module:
    """An NF4 layer of a weight (out, in), with double quantisation as in QLoRA; it computes in `dtype`."""
    import bitsandbytes as bnb

    size_out, size_in = weight.shape
    layer = bnb.nn.Linear4bit(
        size_in, size_out, bias=bias, compute_dtype=dtype, quant_type="nf4", device="meta"
    )
    plain = bnb.nn.Params4bit(
        weight.to(dtype).contiguous(), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    layer.weight = plain.to(device)  # type: ignore[misc]  # quantises
    # On some CPUs the layer would repack itself to bf16: other numbers, and not for every shape.
    layer.support_avx512bf16_for_cpu = False
    return layer.requires_grad_(False)


def four_bit_tensors(weight: torch.Tensor) -> list[torch.Tensor]:
    """What a quantised weight holds besides its 4-bit values: scales, and the scales of the scales."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return []
    nested = state.state2
    held = [state.absmax, state.code, state.offset]
    if nested is not None:
        held += [nested.absmax, nested.code]
    return [tensor for tensor in held if tensor is not None]
