"""The families of models that a GGUF file can hold. THE place to add one.

llama.cpp computes each family in one way, where transformers reads more of its config. A checkpoint that asks
for another way is refused with what it is. To add a family:

1. Write an entry into FAMILIES: what llama.cpp calls it, and what its converter (conversion/*.py there) and
   its loader (src/models/*.cpp) do that the others do not.
2. Add a kind to KINDS in tests/unit/gguf_helpers.py. The tests compare every kind with what llama.cpp
   computes, and with `--slow` with what its converter writes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from transformers import PretrainedConfig

from thinkswitch.errors import UserError
from thinkswitch.export.gguf_rope import (
    HUNYUAN_CONTEXT,
    Keys,
    head_size,
    is_fixed_stretch,
    local_rope_of,
    rope_misfits,
    rope_of,
    rotated_size,
)

QKV = ("q_proj", "k_proj", "v_proj")
ALL_LAYERS = (*QKV, "o_proj", "gate_proj", "up_proj", "down_proj")
WINDOW_IN_EVERY_LAYER = ("mistral", "ministral3", "phi3")  # if their config has one
PLAIN_ROPES = ("default", "linear", "yarn")


def no_keys(config: PretrainedConfig) -> Keys:
    yield from ()


def no_misfits(config: PretrainedConfig) -> Iterator[str]:
    yield from ()


@dataclass(frozen=True)
class GgufFamily:
    """What the writer has to know of a family beyond names and shapes."""

    architecture: str  # llama.cpp's name
    neighbours: bool = False  # rotary pairs are neighbours there, and halves of a head in the checkpoint
    free_heads: bool = True  # a head's size is a key; elsewhere it is hidden size / heads
    biases: tuple[str, ...] = QKV  # modules that may have one
    ropes: tuple[str, ...] = PLAIN_ROPES
    reads_betas: bool = False  # yarn's keys beyond its factor
    windows: bool = False  # llama.cpp keeps the sliding window of some layers
    keys: Callable[[PretrainedConfig], Keys] = no_keys
    misfits: Callable[[PretrainedConfig], Iterator[str]] = no_misfits


# ---- keys


def llama_keys(config: PretrainedConfig) -> Keys:
    yield "add_vocab_size", config.vocab_size
    yield "add_rope_dimension_count", head_size(config)


def granite_keys(config: PretrainedConfig) -> Keys:
    yield from llama_keys(config)
    yield "add_attention_scale", config.attention_multiplier
    yield "add_embedding_scale", config.embedding_multiplier
    yield "add_residual_scale", config.residual_multiplier
    yield "add_logit_scale", config.logits_scaling


def ministral_keys(config: PretrainedConfig) -> Keys:
    yield from llama_keys(config)
    yield "add_rope_scaling_yarn_log_mul", rope_of(config)["mscale_all_dim"]
    yield "add_attn_temperature_scale", rope_of(config)["llama_4_scaling_beta"]


def gemma2_keys(config: PretrainedConfig) -> Keys:
    yield "add_attn_logit_softcapping", config.attn_logit_softcapping
    yield "add_final_logit_softcapping", config.final_logit_softcapping
    yield "add_sliding_window", config.sliding_window


def gemma3_keys(config: PretrainedConfig) -> Keys:
    if config.final_logit_softcapping:
        yield "add_final_logit_softcapping", config.final_logit_softcapping
    yield "add_sliding_window", config.sliding_window


def olmo3_keys(config: PretrainedConfig) -> Keys:
    yield "add_sliding_window", config.sliding_window
    yield "add_sliding_window_pattern", are_local(config)


def exaone_keys(config: PretrainedConfig) -> Keys:
    yield "add_vocab_size", config.vocab_size
    if config.sliding_window is not None:
        yield from olmo3_keys(config)


def phi_keys(config: PretrainedConfig) -> Keys:
    yield "add_rope_scaling_orig_ctx_len", config.original_max_position_embeddings
    yield "add_rope_dimension_count", rotated_size(config)
    yield "add_sliding_window", config.sliding_window or 0


def glm_keys(config: PretrainedConfig) -> Keys:
    yield "add_rope_dimension_count", rotated_size(config)


def lfm_keys(config: PretrainedConfig) -> Keys:
    yield "add_vocab_size", config.vocab_size
    yield "add_shortconv_l_cache", config.conv_L_cache


def are_local(config: PretrainedConfig) -> list[bool]:
    """Of each layer, whether it has a sliding window."""
    return [kind == "sliding_attention" for kind in config.layer_types]


# ---- what llama.cpp would compute otherwise


def every_nth_is_global(config: PretrainedConfig, n: int) -> Iterator[str]:
    expected = [(layer + 1) % n != 0 for layer in range(config.num_hidden_layers)]
    if are_local(config) != expected:
        yield f"llama.cpp gives a sliding window to all layers but the last of each {n}"


def gemma_misfits(config: PretrainedConfig) -> Iterator[str]:
    whole = config.hidden_size // config.num_attention_heads
    is_27b = config.num_hidden_layers == (46 if config.model_type == "gemma2" else 62)
    expected = whole if is_27b else head_size(config)
    if config.query_pre_attn_scalar != expected:
        yield f"llama.cpp takes query_pre_attn_scalar = {expected}; it is {config.query_pre_attn_scalar:g}"
    if config.hidden_activation != "gelu_pytorch_tanh":
        yield f"llama.cpp takes the activation gelu_pytorch_tanh; it is {config.hidden_activation}"


def gemma2_misfits(config: PretrainedConfig) -> Iterator[str]:
    yield from gemma_misfits(config)
    yield from every_nth_is_global(config, 2)
    if not config.tie_word_embeddings:
        yield "llama.cpp knows it only with a tied head"
    if not (config.attn_logit_softcapping and config.final_logit_softcapping):
        yield "llama.cpp knows it only with both soft caps of logits"


def gemma3_misfits(config: PretrainedConfig) -> Iterator[str]:
    yield from gemma_misfits(config)
    yield from every_nth_is_global(config, 6)
    if config.attn_logit_softcapping:
        yield "llama.cpp knows it only without a soft cap of attention"
    if config.use_bidirectional_attention:
        yield "llama.cpp knows it only with causal attention"
    local = local_rope_of(config)
    if local and local["rope_type"] != "default":
        yield f"llama.cpp does not know the rope type {local['rope_type']!r} in layers with a sliding window"


def olmo_misfits(config: PretrainedConfig) -> Iterator[str]:
    if config.tie_word_embeddings:
        yield "llama.cpp knows it only with a head of its own"
    local = local_rope_of(config)
    if local and (local["rope_type"] != "default" or local["rope_theta"] != rope_of(config)["rope_theta"]):
        yield "llama.cpp gives layers with a sliding window the plain rope of the others"


def exaone_misfits(config: PretrainedConfig) -> Iterator[str]:
    if config.sliding_window is None:
        return
    if config.num_hidden_layers != 64:
        yield "llama.cpp keeps a sliding window only in models of 64 layers"
    yield from every_nth_is_global(config, 4)


def smollm_misfits(config: PretrainedConfig) -> Iterator[str]:
    if list(config.no_rope_layers) != [int((n + 1) % 4 != 0) for n in range(config.num_hidden_layers)]:
        yield "llama.cpp rotates in all layers but the last of each 4"


def ministral_misfits(config: PretrainedConfig) -> Iterator[str]:
    if not {"mscale_all_dim", "llama_4_scaling_beta"} <= rope_of(config).keys():
        yield "llama.cpp knows it only with mscale_all_dim and llama_4_scaling_beta"


# ---- the families, by `model_type`

LLAMA = GgufFamily(
    "llama", neighbours=True, biases=ALL_LAYERS, ropes=(*PLAIN_ROPES, "llama3"), keys=llama_keys
)
FAMILIES = {
    "exaone4": GgufFamily(
        "exaone4",
        free_heads=False,
        ropes=("default", "llama3"),
        windows=True,
        keys=exaone_keys,
        misfits=exaone_misfits,
    ),
    "gemma2": GgufFamily(
        "gemma2", ropes=("default",), windows=True, keys=gemma2_keys, misfits=gemma2_misfits
    ),
    "gemma3_text": GgufFamily(
        "gemma3", ropes=("default", "linear"), windows=True, keys=gemma3_keys, misfits=gemma3_misfits
    ),
    "glm4": GgufFamily("glm4", ropes=("default",), keys=glm_keys),  # neighbours in the checkpoint, too
    "granite": GgufFamily(
        "granite",
        neighbours=True,
        free_heads=False,
        biases=ALL_LAYERS,
        ropes=LLAMA.ropes,
        keys=granite_keys,
    ),
    "hunyuan_v1_dense": GgufFamily("hunyuan-dense", ropes=("default", "dynamic")),
    "lfm2": GgufFamily("lfm2", free_heads=False, biases=(), ropes=("default",), keys=lfm_keys),
    "llama": LLAMA,
    "ministral3": GgufFamily(
        "mistral3",
        neighbours=True,
        biases=ALL_LAYERS,
        ropes=("yarn",),
        reads_betas=True,
        keys=ministral_keys,
        misfits=ministral_misfits,
    ),
    "mistral": LLAMA,
    "olmo2": GgufFamily("olmo2", free_heads=False, misfits=olmo_misfits),
    "olmo3": GgufFamily("olmo2", free_heads=False, windows=True, keys=olmo3_keys, misfits=olmo_misfits),
    "phi3": GgufFamily("phi3", free_heads=False, biases=(), ropes=("default", "longrope"), keys=phi_keys),
    "qwen2": GgufFamily("qwen2", free_heads=False),
    "qwen3": GgufFamily("qwen3"),
    "seed_oss": GgufFamily("seed_oss"),
    "smollm3": GgufFamily("smollm3", neighbours=True, keys=llama_keys, misfits=smollm_misfits),
}


def family_of(config: PretrainedConfig) -> GgufFamily:
    """A UserError where llama.cpp does not know the family, or would compute this model otherwise."""
    found = FAMILIES.get(config.model_type)
    if found is None:
        raise UserError(
            f"GGUF export does not know {config.model_type} models; it knows {', '.join(FAMILIES)}. "
            "Export a Hugging Face folder, and convert that with llama.cpp"
        )
    why = next(all_misfits(found, config), None)
    if why is not None:
        raise UserError(
            f"GGUF cannot hold this {config.model_type} model: {why}; export a Hugging Face folder instead"
        )
    return found


def all_misfits(family: GgufFamily, config: PretrainedConfig) -> Iterator[str]:
    if not family.free_heads and head_size(config) * config.num_attention_heads != config.hidden_size:
        yield "llama.cpp takes the size of its heads for hidden size / heads, which it is not here"
    yield from rope_misfits(config, family.ropes, family.reads_betas)
    yield from family.misfits(config)


# ---- positions


def sliding_window(config: PretrainedConfig) -> int | None:
    """The window that llama.cpp does not keep, of a model whose context is longer; None elsewhere."""
    if FAMILIES[config.model_type].windows:
        return None
    kinds = getattr(config, "layer_types", None) or ()
    uses_one = "sliding_attention" in kinds or config.model_type in WINDOW_IN_EVERY_LAYER
    window = getattr(config, "sliding_window", None) if uses_one else None
    return window if window and window < config.max_position_embeddings else None


def context_length(config: PretrainedConfig) -> int:
    """Positions. A sliding window that llama.cpp does not keep ends it."""
    if is_fixed_stretch(config):
        return HUNYUAN_CONTEXT
    return sliding_window(config) or config.max_position_embeddings
