"""A pair: two checkpoints that can be interpolated."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from transformers import PretrainedConfig

from thinkswitch.errors import UserError, list_some
from thinkswitch.weights.checkpoint import Checkpoint, open_checkpoint, with_weights
from thinkswitch.weights.families import keys_that_must_agree

# Numbers, spaces, accents, scripts, emoji, tags: what tokenizers of one vocabulary may split differently.
PROBE = "Wait, 3·7 = 21?\n\tNaïve ½ – 你好 \U0001f914 <think>\n</think>\n\n\\boxed{-12}"


@dataclass(frozen=True)
class Pair:
    instruct: Checkpoint
    thinking: Checkpoint

    @property
    def checkpoints(self) -> tuple[Checkpoint, Checkpoint]:
        """In the order of a recipe's coefficients."""
        return self.instruct, self.thinking

    @property
    def config(self) -> PretrainedConfig:
        return self.instruct.config

    @property
    def names(self) -> list[str]:
        """Tensor names in the order of the layers. A tied head is no tensor of its own."""
        return sorted(self.instruct.entries, key=natural_order)

    @property
    def parameters(self) -> int:
        return sum(prod(info.shape) for info in self.instruct.entries.values())

    def tensors(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """(name, instruct tensor, thinking tensor), one pair in memory at a time, whatever the sharding."""
        for name, weight in self.instruct.tensors():
            yield name, weight, self.thinking.tensor(name)


def natural_order(name: str) -> list[int | str]:
    """A sort key by which layer 2 comes before layer 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def open_pair(instruct: str, thinking: str, headers_only: bool = False) -> Pair:
    """Open and compare two checkpoints; a UserError names all that keeps them from being interpolated.

    Weights of Hub ids are downloaded once both are known to fit, or never with `headers_only`.
    """
    pair = Pair(open_checkpoint(instruct, headers_only=True), open_checkpoint(thinking, headers_only=True))
    problems = differences(pair)
    if problems:
        raise UserError(f"{instruct} and {thinking} cannot be interpolated: {'; '.join(problems)}")
    return pair if headers_only else Pair(*with_weights(*pair.checkpoints))


def differences(pair: Pair) -> list[str]:
    """What keeps two checkpoints from being interpolated, a clause each. Empty: they are compatible."""
    return [*config_differences(pair), *tensor_differences(pair), *tokenizer_differences(pair)]


def config_differences(pair: Pair) -> list[str]:
    found = []
    for key in keys_that_must_agree(pair.config):
        instruct, thinking = (getattr(checkpoint.config, key, None) for checkpoint in pair.checkpoints)
        if instruct != thinking:
            found.append(f"{key} differs ({_shorten(instruct)} / {_shorten(thinking)})")
    return found


def tensor_differences(pair: Pair) -> list[str]:
    instruct, thinking = pair.instruct.entries, pair.thinking.entries
    found = []
    for role, missing in (("thinking", instruct.keys() - thinking), ("instruct", thinking.keys() - instruct)):
        if missing:
            names = list_some(sorted(missing))
            found.append(f"{len(missing)} tensors are missing from the {role} checkpoint ({names})")
    shapes = [
        f"{name} {list(instruct[name].shape)} / {list(thinking[name].shape)}"
        for name in sorted(instruct.keys() & thinking)
        if instruct[name].shape != thinking[name].shape
    ]
    if shapes:
        found.append(f"{len(shapes)} tensors differ in shape ({list_some(shapes)})")
    return found


def tokenizer_differences(pair: Pair) -> list[str]:
    instruct, thinking = (checkpoint.tokenizer for checkpoint in pair.checkpoints)
    ours, theirs = instruct.get_vocab(), thinking.get_vocab()
    if ours != theirs:
        different = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda token: token[1])
        tokens = {text for text, _ in different}
        examples = list_some([repr(text) for text, _ in different])
        return [f"the tokenizers differ in {len(tokens)} tokens ({examples})"]
    if instruct.encode(PROBE) != thinking.encode(PROBE):
        return ["the tokenizers have the same tokens but split a probe text differently"]
    return []


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else text[:77] + "..."
