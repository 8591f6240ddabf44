"""Shared by the tests of GGUF files: random pairs with a tokenizer that llama.cpp can read."""

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from conftest import byte_tokenizer, chat_tokenizer, save_pair
from thinkswitch.export import gguf_tokenizer, llama_cpp
from thinkswitch.weights.pair import open_pair

needs_llama_cpp = pytest.mark.skipif(
    not llama_cpp.is_here(), reason="xllamacpp is not installed: pip install -r requirements-gguf.txt"
)
PADDING = 3  # rows


def bpe_tokenizer(rule: gguf_tokenizer.Rule) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a few hundred merges that splits text as `rule` does."""
    core = Tokenizer(models.BPE(ignore_merges=rule.whole_words))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
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
