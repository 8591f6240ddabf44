"""What fits this machine: how much memory every phase needs, from configs and headers alone.

Weights are seldom what runs out: it is the cache of long traces, and float32 logits over 150 000 tokens of
vocabulary. Weights and cache are exact (tests compare them with real models); the rest is named below.
"""

import shutil
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import psutil
import torch
from transformers import PretrainedConfig

from thinkswitch.distil import LOGIT_CHUNK, checkpointed
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.recipe import module_kind
from thinkswitch.text import format_bytes
from thinkswitch.weights import kv_cache
from thinkswitch.weights.device import Machine, resolve_device
from thinkswitch.weights.offload import LARGE_BYTES
from thinkswitch.weights.pair import Pair
from thinkswitch.weights.quantise import NF4_BLOCK

# Bytes of an NF4 weight: 4 bits, an 8-bit scale for 64 of them, a 32-bit scale for 256 of those.
NF4_BYTES = 0.5 + 1 / NF4_BLOCK + 4 / (NF4_BLOCK * 256)
# Bytes besides tensors: context, kernels and allocator; on a CPU, Python and torch.
OVERHEAD = {"cuda": 1.1e9, "mps": 0.6e9, "cpu": 0.6e9}
CACHE_GROWTH = 1 + kv_cache.GROWTH
LOGIT_BYTES = 4 * 3  # per token of the vocabulary and row: float32, as computed, scaled and sorted
LOWERED_BYTES = 4  # likewise: a copy that penalties make
PROMPT_TOKENS = 512  # assumed length of a prompt
COMPARE_ROWS = 3  # instruct, blend and thinking
MOST_TOKENS = 1 << 24  # no answer is longer
MIN_TOKENS = 256  # below this a reasoning trace is not useful
ADAPTER_BYTES = 16  # per trained parameter, in float32: weight, gradient, two moments
KEPT_IN_16_BITS = 1.45  # times what a layer keeps: norms keep float32 copies (measured: 1.29 to 1.48)
EXPORT_BLOCKS = 64e6  # bytes of the blocks of rows that an export works on
APPLE_GPU_SHARE = 0.75  # of the memory, that macOS lends the GPU

NO_ROOM = "the weights alone leave no room: take 4-bit weights, or a smaller pair"
CLOSE_PROGRAMS = "close other programs"

LOOP = ("think", "measure", "distil")  # the phases of a run
LIVE = ("compare",)  # what the page and `ask` do


@dataclass(frozen=True)
class Phase:
    """Bytes that a phase takes, where it takes them, and what to change where they do not fit."""

    name: str
    parts: dict[str, float]  # in bytes
    have: float  # free bytes
    remedy: str

    @property
    def needs(self) -> float:
        return sum(self.parts.values())

    @property
    def advice(self) -> str | None:
        """What to change; None where the phase fits."""
        return None if self.needs <= self.have else self.remedy


@dataclass(frozen=True)
class Setup:
    """A pair, settings that leave nothing open, and what is free on this machine now."""

    pair: Pair
    preset: Preset
    device: str
    value_bytes: int  # of the dtype that it computes in
    device_free: float  # bytes, where it computes
    memory_free: float  # bytes of the machine's memory

    @property
    def config(self) -> PretrainedConfig:
        return self.pair.config

    @property
    def weights(self) -> float:
        return weight_bytes(self.pair, self.value_bytes, bool(self.preset.four_bit))

    def fixed_parts(self, checkpoints: int = 1) -> dict[str, float]:
        """What does not depend on rows and tokens. A thinking side that is an adapter is always in memory."""
        name = "weights in 4 bits" if self.preset.four_bit else "weights"
        weights = checkpoints * self.weights + self.value_bytes * self.pair.adapter_parameters
        return {name: weights, "overhead": OVERHEAD[self.device]}


def read_setup(pair: Pair, preset: Preset, phases: tuple[str, ...]) -> Setup:
    """`preset.four_bit` must be decided."""
    machine = resolve_device(preset, pair.parameters, live=phases == LIVE)
    return Setup(
        pair,
        preset,
        device=machine["device"],
        value_bytes=machine["dtype"].itemsize,
        device_free=free_bytes(machine["device"]),
        memory_free=psutil.virtual_memory().available,
    )


# ---- what a caller asks


def plan_memory(pair: Pair, preset: Preset) -> list[Phase]:
    """Every phase on this machine: load (into a GPU), think, measure, distil, compare, export and disk."""
    loop = read_setup(pair, resolve_quantisation(pair, preset, LOOP), LOOP)
    live = read_setup(pair, resolve_quantisation(pair, preset, LIVE), LIVE)
    phases = [
        estimate_think(loop),
        estimate_measure(loop),
        estimate_distil(loop),
        estimate_compare(live),
        estimate_export(loop),
        estimate_disk(loop),
    ]
    return phases if loop.device == "cpu" else [estimate_load(loop), *phases]


