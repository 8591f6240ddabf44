"""A pair: two checkpoints that can be interpolated. The thinking one may be instruct + adapter."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from transformers import PretrainedConfig

from thinkswitch.errors import UserError, list_some
from thinkswitch.preset import Preset
from thinkswitch.think_tags import THINK, Tags
from thinkswitch.weights.adapted import AdaptedCheckpoint, fetch_weights, is_adapter, open_adapted
from thinkswitch.weights.adapter import Adapter
from thinkswitch.weights.checkpoint import (
    Checkpoint,
    find_folder,
    open_checkpoint,
    open_folder,
    with_own_head,
    with_weights,
)
from thinkswitch.weights.families import keys_that_must_agree
from thinkswitch.weights.hub import Missing
from thinkswitch.weights.prompting import Prompting, prompting_of, tags_or_default
from thinkswitch.weights.tokenizer import PROBE, tokenizer_differences
from thinkswitch.weights.weight_files import HEAD

AS_THEY_CAME = (Prompting(), Prompting())
NEWEST: dict[str, str] = {}  # {Hub id: commit}: none is asked for


@dataclass(frozen=True)
class Pair:
    instruct: Checkpoint
    thinking: Checkpoint

    @property
    def checkpoints(self) -> tuple[Checkpoint, Checkpoint]:
        """In the order of a recipe's coefficients."""
        return self.instruct, self.thinking

    @cached_property
    def update(self) -> Adapter | None:
        """W_thinking - W_instruct, where one set of weights is enough: an adapter, or of a hybrid none."""
        if isinstance(self.thinking, AdaptedCheckpoint):
            return self.thinking.adapter
        return Adapter({}) if self.same_weights else None

    @property
    def whole_checkpoints(self) -> tuple[Checkpoint, ...]:
        """Those with weights of their own, which are all that memory has to hold besides `update`."""
        shared = isinstance(self.thinking, AdaptedCheckpoint) or self.same_weights
        return self.checkpoints[:1] if shared else self.checkpoints

    @property
    def adapter_parameters(self) -> int:
        """Of the thinking checkpoint's adapter, from its header; 0 if that is a whole checkpoint."""
        return self.thinking.parameters if isinstance(self.thinking, AdaptedCheckpoint) else 0

    @property
    def commits(self) -> dict[str, str]:
        """{Hub id: the commit that was opened}; folders have none."""
        return {side.name: side.commit for side in self.checkpoints if side.commit}

    @property
    def config(self) -> PretrainedConfig:
        return self.instruct.config

    @cached_property
    def same_weights(self) -> bool:
        """Whether both sides are one checkpoint (a hybrid), which only the chat template tells apart."""
        instruct, thinking = self.checkpoints
        alike = type(instruct) is type(thinking) and instruct.entries == thinking.entries
        return alike and instruct.folder.resolve() == thinking.folder.resolve()

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


def open_pair_of(
    preset: Preset, headers_only: bool = False, commits: dict[str, str] = NEWEST, date: str = ""
) -> Pair:
    """The pair that a preset names, each side prompted as the preset says.

    `commits` of Hub ids and the `date` that templates write: those with which a run began, if it is one's.
    """
    names = preset.instruct, preset.thinking
    return open_pair(*names, headers_only, prompting_of(preset, date), commits)


def open_pair(
    instruct: str,
    thinking: str,
    headers_only: bool = False,
    prompting: tuple[Prompting, Prompting] = AS_THEY_CAME,
    commits: dict[str, str] = NEWEST,
) -> Pair:
    """Open and compare two checkpoints; a UserError names all that keeps them from being interpolated.

    `thinking` may name an adapter on the instruct checkpoint, also as mergekit does: `instruct+adapter`.
    Weights of Hub ids are downloaded once both are known to fit, or never with `headers_only`.
    """
    pair = open_headers(instruct, thinking, prompting, commits)
    refuse(instruct, thinking, differences(pair))
    return pair if headers_only else fetch_missing(pair)


def refuse(instruct: str, thinking: str, stops: Sequence[str]) -> None:
    """A UserError that names all that keeps a pair from being interpolated, if there is anything."""
    if stops:
        raise UserError(f"{instruct} and {thinking} cannot be interpolated: {'; '.join(stops)}")


def missing_weights(pair: Pair) -> list[Missing]:
    """A pair's weights that are not here yet, adapter included. One checkpoint on both sides counts once."""
    of_folder = {missing.folder: missing for missing in (side.missing() for side in pair.checkpoints)}
    return [missing for missing in of_folder.values() if missing.files]


def fetch_missing(pair: Pair) -> Pair:
    """The pair with its weights in its folders: what is not here is downloaded."""
    if isinstance(pair.thinking, AdaptedCheckpoint):
        fetch_weights(pair.thinking)
        base = with_weights(pair.instruct)[0]
        return Pair(base, replace(pair.thinking, base=base, config=base.config, entries=base.entries))
    return with_equal_heads(Pair(*with_weights(*pair.checkpoints)))


