"""What an export consists of: which tensors go to which file, their blocks of rows, and the small files beside them."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from thinkswitch.errors import UserError
from thinkswitch.export.destination import MADE_BY
from thinkswitch.export.model_card import public_name
from thinkswitch.export.point import SHARD_BYTES, ExportPoint
from thinkswitch.export.safetensors_writer import file_order, tensor_bytes
from thinkswitch.rounds import Round
from thinkswitch.weights.checkpoint import DTYPES, TensorInfo
from thinkswitch.weights.materialise import merge_blocks, rows_per_block
from thinkswitch.weights.pair import Pair

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
             "vocab.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json")
TERMS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")


def checkpoint_entries(pair: Pair, shard: int = SHARD_BYTES) -> dict[str, TensorInfo]:
    """Every tensor with the file it goes to, stored as the instruct checkpoint stores it; a tied head is none of its own."""
    entries, groups, room = {name: pair.instruct.entries[name] for name in pair.names}, [], 0
    if pair.config.tie_word_embeddings:
        entries.pop("lm_head.weight", None)  # some vendors store it twice
    for name, entry in entries.items():
        if entry.dtype not in DTYPES:
            raise UserError(f"{pair.instruct.name} stores {name} as {entry.dtype}; export knows {', '.join(DTYPES)}")
    for name in file_order(entries):
        if not groups or tensor_bytes(entries[name]) > room:
            groups.append([])
            room = shard
        groups[-1].append(name)
        room -= tensor_bytes(entries[name])
    files = [f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    files = files if len(files) > 1 else ["model.safetensors"]
    return {name: dataclasses.replace(entries[name], file=file) for file, group in zip(files, groups) for name in group}


def adapter_entries(point: ExportPoint) -> dict[str, TensorInfo]:
    """A and B of every layer, under PEFT's names. Module kinds that some round has trained are there in every layer."""
    rank, kinds, entries = sum(point.ranks), target_modules(point.round), {}
    for name in point.pair.names:
        if name.endswith(".weight") and name.split(".")[-2] in kinds:
            (out, width), key = point.pair.instruct.entries[name].shape, "base_model.model." + name.removesuffix("weight")
            entries[f"{key}lora_A.weight"] = TensorInfo((rank, width), "F32", "adapter_model.safetensors")
            entries[f"{key}lora_B.weight"] = TensorInfo((out, rank), "F32", "adapter_model.safetensors")
    return entries


def target_modules(round: Round) -> list[str]:
    return sorted({name.split(".")[-2] for adapter in round.adapters for name in adapter.low_rank})


def blocks(point: ExportPoint, name: str, entry: TensorInfo) -> Iterator[torch.Tensor]:
    """A tensor of the export, a block of rows at a time: float32 arithmetic, rounded once."""
    if point.adapter:
        yield stack_adapters(point, name, entry)
        return
    for block in merge_blocks(point.pair, point.round.adapters, point.recipe, name, rows_per_block(entry.shape)):
        yield block.to(DTYPES[entry.dtype], copy=True)


def stack_adapters(point: ExportPoint, key: str, entry: TensorInfo) -> torch.Tensor:
    """A (rank, in) or B (out, rank) of one layer: all rounds' ranks together, zero where a round did not train it."""
    stem, side = key.removeprefix("base_model.model.").removesuffix(".weight").split(".lora_")
    whole, at = torch.zeros(entry.shape), 0
    for adapter, rank in zip(point.round.adapters, point.ranks):
        if f"{stem}.weight" in adapter.low_rank:
            a, b = adapter.low_rank[f"{stem}.weight"]
            if side == "A":
                whole[at:at + len(a)] = a
            else:
                whole[:, at:at + len(a)] = b
        at += rank
    return whole


def small_files(point: ExportPoint) -> dict[str, Path]:
    """Small files to copy: name -> source. Never weights, indices or pickles."""
    instruct, words = point.pair.instruct.folder, getattr(point.pair, point.template).folder
    found = {name: words / name for name in TOKENIZER} | {name: instruct / name for name in TERMS}
    if not point.adapter:
        manners = instruct if point.t == 0 else point.pair.thinking.folder  # blends sample as the thinking checkpoint does
        found |= {"config.json": instruct / "config.json", "generation_config.json": manners / "generation_config.json"}
    return {name: path for name, path in found.items() if path.is_file()}


def write_small_files(folder: Path, point: ExportPoint) -> None:
    for name, source in small_files(point).items():
        shutil.copyfile(source, folder / name)
    if point.adapter:
        from peft import LoraConfig  # here: it takes two seconds to import
        rank = sum(point.ranks)
        LoraConfig(r=rank, lora_alpha=rank, target_modules=target_modules(point.round), task_type="CAUSAL_LM", inference_mode=True,
                   base_model_name_or_path=point.pair.instruct.name).save_pretrained(folder)
        edit_json(folder / "adapter_config.json", lambda values: values["target_modules"].sort())  # peft lists them in the order of a set
    else:
        edit_json(folder / "config.json", lambda values: values.pop("_name_or_path", None))  # may be a path on its maker's machine


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_recipe(folder: Path, point: ExportPoint, sums: dict[str, str]) -> None:
    """The exact coefficients; and the names of all files, which is what a later export may replace."""
    data = dict(made_by=MADE_BY, kind="adapter" if point.adapter else "checkpoint",
                instruct=public_name(point.pair.instruct), thinking=public_name(point.pair.thinking),
                round=point.round.number, t=point.t, schedule=asdict(point.schedule), template=point.template,
                files=sorted({path.name for path in folder.iterdir()} | {"recipe.json"}),
                sha256=sums, basis=point.basis, coefficients=point.recipe)
    (folder / "recipe.json").write_text(json.dumps(data, indent=1) + "\n")
