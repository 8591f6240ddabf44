"""What fits this machine: a plan of memory for every phase, from configs and headers alone, before anything is loaded.

What plain transformers runs out of is seldom weights: it is the cache of long traces, and float32 logits over 150 000
words. Weights and cache are exact (tests hold them against real models); overheads are named here.
"""

import shutil
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import psutil
import torch

from thinkswitch.distil import LOGIT_CHUNK, checkpointed
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.recipe import module_kind
from thinkswitch.text import format_bytes
from thinkswitch.weights.device import Machine, resolve_device
from thinkswitch.weights.offload import LARGE_BYTES
from thinkswitch.weights.pair import Pair

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: 4 bits, an 8-bit scale for 64 of them, a 32-bit one for 256 of those
OVERHEAD = dict(cuda=1.1e9, mps=0.6e9, cpu=0.6e9)  # context, kernels, allocator; on a CPU Python and torch
CACHE_GROWTH = 1.25  # the cache grows by a quarter at a time (generate.PreallocatedCacheLayer)
LOGIT_BYTES = 4 * 3  # bytes a word and row: float32, as it comes, scaled, sorted
PROMPT_TOKENS = 512  # tokens of a prompt, which are not known beforehand
COMPARE_ROWS = 3  # rows of Compare
MIN_TOKENS = 256  # fewer new tokens are no thinking
NO_ROOM = "the weights alone leave no room: take 4-bit weights, or a smaller pair"
LOOP, LIVE = ("think", "measure", "distil"), ("compare",)


@dataclass(frozen=True)
class Phase:
    """`parts` in bytes, where the model computes; `advice` when they exceed `have`."""

    name: str
    parts: dict[str, float]
    have: float
    advice: str | None = None

    @property
    def needs(self) -> float:
        return sum(self.parts.values())


def plan_memory(pair: Pair, preset: Preset) -> list[Phase]:
    """load, think, measure, distil, compare on the machine the preset means; then export and disk."""
    if preset.four_bit is None:
        loop, live = (plan_memory(pair, resolve_quantisation(pair, preset, names)) for names in (LOOP, LIVE))
        return [b if b.name in LIVE else a for a, b in zip(loop, live)]
    where, memory = resolve_device(preset), psutil.virtual_memory().available
    have, elem = free_bytes(where["device"]), where["dtype"].itemsize
    one, config, largest = weight_bytes(pair, elem, where["four_bit"]), pair.config, max(prod(e.shape) for e in pair.instruct.entries.values())
    kind = "weights in 4 bits" if where["four_bit"] else "weights"
    fixed = {kind: one, "overhead": OVERHEAD[where["device"]]}
    load = {"a tensor of each side": 2 * largest * file_bytes(pair) / pair.parameters, "their sum in float32": 8 * largest, "Python and torch": OVERHEAD["cpu"]}
    phases = [Phase("load", load, memory, None if sum(load.values()) <= memory else "close other programs")] if where["device"] != "cpu" else []
    phases += [decoding_phase("think", fixed, preset, preset.think_tokens, pair, elem, have),
               decoding_phase("measure", fixed, preset, max(preset.think_tokens, preset.instruct_tokens), pair, elem, have)]
    length = min(preset.max_length, getattr(config, "max_position_embeddings", preset.max_length))
    distil = {**fixed, "adapter and optimiser": 16 * adapter_parameters(pair, preset.lora_rank),  # float32: weight, gradient, two moments
              "logits": LOGIT_CHUNK * config.vocab_size * LOGIT_BYTES}
    token = activation_bytes(config, 1, elem, checkpointed(config, where["device"]))
    most = int((have - sum(distil.values())) / token)
    distil["activations"] = preset.micro_batch * length * token
    phases.append(Phase("distil", distil, have, None if sum(distil.values()) <= have else
                        "lower micro_batch to 1" if most >= length else f"lower max_length to {most}" if most >= MIN_TOKENS else NO_ROOM))
    twice = {**fixed, kind: 2 * one}
    phases.append(decoding_phase("compare", twice, replace(preset, rows=COMPARE_ROWS), preset.think_tokens, pair, elem, have))
    whole = 4 * pair.parameters
    export = {"blocks of rows": 64e6, "Python and torch": OVERHEAD["cpu"]}
    export |= {} if whole > LARGE_BYTES else {"the export and both sides, loaded to be compared": 3 * whole}
    phases.append(Phase("export", export, memory, None if sum(export.values()) <= memory else "close other programs"))
    disk = {"adapters": preset.rounds * 4 * adapter_parameters(pair, preset.lora_rank), "an export": file_bytes(pair)}
    space = shutil.disk_usage(Path.cwd()).free
    phases.append(Phase("disk", disk, space, None if sum(disk.values()) <= space else "make room, or run on another disk"))
    return phases


def resolve_quantisation(pair: Pair, preset: Preset, phases: tuple[str, ...]) -> Preset:
    """`four_bit` decided where the preset leaves it open: plain weights where all that is asked of `phases` fits, else NF4.

    Not on Apple: whether bitsandbytes serves it there has not been tried.
    """
    if preset.four_bit is not None:
        return preset
    plain = replace(preset, four_bit=False)
    return plain if resolve_device(plain)["device"] == "mps" or all(p.advice is None for p in plan_memory(pair, plain) if p.name in phases) else replace(preset, four_bit=True)


