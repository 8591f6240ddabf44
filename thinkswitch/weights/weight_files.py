"""Which files hold a checkpoint's weights, and what the model takes of them: what transformers would read.

One file comes before the shards of an index; pickles are never opened. Names may lack transformers' prefix or
have one too many, and what no model of the type has is left out.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from thinkswitch import json_text
from thinkswitch.errors import UserError, first_line, list_some
from thinkswitch.weights import hub
from thinkswitch.weights.safetensors_reader import TensorInfo, read_header
from thinkswitch.weights.text_model import split_vision

INDEX = "model.safetensors.index.json"
ONE_FILE = "model.safetensors"
PLAIN_NAME = re.compile(r"[\w][\w. -]*")  # of a shard
PREFIX = "model."  # of everything but the head
# What quantised weights have beside them; without it they are no numbers that can be interpolated.
SCALES = re.compile(r"\.(qweight|qzeros|scales|SCB|absmax|quant_map|quant_state\..*|\w+_scale(_inv)?)$")
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class StoredTensors:
    """What the headers of a checkpoint's files say, by the names of its model."""

    entries: dict[str, TensorInfo]  # what the model is made of
    vision: dict[str, TensorInfo]  # not used: see text_model.py
    unused: dict[str, TensorInfo] = field(default_factory=dict)  # what the model has no place for
    lacking: frozenset[str] = frozenset()  # what the model has and no file
    misshapen: tuple[str, ...] = ()  # a clause for each tensor that has not the shape of its config


def read_tensors(name: str, folder: Path, config: PretrainedConfig, on_hub: bool = False) -> StoredTensors:
    """From headers alone. `on_hub`: headers of absent files are downloaded."""
    stored, vision = split_vision(read_headers(name, folder, on_hub))
    try:
        shapes = model_shapes(config)
    except Exception as error:  # the library raises whatever odd settings lead to
        raise UserError(f"{name}/config.json describes no model: {first_line(error)}") from None
    entries: dict[str, TensorInfo] = {}
    unused = {}
    for key, info in stored.items():
        known = model_name(key, shapes)
        if known is None or (known in entries and known != key):
            unused[key] = info
        else:
            entries[known] = info if known == key else replace(info, stored_as=info.stored_as or key)
    scales = sorted(key for key in unused if SCALES.search(key))
    if scales:
        raise UserError(
            f"{name} is quantised (it holds {list_some(scales)}); interpolation needs the original weights"
        )
    if config.tie_word_embeddings and EMBEDDING not in entries and HEAD in unused:
        entries[EMBEDDING] = replace(unused.pop(HEAD), stored_as=HEAD)  # transformers ties either way
    misshapen = [
        f"{key} is {list(info.shape)}, {list(shapes[key])} by the config"
        for key, info in entries.items()
        if info.shape != shapes[key]
    ]
    return StoredTensors(entries, vision, unused, frozenset(shapes.keys() - entries), tuple(misshapen))


def model_shapes(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a model of this config; a tied head is none."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def model_name(stored: str, known: dict[str, tuple[int, ...]]) -> str | None:
    """What the model calls a stored tensor, found as transformers finds it; None if it has no such tensor."""
    candidates = (stored, stored.removeprefix(PREFIX), PREFIX + stored)
    return next((name for name in candidates if name in known), None)


# ---- files


def read_headers(name: str, folder: Path, on_hub: bool = False) -> dict[str, TensorInfo]:
    """What the headers say about all tensors. `on_hub`: headers of absent files are downloaded."""
    files, listed = weight_files(name, folder, on_hub)
    missing = hub.missing_files(folder, files)
    if missing and not on_hub:
        refuse_missing_weights(name, folder, files, missing)
    tables = hub.headers(name, folder, files) if missing else [read_header(folder / file) for file in files]
    entries = {tensor: info for table in tables for tensor, info in table.items()}
    lost = sorted(listed - entries.keys())
    if lost:
        raise UserError(
            f"{name}: {len(lost)} tensors that the index lists are in no shard ({list_some(lost)}); "
            "download it again"
        )
    return entries


def weight_files(name: str, folder: Path, on_hub: bool) -> tuple[list[str], set[str]]:
    """The files that hold the weights, and the tensors that an index, if it counts, says are in them."""
    path = folder / INDEX
    if (folder / ONE_FILE).is_file() or not path.is_file():
        return [ONE_FILE], set()
    try:
        file_of_tensor = json_text.read(path)["weight_map"]
        files, listed = sorted(set(file_of_tensor.values())), set(file_of_tensor)
        if not all(PLAIN_NAME.fullmatch(file) for file in files):  # nor may one lie in another folder
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a readable index of shards; download it again") from None
    if on_hub and hub.missing_files(folder, files) and hub.has_file(name, folder, files, ONE_FILE):
        return [ONE_FILE], set()  # the index is a leftover
    return files, listed


def refuse_missing_weights(name: str, folder: Path, files: list[str], missing: list[str]) -> None:
    if (folder / INDEX).is_file():
        raise UserError(
            f"{name} lacks {len(missing)} of its {len(files)} shards ({list_some(missing)}); "
            "download it again"
        )
    lacks = f"{name} has no weights: {ONE_FILE} is missing"
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        raise UserError(f"{lacks}, and so is {INDEX} for what is there ({list_some(others)}); add the index")
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise UserError(f"{lacks}; its pickled weights are never opened, convert them to safetensors")
    raise UserError(lacks)
