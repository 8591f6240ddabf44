"""LongRoPE (Phi-4-mini): a model's rotary frequencies are other ones where rows are long.

transformers chooses by the largest position of the batch, anew at every call. There a row's tokens depend on
the rows beside it, and a row that passes the original length while it is decoded meets keys that were rotated
by the other frequencies. Here each row has its own, by the length that it may reach, known when decoding
begins: what vLLM does for all rows by their limit of tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


class LongRope(nn.Module):
    """Stands in for the rotary table of transformers. Outside of `row_lengths` a row's positions decide."""

    def __init__(self, config: PretrainedConfig, device: str):
        super().__init__()
        compute = ROPE_INIT_FUNCTIONS["longrope"]
        self.original_length: int = config.rope_parameters["original_max_position_embeddings"]
        self.short, self.scaling = compute(config, device)
        self.long, _ = compute(config, device, seq_len=self.original_length + 1)
        self.lengths: torch.Tensor | None = None  # (rows,), by `row_lengths`

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = position_ids.amax(-1) + 1 if self.lengths is None else self.lengths
        is_long = (lengths > self.original_length)[:, None]
        frequencies = torch.where(is_long, self.long, self.short)  # (rows, half of what is rotated)
        angles = position_ids[..., None].float() * frequencies[:, None]
        angles = torch.cat((angles, angles), -1)
        return (angles.cos() * self.scaling).to(x.dtype), (angles.sin() * self.scaling).to(x.dtype)


def find_long_rope(model: nn.Module) -> LongRope | None:
    return next((module for module in model.modules() if isinstance(module, LongRope)), None)


@contextmanager
def row_lengths(rope: LongRope | None, lengths: torch.Tensor) -> Iterator[None]:
    """Within, each row of a batch has the frequencies of the length (rows,) that it may reach."""
    if rope is None:
        yield
        return
    rope.lengths = lengths
    try:
        yield
    finally:
        rope.lengths = None
