"""From a recipe to a plain transformers model, tensor by tensor: no second model is ever in memory."""

import math
from collections.abc import Iterator

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from thinkswitch.errors import UserError, list_some
from thinkswitch.recipe import Recipe
from thinkswitch.weights.adapter import Adapter
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.device import malloc_trim
from thinkswitch.weights.families import embedding_scale, uses_long_rope
from thinkswitch.weights.long_rope import LongRope
from thinkswitch.weights.pair import Pair
from thinkswitch.weights.quantise import four_bit_linear, quantisable

BLOCK = 1 << 20  # values of a stored weight in memory at once: 4 MB in float32 stay in a core's cache
TRIM_ABOVE = 1 << 20  # values of a tensor after which freed memory is returned to the system


def stream(pair: Pair, adapters: list[Adapter], recipe: Recipe) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor in float32) of a whole point; a checkpoint whose coefficient is zero is not read."""
    for name in pair.names:
        yield name, combine(pair, adapters, recipe, name)


def combine(pair: Pair, adapters: list[Adapter], recipe: Recipe, name: str) -> torch.Tensor:
    """One tensor of a point in float32."""
    whole = torch.empty(pair.instruct.entries[name].shape)
    start = 0
    for rows in merge_blocks(pair, adapters, recipe, name, rows_per_block(whole.shape)):
        whole[start : start + len(rows)] = rows
        start += len(rows)
    return whole


def merge_blocks(
    pair: Pair, adapters: list[Adapter], recipe: Recipe, name: str, step: int
) -> Iterator[torch.Tensor]:
    """The same `step` rows at a time, each block IN THE MEMORY OF THE ONE BEFORE: copy what you keep."""
    c_instruct, c_thinking, *c_adapters = recipe[name]
    sides = [
        (c, checkpoint.stream(name, step))
        for c, checkpoint in zip((c_instruct, c_thinking), pair.checkpoints, strict=True)
        if c
    ]
    updates = [
        (c, *adapter.low_rank[name])
        for c, adapter in zip(c_adapters, adapters, strict=False)
        if c and name in adapter.low_rank
    ]
    shape = pair.instruct.entries[name].shape
    for start in range(0, shape[0], step):
        total = None
        for c, blocks in sides:
            block = next(blocks)
            total = block.mul_(c) if total is None else total.add_(block, alpha=c)  # exact where c is 1
        if total is None:
            total = torch.zeros(min(step, shape[0] - start), *shape[1:])
        for c, a, b in updates:
            total.addmm_(b[start : start + step], a, alpha=c)
        yield total


def rows_per_block(shape: tuple[int, ...]) -> int:
    return max(1, BLOCK // math.prod(shape[1:]))


def materialise(
    pair: Pair,
    adapters: list[Adapter],
    recipe: Recipe,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    four_bit: bool = False,
) -> PreTrainedModel:
    """A point as an ordinary model in eval mode, rounded once: to `dtype`, or its linear layers to NF4."""
    model = empty_model(pair)
    heads = {id(module) for module in (model.get_output_embeddings(), model.get_input_embeddings())}
    for name, tensor in stream(pair, adapters, recipe):
        path, _, leaf = name.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError:
            raise UserError(
                f"{pair.instruct.name} has the tensor {name}, which no {pair.config.model_type} model has"
            ) from None
        may_quantise = four_bit and leaf == "weight" and id(module) not in heads
        if may_quantise and isinstance(module, nn.Linear) and quantisable(tensor):
            model.set_submodule(path, four_bit_layer(module, tensor, device, dtype))
        else:
            setattr(module, leaf, nn.Parameter(tensor.to(device, dtype), requires_grad=False))
        if tensor.numel() > TRIM_ABOVE:
            malloc_trim()
    model.tie_weights()
    finalise_model(model, pair.instruct, device)
    model.is_loaded_in_4bit = four_bit  # type: ignore[assignment]  # peft asks
    return model


def four_bit_layer(module: nn.Linear, weight: torch.Tensor, device: str, dtype: torch.dtype) -> nn.Module:
    """An NF4 layer in the place of a linear one, whose bias may come before the weight or after it."""
    layer = four_bit_linear(weight, device, dtype, bias=module.bias is not None)
    if module.bias is not None and not module.bias.is_meta:
        layer.bias = module.bias
    return layer


def empty_model(source: Pair | Checkpoint) -> PreTrainedModel:
    """The architecture without weights, in eval mode."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config, dtype=torch.float32)
    return model.eval()


def finalise_model(model: PreTrainedModel, checkpoint: Checkpoint, device: str) -> None:
    """Add what no checkpoint stores: rotary table, Gemma's scale, stop tokens. Then nothing is missing."""
    config = checkpoint.config
    if uses_long_rope(config):
        model.model.rotary_emb = LongRope(config, device)
    else:
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    embedding = model.get_input_embeddings()
    if embedding_scale(embedding) != 1:
        embedding.embed_scale = torch.tensor(embedding_scale(embedding), device=device)
    model.generation_config = GenerationConfig(
        eos_token_id=sorted(checkpoint.stop_token_ids), pad_token_id=checkpoint.tokenizer.pad_token_id
    )
    missing = [n for n, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if missing:
        raise UserError(
            f"the checkpoints lack {len(missing)} tensors that the architecture needs ({list_some(missing)})"
        )
