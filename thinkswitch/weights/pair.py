"""Pair: two checkpoints that can be interpolated."""

import re
from dataclasses import dataclass
from typing import Iterator

import torch
from transformers import PretrainedConfig

from thinkswitch.errors import UserError, list_some
from thinkswitch.weights.checkpoint import Checkpoint, open_checkpoint, with_weights

# What must agree in the config, besides names and shapes of tensors. Differing rope is silent nonsense.
SAME = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "rope_parameters", "rms_norm_eps",
        "hidden_act", "attention_bias", "mlp_bias", "sliding_window", "layer_types")
PROBE = "Wait, 3·7 = 21?\n\tNaïve ½ – 你好 \U0001f914 <think>\n</think>\n\n\\boxed{-12}"


@dataclass(frozen=True)
class Pair:
    instruct: Checkpoint
    thinking: Checkpoint

    @property
    def config(self) -> PretrainedConfig:
        return self.instruct.config

    @property
    def names(self) -> list[str]:
        """Tensor names in the order of the layers. A tied head is no tensor of its own."""
        return sorted(self.instruct.entries, key=lambda name: [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", name)])

    @property
    def parameters(self) -> int:
        return sum(torch.Size(e.shape).numel() for e in self.instruct.entries.values())

    def tensors(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """(name, instruct tensor, thinking tensor), one pair in memory at a time, whatever the sharding."""
        for name, weight in self.instruct.tensors():
            yield name, weight, self.thinking.tensor(name)


def open_pair(instruct: str, thinking: str, headers_only: bool = False) -> Pair:
    """Open and check. Of Hub ids weights are fetched when both are known to fit, or never with `headers_only`."""
    pair = Pair(open_checkpoint(instruct, headers_only=True), open_checkpoint(thinking, headers_only=True))
    problems = differences(pair)
    if problems:
        raise UserError(f"{instruct} and {thinking} cannot be interpolated: " + "; ".join(problems))
    return pair if headers_only else Pair(*with_weights(pair.instruct, pair.thinking))


def differences(pair: Pair) -> list[str]:
    """What keeps two checkpoints from being interpolated, a clause each. Empty: compatible."""
    a, b = pair.instruct, pair.thinking
    found = [f"{key} differs ({_shorten(x)} / {_shorten(y)})" for key in SAME
             if (x := getattr(a.config, key, None)) != (y := getattr(b.config, key, None))]
    for one, other, who in ((a, b, "thinking"), (b, a, "instruct")):
        missing = sorted(one.entries.keys() - other.entries.keys())
        if missing:
            found.append(f"{len(missing)} tensors are missing from the {who} checkpoint ({list_some(missing)})")
    shapes = [f"{n} {list(e.shape)} / {list(b.entries[n].shape)}" for n, e in sorted(a.entries.items())
              if n in b.entries and e.shape != b.entries[n].shape]
    if shapes:
        found.append(f"{len(shapes)} tensors differ in shape ({list_some(shapes)})")
    words, others = a.tokenizer.get_vocab(), b.tokenizer.get_vocab()
    if words != others:
        odd = sorted(set(words.items()) ^ set(others.items()), key=lambda item: item[1])
        found.append(f"the tokenizers differ in {len({w for w, _ in odd})} tokens ({list_some([repr(w) for w, _ in odd])})")
    elif a.tokenizer.encode(PROBE) != b.tokenizer.encode(PROBE):
        found.append("the tokenizers have the same tokens but split a probe text differently")
    return found


def _shorten(value) -> str:
    return str(value) if len(str(value)) < 80 else str(value)[:77] + "..."
