"""Models whose matrices stay on the disk: slow, but they take megabytes."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.materialise import empty_model, finalise_model, rows_per_block

LARGE_BYTES = 1_000_000_000  # in float32; a larger model stays on the disk when it is only compared


def open_offloaded(checkpoint: Checkpoint) -> PreTrainedModel:
    """A checkpoint as an ordinary model in float32 whose matrices stay on the disk: slow, but it takes some MB only."""
    model = empty_model(checkpoint)
    for path, module in list(model.named_modules()):
        weight, bias = f"{path}.weight", f"{path}.bias"
        if isinstance(module, nn.Embedding):
            model.set_submodule(path, OffloadedEmbedding(checkpoint, weight))
            if checkpoint.config.tie_word_embeddings:
                model.lm_head = OffloadedLinear(checkpoint, weight)
        elif isinstance(module, nn.Linear) and weight in checkpoint.entries:
            model.set_submodule(path, OffloadedLinear(checkpoint, weight, checkpoint.tensor(bias).float() if bias in checkpoint.entries else None))
        elif weight in checkpoint.entries:
            module.weight = nn.Parameter(checkpoint.tensor(weight).float(), requires_grad=False)
    finalise_model(model, checkpoint, "cpu")
    return model


class OffloadedLinear(nn.Module):
    """A linear layer whose weight is read at every call, some rows at a time."""

    def __init__(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None = None):
        super().__init__()
        self.checkpoint, self.name, self.bias = checkpoint, name, bias

    def forward(self, x):
        step = rows_per_block(self.checkpoint.entries[self.name].shape)
        y = torch.cat([F.linear(x, rows) for rows in self.checkpoint.stream(self.name, step)], -1)
        return y if self.bias is None else y + self.bias


class OffloadedEmbedding(nn.Module):
    def __init__(self, checkpoint: Checkpoint, name: str):
        super().__init__()
        self.checkpoint, self.name = checkpoint, name

    def forward(self, ids):
        return F.embedding(ids, self.checkpoint.tensor(self.name)).float()
