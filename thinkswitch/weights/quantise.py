"""NF4 layers by bitsandbytes."""

import torch
from torch import nn


def quantisable(weight: torch.Tensor) -> bool:
    """Whether rows are whole NF4 blocks; if not, bitsandbytes 0.50.2 on a CPU takes the wrong scales (38 % error measured)."""
    return weight.shape[1] % 64 == 0


def four_bit_linear(weight: torch.Tensor, device: str, dtype: torch.dtype, bias: bool = False) -> nn.Module:
    """An NF4 layer with double quantisation, as QLoRA has it. Quantised on `device`."""
    import bitsandbytes as bnb

    layer = bnb.nn.Linear4bit(weight.shape[1], weight.shape[0], bias=bias, compute_dtype=dtype, quant_type="nf4", device="meta")
    layer.weight = bnb.nn.Params4bit(weight.to(dtype).contiguous(), requires_grad=False, quant_type="nf4",
                                     compress_statistics=True).to(device)
    layer.support_avx512bf16_for_cpu = False  # would repack to bf16 on some CPUs: other numbers, and not every shape
    return layer.requires_grad_(False)
