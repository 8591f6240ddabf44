"""Recipe -> tensor stream -> a plain transformers model in memory. Memory is the model and one tensor of each side."""

import math
from collections.abc import Iterator

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from thinkswitch.errors import UserError
from thinkswitch.recipe import Recipe
from thinkswitch.weights.adapter import Adapter
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.device import malloc_trim
from thinkswitch.weights.pair import Pair
from thinkswitch.weights.quantise import four_bit_linear, quantisable

BLOCK = 1 << 20  # elements of a stored weight that are in memory at once: 4 MB in float32 stay in a core's cache
TRIMMED = 1 << 20  # elements of a tensor after which freed memory is given back


def stream(pair: Pair, adapters: list[Adapter], recipe: Recipe) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor in float32) for every tensor of a point; a side whose coefficient is zero is not read."""
    for name in pair.names:
        yield name, combine(pair, adapters, recipe, name)


def combine(pair: Pair, adapters: list[Adapter], recipe: Recipe, name: str) -> torch.Tensor:
    """A tensor of a point in float32."""
    whole, start = torch.empty(pair.instruct.entries[name].shape), 0
    for rows in merge_blocks(pair, adapters, recipe, name, rows_per_block(whole.shape)):
        whole[start:start + len(rows)] = rows
        start += len(rows)
    return whole


def merge_blocks(pair: Pair, adapters: list[Adapter], recipe: Recipe, name: str, step: int) -> Iterator[torch.Tensor]:
    """The same, `step` rows at a time, each block in the memory of the one before: take what you need of it at once."""
    c_i, c_t, *c_adapters = recipe[name]
    updates = [(c, *adapter.low_rank[name]) for c, adapter in zip(c_adapters, adapters) if c and name in adapter.low_rank]
    sides = [(c, side.stream(name, step)) for c, side in ((c_i, pair.instruct), (c_t, pair.thinking)) if c]
    shape = pair.instruct.entries[name].shape
    for start in range(0, shape[0], step):
        total = None
        for c, stream in sides:
            total = next(stream).mul_(c) if total is None else total.add_(next(stream), alpha=c)  # by 1 exactly, should it be 1
        if total is None:
            total = torch.zeros(min(step, shape[0] - start), *shape[1:])
        for c, a, b in updates:
            total.addmm_(b[start:start + step], a, alpha=c)
        yield total


def rows_per_block(shape: tuple[int, ...]) -> int:
    """How many rows make a block."""
    return max(1, BLOCK // math.prod(shape[1:]))


def materialise(pair: Pair, adapters: list[Adapter], recipe: Recipe, device: str = "cpu",
                dtype: torch.dtype = torch.float32, four_bit: bool = False) -> PreTrainedModel:
    """A point as an ordinary model in eval mode; rounded once, to `dtype` or (its linear layers) to NF4."""
    model = empty_model(pair)
    heads = {id(m) for m in (model.get_output_embeddings(), model.get_input_embeddings())}
    for name, tensor in stream(pair, adapters, recipe):
        path, _, leaf = name.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError:
            raise UserError(f"{pair.instruct.name} has a tensor that a {pair.config.model_type} model does not know: {name}") from None
        if four_bit and isinstance(module, nn.Linear) and leaf == "weight" and id(module) not in heads and quantisable(tensor):
            quantised = four_bit_linear(tensor, device, dtype, bias=module.bias is not None)
            if module.bias is not None and not module.bias.is_meta:
                quantised.bias = module.bias
            model.set_submodule(path, quantised)
        else:
            setattr(module, leaf, nn.Parameter(tensor.to(device, dtype), requires_grad=False))
        if tensor.numel() > TRIMMED:
            malloc_trim()
    model.tie_weights()
    finalise_model(model, pair.instruct, device)
    model.is_loaded_in_4bit = four_bit  # peft asks
    return model


def empty_model(pair: Pair | Checkpoint) -> PreTrainedModel:
    """The pair's architecture without weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(pair.config, dtype=torch.float32)
    return model.eval()


def finalise_model(model: PreTrainedModel, checkpoint: Checkpoint, device: str) -> None:
    """What no checkpoint stores: the rotary table and the stop tokens. Then nothing may be missing."""
    model.model.rotary_emb = type(model.model.rotary_emb)(checkpoint.config).to(device)
    model.generation_config = GenerationConfig(eos_token_id=sorted(checkpoint.stop_token_ids), pad_token_id=checkpoint.tokenizer.pad_token_id)
    missing = [n for n, p in [*model.named_parameters(), *model.named_buffers()] if p.is_meta]
    if missing:
        raise UserError(f"the checkpoints lack {len(missing)} tensors that the architecture needs ({', '.join(missing[:3])})")