def resolve_machine(pair: Pair, preset: Preset, phases: tuple[str, ...]) -> Machine:
    """Device, dtype and 4 bits for a pair: the one place that decides them, from what is free when it is called."""
    return resolve_device(resolve_quantisation(pair, preset, phases))


def fit_to_memory(pair: Pair, preset: Preset) -> Preset:
    """The preset as a run on this machine can have it: 4 bits or not; no more rows than fit; where not even one does, shorter answers."""
    preset = resolve_quantisation(pair, preset, LOOP)
    where = resolve_device(preset)
    elem, tokens = where["dtype"].itemsize, max(preset.think_tokens, preset.instruct_tokens)
    budget = free_bytes(where["device"]) - weight_bytes(pair, elem, where["four_bit"]) - OVERHEAD[where["device"]]
    rows = int(budget // row_bytes(pair.config, tokens, elem))
    if rows >= 1:
        return replace(preset, rows=min(preset.rows, rows))
    most = max_tokens_that_fit(budget, pair.config, elem)
    if most < MIN_TOKENS:
        raise UserError(f"{pair.instruct.name} does not fit: its weights take {format_bytes(weight_bytes(pair, elem, where['four_bit']))}, {format_bytes(free_bytes(where['device']))} "
                        f"are free on the {where['device']}; take {'a smaller pair' if where['four_bit'] else 'four_bit=true'}, or close other programs")
    return replace(preset, rows=1, think_tokens=min(most, preset.think_tokens), instruct_tokens=min(most, preset.instruct_tokens))


def decoding_phase(name: str, fixed: dict, preset: Preset, tokens: int, pair: Pair, elem: int, have: float) -> Phase:
    cache = preset.rows * (PROMPT_TOKENS + tokens) * token_bytes(pair.config, elem) * CACHE_GROWTH
    parts = {**fixed, f"cache of {preset.rows} x {tokens:,} tokens": cache, "logits": preset.rows * pair.config.vocab_size * LOGIT_BYTES,
             "activations": layer_activation_bytes(pair.config, preset.rows * PROMPT_TOKENS, elem)}
    phase = Phase(name, parts, have)
    return phase if phase.needs <= have else replace(phase, advice=advice(name, sum(fixed.values()), tokens, pair, elem, have))


def advice(name: str, fixed: float, tokens: int, pair: Pair, elem: int, have: float) -> str:
    """What to change: fewer rows, or shorter traces, or another pair."""
    rows = int((have - fixed) // row_bytes(pair.config, tokens, elem))
    if rows >= 1 and name != "compare":
        return f"lower rows to {rows}"
    short = max_tokens_that_fit((have - fixed) / (COMPARE_ROWS if name == "compare" else 1), pair.config, elem)
    if short >= MIN_TOKENS:
        return f"shorten answers to {short:,} tokens" + (" in Compare" if name == "compare" else f" (think_tokens={short}, rows=1)")
    return NO_ROOM


def max_tokens_that_fit(room: float, config, elem: int) -> int:
    """The tokens of an answer for which a single row has room, in hundreds."""
    most = int((room - row_bytes(config, 0, elem)) / (token_bytes(config, elem) * CACHE_GROWTH))
    return 100 * (most // 100) or most


def free_bytes(device: str) -> float:
    """What can be had where the model computes."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available * (0.75 if device == "mps" else 1)  # Apple lends the GPU about so much of the memory


def weight_bytes(pair: Pair, elem: int, four_bit: bool) -> float:
    """One checkpoint in memory: layers' linear weights in NF4 if asked for, the rest as it computes."""
    def size(name: str, shape: tuple[int, ...]) -> float:
        linear = len(shape) == 2 and module_kind(name) in ("attention", "mlp") and shape[1] % 64 == 0
        return prod(shape) * (NF4 if four_bit and linear else elem)
    return sum(size(name, entry.shape) for name, entry in pair.instruct.entries.items())


def file_bytes(pair: Pair) -> float:
    size = dict(F32=4, F16=2, BF16=2)
    return sum(prod(e.shape) * size.get(e.dtype, 4) for e in pair.instruct.entries.values())


def token_bytes(config, elem: int) -> int:
    """Keys and values of one token of one row."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * elem


def row_bytes(config, tokens: int, elem: int) -> float:
    """What one more row costs while it decodes."""
    return (PROMPT_TOKENS + tokens) * token_bytes(config, elem) * CACHE_GROWTH + config.vocab_size * LOGIT_BYTES + layer_activation_bytes(config, PROMPT_TOKENS, elem)


def adapter_parameters(pair: Pair, rank: int) -> int:
    """Parameters of a LoRA update of every linear layer."""
    return sum(rank * sum(e.shape) for n, e in pair.instruct.entries.items() if len(e.shape) == 2 and module_kind(n) in ("attention", "mlp"))


def activation_bytes(config, tokens: int, elem: int, checkpointed: bool) -> float:
    """Of a training step over `tokens` tokens: what every layer keeps for the way back, and one layer's insides."""
    kept = tokens * config.hidden_size * elem if checkpointed else layer_activation_bytes(config, tokens, elem)
    return config.num_hidden_layers * kept + layer_activation_bytes(config, tokens, elem)


def layer_activation_bytes(config, tokens: int, elem: int) -> float:
    """What one layer works with at once."""
    return tokens * (8 * config.hidden_size + 4 * config.intermediate_size) * elem
