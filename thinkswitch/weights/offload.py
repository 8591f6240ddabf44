"""Models whose matrices stay on the disk: slow, but they take megabytes instead of gigabytes."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.families import embedding_scale, layer_kind
from thinkswitch.weights.materialise import empty_model, finalise_model, rows_per_block

LARGE_BYTES = 1_000_000_000  # in float32; a larger model stays on the disk when it is only compared


def open_offloaded(checkpoint: Checkpoint) -> PreTrainedModel:
    """An ordinary model in float32 on the CPU whose matrices are read from the files at every call."""
    model = empty_model(checkpoint)
    for path, module in list(model.named_modules()):
        name = f"{path}.weight"
        kind = layer_kind(module, checkpoint.config)
        if kind == "embedding":
            model.set_submodule(path, OffloadedEmbedding(checkpoint, name, embedding_scale(module)))
            if checkpoint.config.tie_word_embeddings:
                model.lm_head = OffloadedLinear(checkpoint, name)
        elif kind == "linear" and name in checkpoint.entries:
            model.set_submodule(
                path, OffloadedLinear(checkpoint, name, read_bias(checkpoint, f"{path}.bias"))
            )
        elif kind in ("norm", "convolution") and name in checkpoint.entries:
            module.weight = nn.Parameter(checkpoint.tensor(name).float(), requires_grad=False)
    finalise_model(model, checkpoint, "cpu")
    return model


def read_bias(checkpoint: Checkpoint, name: str) -> torch.Tensor | None:
    return checkpoint.tensor(name).float() if name in checkpoint.entries else None


class OffloadedLinear(nn.Module):
    """A linear layer whose weight is read at every call, a block of rows at a time."""

    def __init__(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None = None):
        super().__init__()
        self.checkpoint = checkpoint
        self.name = name
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = rows_per_block(self.checkpoint.entries[self.name].shape)
        parts = [F.linear(x, rows) for rows in self.checkpoint.stream(self.name, step)]
        y = torch.cat(parts, -1)
        return y if self.bias is None else y + self.bias


class OffloadedEmbedding(nn.Module):
    """An embedding whose table stays on the disk; the rows that are asked for are read (memory-mapped)."""

    def __init__(self, checkpoint: Checkpoint, name: str, scale: float = 1.0):
        super().__init__()
        self.checkpoint = checkpoint
        self.name = name
        self.scale = scale

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.checkpoint.tensor(self.name)).float() * self.scale
