"""Model families: THE place to add one. What transformers does not tell about a family stands here.

A family fits if it is a decoder of linear layers, one embedding and RMSNorms, and if a layer's modules are
named `self_attn` and `mlp`; its norms may have any name and stand anywhere. To add it:

1. Write an entry into FAMILIES, under the `model_type` of its config.json.
2. Add config keys that change what the weights mean, if it has new ones, to CONFIG_KEYS_THAT_MUST_AGREE.
3. Add its config class to FAMILIES in tests/tiny_families.py, with settings that are not all defaults.
   For every family test_families.py compares blend, decoding, loss, export and memory plan with
   transformers' own: it shows whether the family fits.

A model that also sees images may hold a text model of a family: text_model.py.

These do not fit: mixtures of experts (a row's experts differ by recipe), linear attention and state spaces
(their decay is no linear function of the weights), latent attention, learned activation functions.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from thinkswitch.errors import UserError


@dataclass(frozen=True)
class Family:
    """What the live blend has to know of a family to replace its layers."""

    norm_class: str  # the name of its RMSNorm in transformers
    gain_offset: float = 0.0  # an RMSNorm multiplies by this plus its weight


# By `model_type`, as config.json has it.
FAMILIES = {
    "exaone4": Family(norm_class="Exaone4RMSNorm"),
    "gemma2": Family(norm_class="Gemma2RMSNorm", gain_offset=1.0),
    "gemma3_text": Family(norm_class="Gemma3RMSNorm", gain_offset=1.0),
    "glm4": Family(norm_class="Glm4RMSNorm"),
    "granite": Family(norm_class="GraniteRMSNorm"),
    "hunyuan_v1_dense": Family(norm_class="HunYuanDenseV1RMSNorm"),
    "lfm2": Family(norm_class="Lfm2RMSNorm"),
    "llama": Family(norm_class="LlamaRMSNorm"),
    "ministral3": Family(norm_class="Ministral3RMSNorm"),
    "mistral": Family(norm_class="MistralRMSNorm"),
    "olmo2": Family(norm_class="Olmo2RMSNorm"),
    "olmo3": Family(norm_class="Olmo3RMSNorm"),
    "phi3": Family(norm_class="Phi3RMSNorm"),
    "qwen2": Family(norm_class="Qwen2RMSNorm"),
    "qwen3": Family(norm_class="Qwen3RMSNorm"),
    "seed_oss": Family(norm_class="SeedOssRMSNorm"),
    "smollm3": Family(norm_class="SmolLM3RMSNorm"),
}
SUPPORTED = tuple(FAMILIES)
WITH_VISION = ("mistral3", "qwen3_vl")  # hold a text model of a family: see text_model.py
KNOWN = f"{', '.join(SUPPORTED)}, and the text models in {' and '.join(WITH_VISION)}"

# Checkpoints that differ in one of these cannot be interpolated, even if all their tensors have equal shapes:
# a point between two rope settings, for example, is nonsense that no error reports.
CONFIG_KEYS_THAT_MUST_AGREE = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
    "rope_parameters",
    "rms_norm_eps",
    "norm_eps",  # lfm2
    "hidden_act",
    "attention_bias",
    "mlp_bias",
    "sliding_window",
    "layer_types",
    "no_rope_layers",  # smollm3
    "original_max_position_embeddings",  # phi3
    "embedding_multiplier",  # granite, and the next three
    "attention_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "query_pre_attn_scalar",  # gemma2 and gemma3_text, and the rest
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "hidden_activation",
    "use_bidirectional_attention",
)

# Their activations overflow in float16: nothing but "!!!!" is written.
OVERFLOWS_FLOAT16 = ("qwen2",)

# One of these in a config means a mixture of experts.
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")


def keys_that_must_agree(config: PretrainedConfig) -> tuple[str, ...]:
    """CONFIG_KEYS_THAT_MUST_AGREE, and what else matters with this rope."""
    if uses_long_rope(config):  # it scales attention by how far the context was extended
        return (*CONFIG_KEYS_THAT_MUST_AGREE, "max_position_embeddings")
    return CONFIG_KEYS_THAT_MUST_AGREE


def uses_long_rope(config: PretrainedConfig) -> bool:
    return config.rope_parameters.get("rope_type") == "longrope"


def layer_kind(module: nn.Module, config: PretrainedConfig) -> str | None:
    """linear | embedding | norm | convolution for a module that holds weights; None for all others."""
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv1d):
        return "convolution"
    if type(module).__name__ == FAMILIES[config.model_type].norm_class:
        return "norm"
    return None


def head_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits in float32 of hidden states, as the model's own forward computes them."""
    config = model.config
    logits = model.lm_head(hidden).float() / getattr(config, "logits_scaling", 1.0)  # granite
    cap = getattr(config, "final_logit_softcapping", None)  # gemma2
    return logits if cap is None else cap * torch.tanh(logits / cap)


def epsilon(norm: nn.Module) -> float:
    """What an RMSNorm adds to the mean square."""
    return next(getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name))


def embedding_scale(embedding: nn.Module) -> float:
    """What an embedding multiplies its rows by: in Gemma the root of their length."""
    return getattr(embedding, "scalar_embed_scale", 1.0)


def require_supported(name: str, config: PretrainedConfig) -> None:
    """A UserError if checkpoint `name` belongs to no known family."""
    if getattr(config, "conv_bias", False):  # then what is padded runs into the rows, in transformers too
        raise UserError(
            f"{name} has convolutions with a bias, which are not supported (conv_bias); take another one"
        )
    if config.model_type in FAMILIES:
        return
    found = f"{name} is a {config.model_type} model"
    if any(getattr(config, key, None) for key in EXPERT_KEYS):
        found += ", and mixture-of-experts layers are not supported yet"
    raise UserError(f"{found}; known are {KNOWN}")
