"""Shared by the tests of GGUF files: random pairs with a tokenizer that llama.cpp can read."""

import json
from pathlib import Path

import pytest
from tiny_families import LOCAL_THEN_GLOBAL, LONG_ROPE
from tiny_families import YARN as MINISTRAL_YARN
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from conftest import byte_tokenizer, chat_tokenizer, save_pair
from thinkswitch.export import gguf_tokenizer, llama_cpp
from thinkswitch.weights.pair import open_pair

needs_llama_cpp = pytest.mark.skipif(
    not llama_cpp.is_here(), reason="xllamacpp is not installed: pip install -r requirements-gguf.txt"
)
PADDING = 3  # rows

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
HUNYUAN = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0, "alpha": 50.0}
FULL = ["full_attention"] * 2
# (family, settings, tied): of each family what GGUF can hold, as far from its defaults as that may be
KINDS = {
    "llama": ("llama", {}, False),
    "llama, tied, llama3 rope": ("llama", {"rope_parameters": LLAMA3}, True),
    "llama, linear rope": ("llama", {"rope_parameters": LINEAR}, True),
    "llama, yarn": ("llama", {"rope_parameters": YARN}, False),
    "mistral": ("mistral", {}, False),
    "qwen2": ("qwen2", {}, True),
    "qwen3": ("qwen3", {}, False),
    "exaone4": ("exaone4", {"sliding_window": None, "layer_types": FULL, "rope_parameters": LLAMA3}, True),
    "gemma2": (
        "gemma2",
        {"query_pre_attn_scalar": 32, "num_hidden_layers": 6, "layer_types": LOCAL_THEN_GLOBAL * 3},
        True,
    ),
    "gemma3": (
        "gemma3_text",
        {
            "query_pre_attn_scalar": 32,
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
            "rope_parameters": {"full_attention": {**LINEAR, "rope_theta": 1e6}, "sliding_attention": PLAIN},
        },
        True,
    ),
    "glm4": ("glm4", {}, False),
    "granite": ("granite", {"attention_bias": True, "mlp_bias": True, "attention_multiplier": 0.5}, True),
    "hunyuan": ("hunyuan_v1_dense", {}, False),
    "hunyuan, stretched": (
        "hunyuan_v1_dense",
        {"rope_parameters": HUNYUAN, "max_position_embeddings": 32 * 1024},
        True,
    ),
    "lfm2": ("lfm2", {}, True),
    "ministral3": ("ministral3", {"rope_parameters": {**MINISTRAL_YARN, "llama_4_scaling_beta": 1.0}}, False),
    "olmo2": ("olmo2", {"rope_parameters": YARN}, False),
    "olmo3": (
        "olmo3",
        {
            "layer_types": LOCAL_THEN_GLOBAL,
            "rope_parameters": {"full_attention": YARN, "sliding_attention": PLAIN},
        },
        False,
    ),
    "phi3": (
        "phi3",
        {
            "rope_parameters": {**LONG_ROPE, "original_max_position_embeddings": 1024},
            "original_max_position_embeddings": 1024,
            "max_position_embeddings": 4096,
        },
        True,
    ),
    "seed_oss": ("seed_oss", {}, False),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]}, True),
}


def bpe_tokenizer(rule: gguf_tokenizer.Rule) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a few hundred merges that splits text as `rule` does."""
    core = Tokenizer(models.BPE(ignore_merges=rule.whole_words))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator([*gguf_tokenizer.TEXTS, *gguf_tokenizer.QUESTIONS] * 3, trainer)
    tokenizer = chat_tokenizer(core)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = byte_tokenizer().chat_template
    return tokenizer


def save_bpe_pair(folder, family="qwen3", tied=True, rule=gguf_tokenizer.RULES[0], **changes):
    """As `save_pair`, with merges, and with rows of the embedding that no token has."""
    tokenizer = bpe_tokenizer(rule)
    sides = save_pair(folder, family, tied, vocab_size=len(tokenizer) + PADDING, **changes)
    for side in sides:
        tokenizer.save_pretrained(side)
        config = json.loads((Path(side) / "config.json").read_text("utf-8"))
        (Path(side) / "config.json").write_text(
            json.dumps({**config, "eos_token_id": tokenizer.eos_token_id}), "utf-8"
        )
    return open_pair(*sides)
