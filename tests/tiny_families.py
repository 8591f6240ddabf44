"""A tiny configuration of every model family, with settings that are not all defaults."""

from transformers import (
    Exaone4Config,
    Gemma2Config,
    Gemma3TextConfig,
    Glm4Config,
    GraniteConfig,
    HunYuanDenseV1Config,
    Lfm2Config,
    LlamaConfig,
    Ministral3Config,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SeedOssConfig,
    SmolLM3Config,
)

WINDOW = 16  # tokens: prompts and answers are longer
LOCAL_THEN_GLOBAL = ["sliding_attention", "full_attention"]
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
LONG_ROPE = {  # of 24 of a head's 32 dimensions
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0 + 0.1 * i for i in range(12)],
    "long_factor": [2.0 + 1.5 * i for i in range(12)],
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "qwen3": (Qwen3Config, {"head_dim": 32}),
    "qwen2": (Qwen2Config, {}),  # biases on q, k, v
    "mistral": (MistralConfig, {"head_dim": 32}),
    "llama": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "phi3": (Phi3Config, {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 64}),
    "olmo2": (Olmo2Config, {}),
    "olmo3": (Olmo3Config, {"sliding_window": WINDOW, "layer_types": LOCAL_THEN_GLOBAL}),
    "gemma2": (
        Gemma2Config,
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 40,
            "final_logit_softcapping": 5.0,
            "attn_logit_softcapping": 3.0,
            "sliding_window": WINDOW,
            "layer_types": LOCAL_THEN_GLOBAL,
        },
    ),
    "gemma3_text": (
        Gemma3TextConfig,
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 40,
            "sliding_window": WINDOW,
            "layer_types": LOCAL_THEN_GLOBAL,
        },
    ),
    "lfm2": (
        Lfm2Config,
        {
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "block_multiple_of": 32,
        },
    ),
    "glm4": (Glm4Config, {"head_dim": 32, "attention_bias": True}),
    "ministral3": (Ministral3Config, {"head_dim": 32, "sliding_window": None, "rope_parameters": YARN}),
    "smollm3": (SmolLM3Config, {"no_rope_layers": [1, 0]}),
    "granite": (
        GraniteConfig,
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.7,
            "logits_scaling": 2.0,
        },
    ),
    "exaone4": (Exaone4Config, {"sliding_window": WINDOW, "layer_types": LOCAL_THEN_GLOBAL}),
    "seed_oss": (SeedOssConfig, {"head_dim": 32}),  # biases on q, k, v
    "hunyuan_v1_dense": (HunYuanDenseV1Config, {"head_dim": 32}),
}