def open_headers(
    instruct: str,
    thinking: str,
    prompting: tuple[Prompting, Prompting] = AS_THEY_CAME,
    commits: dict[str, str] = NEWEST,
) -> Pair:
    """Both checkpoints without their weights, whether or not they fit together."""
    base = open_checkpoint(instruct, True, prompting[0], commits.get(instruct, ""))
    name = adapter_name(instruct, str(thinking))
    folder, on_hub = find_folder(name, commits.get(name, ""))
    if is_adapter(folder):
        return with_shared_tags(Pair(base, open_adapted(name, folder, on_hub, base, prompting[1])))
    if name != str(thinking):
        raise UserError(f"{name} is no adapter: it has no adapter_config.json, or whole weights beside it")
    return with_equal_heads(with_shared_tags(Pair(base, open_folder(name, folder, on_hub, prompting[1]))))


def adapter_name(instruct: str, thinking: str) -> str:
    """What follows the + in `instruct+adapter`, or all of `thinking`."""
    base, plus, adapter = thinking.partition("+")
    if not plus or Path(thinking).is_dir():
        return thinking
    if base != instruct and Path(base).resolve() != Path(instruct).resolve():
        raise UserError(
            f"thinking is an adapter on {base}, but instruct is {instruct}; "
            "both must be the checkpoint that the adapter was trained on"
        )
    return adapter


def with_shared_tags(pair: Pair) -> Pair:
    """Both sides with the tags of the thinking one: points between them write these under any template."""
    tags = tags_or_default(pair.thinking.found_tags, pair.instruct.found_tags)

    def with_tags(checkpoint: Checkpoint) -> Checkpoint:
        if checkpoint.think_tags == tags:
            return checkpoint
        return replace(checkpoint, prompting=replace(checkpoint.prompting, tags=tags))

    return Pair(with_tags(pair.instruct), with_tags(pair.thinking))


def with_equal_heads(pair: Pair) -> Pair:
    """Both sides with a head of their own if one has it: of the tied one that is its embedding."""

    def as_the_other(side: Checkpoint, other: Checkpoint) -> Checkpoint:
        alone = HEAD in other.entries and HEAD not in side.entries
        return with_own_head(side) if alone and side.config.tie_word_embeddings else side

    instruct, thinking = pair.checkpoints
    return Pair(as_the_other(instruct, thinking), as_the_other(thinking, instruct))


def differences(pair: Pair) -> list[str]:
    """What keeps two checkpoints from being interpolated, a clause each. Empty: they are compatible."""
    texts = probe(pair.thinking.think_tags), written_texts(pair)
    tokens = tokenizer_differences(pair.instruct.tokenizer, pair.thinking.tokenizer, *texts)
    return [*config_differences(pair), *tensor_differences(pair), *tokens, *tokens_without_rows(pair)]


def config_differences(pair: Pair) -> list[str]:
    found = []
    for key in keys_that_must_agree(pair.config):
        instruct, thinking = (_comparable(checkpoint.config, key) for checkpoint in pair.checkpoints)
        if instruct != thinking:
            found.append(f"{key} differs ({_shorten(instruct)} / {_shorten(thinking)})")
    return found


def tensor_differences(pair: Pair) -> list[str]:
    instruct, thinking = pair.instruct.entries, pair.thinking.entries
    wanted = instruct.keys() | thinking.keys() | pair.instruct.lacking | pair.thinking.lacking
    found = []
    for role, side in (("instruct", pair.instruct), ("thinking", pair.thinking)):
        missing = sorted(wanted - side.entries.keys())
        if missing:
            names = list_some(missing)
            found.append(f"{len(missing)} tensors are missing from the {role} checkpoint ({names})")
        if side.misshapen:
            examples = list_some(list(side.misshapen))
            found.append(f"{len(side.misshapen)} tensors of {role} do not fit its config ({examples})")
    shapes = [
        f"{name} {list(instruct[name].shape)} / {list(thinking[name].shape)}"
        for name in sorted(instruct.keys() & thinking)
        if instruct[name].shape != thinking[name].shape
    ]
    if shapes:
        found.append(f"{len(shapes)} tensors differ in shape ({list_some(shapes)})")
    return found


def tokens_without_rows(pair: Pair) -> list[str]:
    """A clause for each side whose every prompt holds a token that the embedding has no row for."""
    found = []
    for role, side in (("instruct", pair.instruct), ("thinking", pair.thinking)):
        written = side.tokenizer.encode(side.render("?") + side.think_tags.open + side.think_tags.close)
        beyond = sorted({i for i in written if i >= side.config.vocab_size})
        if beyond:
            tokens = list_some([repr(side.tokenizer.decode([i])) for i in beyond])
            found.append(f"{role} writes tokens that have no row in the embedding ({tokens})")
    return found


def written_texts(pair: Pair) -> str:
    """What is written to a model of the pair beside prompts and chat templates."""
    tags = pair.thinking.think_tags
    return "\n".join([tags.open, tags.close, *(str(side.prompting) for side in pair.checkpoints)])


def probe(tags: Tags) -> str:
    """PROBE with these tags."""
    return PROBE.replace(THINK.open, tags.open).replace(THINK.close, tags.close)


def _comparable(config: PretrainedConfig, key: str) -> object:
    value = getattr(config, key, None)
    if key == "rope_parameters" and isinstance(value, dict):
        return {name: setting for name, setting in value.items() if name != "type"}  # rope_type, of old
    return value


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else text[:77] + "..."