def resolve_machine(pair: Pair, preset: Preset, phases: tuple[str, ...]) -> Machine:
    """Device, dtype and 4 bits for a pair: the one decision, from what is free when it is made.

    `phases` is LOOP or LIVE. Who replaces a model releases the old one first, or it counts as used.
    """
    return resolve_device(resolve_quantisation(pair, preset, phases), pair.parameters, live=phases == LIVE)


def resolve_quantisation(pair: Pair, preset: Preset, phases: tuple[str, ...]) -> Preset:
    """The preset with `four_bit` decided: NF4 only if `phases` would not fit with plain weights.

    Never on Apple: whether bitsandbytes works there has not been tried.
    """
    if preset.four_bit is not None:
        return preset
    plain = read_setup(pair, replace(preset, four_bit=False), phases)
    fits = all(ESTIMATES[phase](plain).advice is None for phase in phases)
    return replace(preset, four_bit=not fits and plain.device != "mps")


def fit_to_memory(pair: Pair, preset: Preset) -> Preset:
    """The preset as a run on this machine can have it.

    4 bits and number format are decided, rows are lowered to what fits, and answers are shortened if not even
    one row fits.
    """
    setup = read_setup(pair, resolve_quantisation(pair, preset, LOOP), LOOP)
    dtype = resolve_device(setup.preset, pair.parameters)["dtype"]
    preset = replace(setup.preset, dtype=str(dtype).removeprefix("torch."))
    room = setup.device_free - sum(setup.fixed_parts().values())
    tokens = max(preset.think_tokens, preset.instruct_tokens)
    rows = int(room // row_bytes(setup, tokens))
    if rows >= 1:
        return replace(preset, rows=min(preset.rows, rows))
    limit = max_tokens_that_fit(setup, room)
    if limit < MIN_TOKENS:
        remedy = "a smaller pair" if preset.four_bit else "four_bit=true"
        raise UserError(
            f"{pair.instruct.name} does not fit: its weights take {format_bytes(setup.weights)}, "
            f"{format_bytes(setup.device_free)} are free on the {setup.device}; "
            f"take {remedy}, or close other programs"
        )
    return replace(
        preset,
        rows=1,
        think_tokens=min(limit, preset.think_tokens),
        instruct_tokens=min(limit, preset.instruct_tokens),
    )


# ---- an estimate per phase


def estimate_load(setup: Setup) -> Phase:
    """Reading weights into a GPU, in the machine's memory."""
    pair = setup.pair
    largest = max(prod(info.shape) for info in pair.instruct.entries.values())
    parts = {
        "a tensor of each side": len(pair.whole_checkpoints) * largest * file_bytes(pair) / pair.parameters,
        "their sum in float32": 8 * largest,
        "Python and torch": OVERHEAD["cpu"],
    }
    return Phase("load", parts, setup.memory_free, CLOSE_PROGRAMS)


def estimate_think(setup: Setup) -> Phase:
    tokens = setup.preset.think_tokens
    parts = setup.fixed_parts() | decoding_parts(setup, setup.preset.rows, tokens)
    return Phase("think", parts, setup.device_free, advise_decoding(setup, tokens))


def estimate_measure(setup: Setup) -> Phase:
    tokens = max(setup.preset.think_tokens, setup.preset.instruct_tokens)
    parts = setup.fixed_parts() | decoding_parts(setup, setup.preset.rows, tokens)
    return Phase("measure", parts, setup.device_free, advise_decoding(setup, tokens))


def estimate_distil(setup: Setup) -> Phase:
    preset, config = setup.preset, setup.config
    length = min(preset.max_length, getattr(config, "max_position_embeddings", preset.max_length))
    token = training_bytes(setup, 1)
    parts = setup.fixed_parts() | {
        "adapter and optimiser": ADAPTER_BYTES * adapter_parameters(setup.pair, preset.lora_rank),
        "logits": LOGIT_CHUNK * config.vocab_size * LOGIT_BYTES,
    }
    longest = int((setup.device_free - sum(parts.values())) / token)
    parts["activations"] = preset.micro_batch * length * token
    return Phase("distil", parts, setup.device_free, advise_distil(length, longest))


def estimate_compare(setup: Setup) -> Phase:
    """The live blend holds both checkpoints, or instruct and an adapter."""
    tokens = setup.preset.think_tokens
    parts = setup.fixed_parts(len(setup.pair.whole_checkpoints)) | decoding_parts(setup, COMPARE_ROWS, tokens)
    return Phase("compare", parts, setup.device_free, advise_compare(setup))


def estimate_export(setup: Setup) -> Phase:
    """Writing streams; what is small enough is then loaded whole, to be compared."""
    parts = {"blocks of rows": EXPORT_BLOCKS, "Python and torch": OVERHEAD["cpu"]}
    size = 4 * setup.pair.parameters
    if size <= LARGE_BYTES:
        parts["the export and the pair, to be compared"] = (1 + len(setup.pair.whole_checkpoints)) * size
    return Phase("export", parts, setup.memory_free, CLOSE_PROGRAMS)


def estimate_disk(setup: Setup) -> Phase:
    """Of a whole run and an export, in the current folder."""
    adapter = 4 * adapter_parameters(setup.pair, setup.preset.lora_rank)
    parts = {"adapters": setup.preset.rounds * adapter, "an export": file_bytes(setup.pair)}
    free = shutil.disk_usage(Path.cwd()).free
    return Phase("disk", parts, free, "make room, or run on another disk")


ESTIMATES: dict[str, Callable[[Setup], Phase]] = {
    "think": estimate_think,
    "measure": estimate_measure,
    "distil": estimate_distil,
    "compare": estimate_compare,
}


# ---- what to change


def advise_decoding(setup: Setup, tokens: int) -> str:
    """Fewer rows, or shorter traces, or another pair."""
    room = setup.device_free - sum(setup.fixed_parts().values())
    rows = int(room // row_bytes(setup, tokens))
    if rows >= 1:
        return f"lower rows to {rows}"
    limit = max_tokens_that_fit(setup, room)
    if limit >= MIN_TOKENS:
        return f"shorten answers to {limit:,} tokens (think_tokens={limit}, rows=1)"
    return NO_ROOM


def advise_compare(setup: Setup) -> str:
    """Compare always has its three rows."""
    room = setup.device_free - sum(setup.fixed_parts(len(setup.pair.whole_checkpoints)).values())
    limit = max_tokens_that_fit(setup, room / COMPARE_ROWS)
    return f"shorten answers to {limit:,} tokens in Compare" if limit >= MIN_TOKENS else NO_ROOM


def advise_distil(length: int, longest: int) -> str:
    """`length` in tokens is wanted, `longest` fits with a micro-batch of 1."""
    if longest >= length:
        return "lower micro_batch to 1"
    return f"lower max_length to {longest}" if longest >= MIN_TOKENS else NO_ROOM


# ---- sizes


def decoding_parts(setup: Setup, rows: int, tokens: int, prompt: int = PROMPT_TOKENS) -> dict[str, float]:
    """What decoding `rows` answers of `tokens` tokens takes besides the weights."""
    cache = rows * kv_cache.cache_bytes(setup.config, setup.value_bytes, prompt + tokens) * CACHE_GROWTH
    return {
        f"cache of {rows} x {tokens:,} tokens": cache,
        "logits": rows * setup.config.vocab_size * (LOGIT_BYTES + LOWERED_BYTES),
        "activations": layer_activation_bytes(setup.config, rows * prompt, setup.value_bytes),
    }


def row_bytes(setup: Setup, tokens: int, prompt: int = PROMPT_TOKENS) -> float:
    """What one row of an answer takes while it is decoded."""
    return sum(decoding_parts(setup, 1, tokens, prompt).values())


def max_tokens_that_fit(setup: Setup, room: float) -> int:
    """The longest answer of a single row that `room` bytes are enough for, in hundreds of tokens."""
    tokens = bisect_right(range(MOST_TOKENS), room, key=lambda tokens: row_bytes(setup, tokens)) - 1
    return 100 * (tokens // 100) or tokens


def free_bytes(device: str) -> float:
    """Memory that can be had where the model computes, now."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    available = psutil.virtual_memory().available
    return available * APPLE_GPU_SHARE if device == "mps" else available


def weight_bytes(pair: Pair, value_bytes: int, four_bit: bool) -> float:
    """One checkpoint in memory: linear layers in NF4 if asked for, the rest as it computes."""
    total = 0.0
    for name, info in pair.instruct.entries.items():
        quantised = four_bit and is_linear(name, info.shape) and info.shape[1] % NF4_BLOCK == 0
        total += prod(info.shape) * (NF4_BYTES if quantised else value_bytes)
    return total


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the weight of a layer's linear module: what LoRA trains and NF4 holds."""
    return len(shape) == 2 and module_kind(name) in ("attention", "mlp")


def file_bytes(pair: Pair) -> float:
    """One checkpoint on the disk."""
    return sum(info.nbytes for info in pair.instruct.entries.values())


def adapter_parameters(pair: Pair, rank: int) -> int:
    """Parameters of a LoRA update of every linear layer."""
    shapes = [info.shape for name, info in pair.instruct.entries.items() if is_linear(name, info.shape)]
    return sum(rank * sum(shape) for shape in shapes)


def training_bytes(setup: Setup, tokens: int) -> float:
    """Activations of a training step: what every layer keeps for the way back, and one layer at work."""
    config = setup.config
    one_layer = layer_activation_bytes(config, tokens, setup.value_bytes)
    kept = one_layer * (KEPT_IN_16_BITS if setup.value_bytes == 2 else 1)
    if checkpointed(config, setup.device):
        kept = tokens * config.hidden_size * setup.value_bytes
    return config.num_hidden_layers * kept + one_layer


def layer_activation_bytes(config: PretrainedConfig, tokens: int, value_bytes: int) -> float:
    """What one layer works with at once."""
    return tokens * (8 * config.hidden_size + 4 * config.intermediate_size) * value_bytes
