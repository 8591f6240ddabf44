"""Recipe -> tensor stream -> a plain transformers model in memory. Memory is the model and one tensor of each side."""

import ctypes
import gc
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from .errors import UserError
from .pair import Checkpoint, Pair
from .preset import Preset
from .recipe import Adapter, Recipe

BLOCK = 1 << 20  # elements of a stored weight that are in memory at once: 4 MB in float32 stay in a core's cache
TRIMMED = 1 << 20  # elements of a tensor after which freed memory is given back


def stream(pair: Pair, adapters: list[Adapter], recipe: Recipe) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor in float32) for every tensor of a point; a side whose coefficient is zero is not read."""
    for name in pair.names:
        yield name, combine(pair, adapters, recipe, name)


def combine(pair: Pair, adapters: list[Adapter], recipe: Recipe, name: str) -> torch.Tensor:
    """A tensor of a point in float32."""
    whole, start = torch.empty(pair.instruct.entries[name].shape), 0
    for rows in combine_rows(pair, adapters, recipe, name, rows_of(whole.shape)):
        whole[start:start + len(rows)] = rows
        start += len(rows)
    return whole


def combine_rows(pair: Pair, adapters: list[Adapter], recipe: Recipe, name: str, step: int) -> Iterator[torch.Tensor]:
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


def rows_of(shape: tuple[int, ...]) -> int:
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
            trim()
    model.tie_weights()
    finish(model, pair.instruct, device)
    model.is_loaded_in_4bit = four_bit  # peft asks
    return model


def on_disk(checkpoint: Checkpoint) -> PreTrainedModel:
    """A checkpoint as an ordinary model in float32 whose matrices stay on the disk: slow, but it takes some MB only."""
    model = empty_model(checkpoint)
    for path, module in list(model.named_modules()):
        weight, bias = f"{path}.weight", f"{path}.bias"
        if isinstance(module, nn.Embedding):
            model.set_submodule(path, StoredEmbedding(checkpoint, weight))
            if checkpoint.config.tie_word_embeddings:
                model.lm_head = Stored(checkpoint, weight)
        elif isinstance(module, nn.Linear) and weight in checkpoint.entries:
            model.set_submodule(path, Stored(checkpoint, weight, checkpoint.tensor(bias).float() if bias in checkpoint.entries else None))
        elif weight in checkpoint.entries:
            module.weight = nn.Parameter(checkpoint.tensor(weight).float(), requires_grad=False)
    finish(model, checkpoint, "cpu")
    return model


class Stored(nn.Module):
    """A linear layer whose weight is read at every call, some rows at a time."""

    def __init__(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None = None):
        super().__init__()
        self.checkpoint, self.name, self.bias = checkpoint, name, bias

    def forward(self, x):
        step = rows_of(self.checkpoint.entries[self.name].shape)
        y = torch.cat([F.linear(x, rows) for rows in self.checkpoint.stream(self.name, step)], -1)
        return y if self.bias is None else y + self.bias


class StoredEmbedding(nn.Module):
    def __init__(self, checkpoint: Checkpoint, name: str):
        super().__init__()
        self.checkpoint, self.name = checkpoint, name

    def forward(self, ids):
        return F.embedding(ids, self.checkpoint.tensor(self.name)).float()


def empty_model(pair: Pair | Checkpoint) -> PreTrainedModel:
    """The pair's architecture without weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(pair.config, dtype=torch.float32)
    return model.eval()


def finish(model: PreTrainedModel, checkpoint: Checkpoint, device: str) -> None:
    """What no checkpoint stores: the rotary table and the stop tokens. Then nothing may be missing."""
    model.model.rotary_emb = type(model.model.rotary_emb)(checkpoint.config).to(device)
    model.generation_config = GenerationConfig(eos_token_id=sorted(checkpoint.stops), pad_token_id=checkpoint.tokenizer.pad_token_id)
    missing = [n for n, p in [*model.named_parameters(), *model.named_buffers()] if p.is_meta]
    if missing:
        raise UserError(f"the checkpoints lack {len(missing)} tensors that the architecture needs ({', '.join(missing[:3])})")


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


def machine(preset: Preset) -> dict:
    """The keyword arguments `device, dtype, four_bit` that the preset's 'auto' means here."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = preset.device if preset.device != "auto" else next(d for d in available if available[d])
    if not available[device]:
        raise UserError(f"the preset asks for {device}, which this machine or this build of torch does not have; set device=cpu or auto")
    half = torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    dtype = getattr(torch, preset.dtype) if preset.dtype != "auto" else torch.float32 if device == "cpu" else half
    return dict(device=device, dtype=dtype, four_bit=device == "cuda" if preset.four_bit is None else preset.four_bit)


def out_of_memory(error: Exception) -> bool:
    """CUDA says so by its type, a CPU and Apple only in words."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("not enough memory", "can't allocate memory", "out of memory"))


def release() -> None:
    """After `del model`: give the memory back before the next one is made."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim()


def trim() -> None:
    """glibc keeps most of what is freed, holes between small tensors above all: three times a 4-bit model while it was made."""
    with suppress(OSError, AttributeError):  # other systems have no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def quiet() -> None:
    """No progress bars of transformers between our own lines."""
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # tells of kernels it would fetch
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # tells that weights stay on the disk, which is what was asked for
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
