"""Rotary embeddings in a GGUF file: the keys, and tensors that no checkpoint stores.

llama.cpp reads of a config less than transformers does. What it would compute otherwise is refused.
"""

import math
from collections.abc import Iterator
from typing import Any

import gguf
import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

FREQS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
SCALED_BY_KEYS = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}
BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}  # of yarn; llama.cpp takes these in most families
HUNYUAN_CONTEXT = 256 * 1024  # positions that its fixed stretch is made for, whatever config.json says

Keys = Iterator[tuple[str, Any]]  # (method of GGUFWriter, value)


def head_size(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def rope_of(config: PretrainedConfig) -> dict[str, Any]:
    """Of the layers that see everything, where others have a rope of their own."""
    return config.rope_parameters.get("full_attention", config.rope_parameters)


def local_rope_of(config: PretrainedConfig) -> dict[str, Any] | None:
    """Of the layers with a sliding window, where it is their own."""
    return config.rope_parameters.get("sliding_attention")


def rotated_size(config: PretrainedConfig) -> int:
    """How many numbers of a head are rotated."""
    return int(head_size(config) * rope_of(config).get("partial_rotary_factor", 1.0))


def rope_misfits(config: PretrainedConfig, types: tuple[str, ...], reads_betas: bool) -> Iterator[str]:
    """Why llama.cpp would rotate otherwise than transformers does."""
    rope = rope_of(config)
    kind = rope["rope_type"]
    if kind not in types:
        yield f"llama.cpp does not know the rope type {kind!r} there"
    if kind == "yarn":
        yield from yarn_misfits(rope, reads_betas)
    if kind == "dynamic" and not is_fixed_stretch(config):
        yield "llama.cpp knows the rope type 'dynamic' only as Hunyuan's with a fixed alpha"


def yarn_misfits(rope: dict[str, Any], reads_betas: bool) -> Iterator[str]:
    theirs = yarn_scale(rope["factor"], 1.0)
    if reads_betas:
        theirs /= yarn_scale(rope["factor"], rope.get("mscale_all_dim", 0.0))
    if abs(theirs - yarn_attention(rope)) > 1e-6:
        yield "llama.cpp scales attention under yarn by another factor"
    for name, default in BETAS.items():
        if not reads_betas and (rope.get(name) or default) != default:
            yield f"llama.cpp takes {name} = {default:g} under yarn, whatever the checkpoint says"
    if not rope.get("truncate", True):
        yield "llama.cpp rounds yarn's range of frequencies, which this checkpoint does not (truncate)"


def yarn_scale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def yarn_attention(rope: dict[str, Any]) -> float:
    """What transformers scales attention by."""
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return yarn_scale(rope["factor"], rope["mscale"]) / yarn_scale(rope["factor"], rope["mscale_all_dim"])
    return yarn_scale(rope["factor"], 1.0)


def is_fixed_stretch(config: PretrainedConfig) -> bool:
    """Whether it is Hunyuan's rope, as its checkpoints have it."""
    rope = rope_of(config)
    contexts = (HUNYUAN_CONTEXT // 8, HUNYUAN_CONTEXT)
    usual = rope["rope_theta"] == 10000.0 and config.max_position_embeddings in contexts
    return rope["rope_type"] == "dynamic" and bool(rope.get("alpha")) and usual


def rope_keys(config: PretrainedConfig) -> Keys:
    rope = rope_of(config)
    kind = rope["rope_type"]
    if kind == "dynamic":
        size = head_size(config)
        yield "add_rope_freq_base", rope["rope_theta"] * rope["alpha"] ** (size / (size - 2))
        yield "add_rope_scaling_type", gguf.RopeScalingType.NONE
        yield "add_rope_scaling_factor", 1.0
        yield "add_rope_scaling_orig_ctx_len", HUNYUAN_CONTEXT
        return
    yield "add_rope_freq_base", rope["rope_theta"]
    if local := local_rope_of(config):
        yield "add_rope_freq_base_swa", local["rope_theta"]
    if kind in SCALED_BY_KEYS:
        yield "add_rope_scaling_type", SCALED_BY_KEYS[kind]
        yield "add_rope_scaling_factor", rope["factor"]
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        yield "add_rope_scaling_orig_ctx_len", original
        for name in BETAS:
            if rope.get(name) is not None:
                yield f"add_rope_scaling_yarn_{name}", rope[name]
        if rope.get("attention_factor") is not None:
            yield "add_rope_scaling_yarn_attn_factor", rope["attention_factor"]
    if kind == "longrope":
        _, scale = ROPE_INIT_FUNCTIONS["longrope"](config, "cpu")
        yield "add_rope_scaling_attn_factors", scale


def rope_tensors(config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """What llama.cpp divides each rotary frequency by, in float32: under their names in the file."""
    rope = rope_of(config)
    if rope["rope_type"] == "llama3":
        return {FREQS: llama3_factors(rope, head_size(config))}
    if rope["rope_type"] == "longrope":
        factors = {LONG_FACTORS: rope["long_factor"], SHORT_FACTORS: rope["short_factor"]}
        return {name: torch.tensor(values, dtype=torch.float32) for name, values in factors.items()}
    return {}


def llama3_factors(rope: dict[str, Any], size: int) -> torch.Tensor:
    """In the order of operations of llama.cpp's converter, for the same bits."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    lengths = 2 * math.pi / frequencies
    smooth = (original / lengths - low) / (high - low)
    factors = 1 / ((1 - smooth) / factor + smooth)
    factors[lengths < original / high] = 1.0
    factors[lengths > original / low] = factor
    return factors
