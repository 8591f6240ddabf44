"""What an export consists of: tensors, the files they go to, and the small files with them."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from transformers import PretrainedConfig

from thinkswitch import __version__
from thinkswitch.errors import UserError
from thinkswitch.export.destination import MADE_BY
from thinkswitch.export.older_readers import add_old_rope, use_old_tokenizer_names
from thinkswitch.export.point import SHARD_BYTES, ExportPoint, is_local, public_name
from thinkswitch.export.safetensors_writer import file_order, tensor_bytes
from thinkswitch.weights import hub
from thinkswitch.weights.checkpoint import DTYPES, Checkpoint, TensorInfo
from thinkswitch.weights.materialise import merge_blocks, rows_per_block
from thinkswitch.weights.pair import Pair
from thinkswitch.weights.tokenizer import TOKENIZER_FILES

LICENSE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
ADAPTER_FILE = "adapter_model.safetensors"  # this name, and the prefix below, are PEFT's
ADAPTER_PREFIX = "base_model.model."


# ---- tensors


def plan_entries(point: ExportPoint, shard_bytes: int = SHARD_BYTES) -> dict[str, TensorInfo]:
    """Every tensor that an export writes, with its shape, its stored type and its file."""
    return adapter_entries(point) if point.adapter else checkpoint_entries(point.pair, shard_bytes)


def checkpoint_entries(pair: Pair, shard_bytes: int = SHARD_BYTES) -> dict[str, TensorInfo]:
    """The tensors of a checkpoint, stored as the instruct checkpoint stores them. A tied head is left out."""
    entries = {name: pair.instruct.entries[name] for name in pair.names}
    if pair.config.tie_word_embeddings:
        entries.pop("lm_head.weight", None)  # some vendors store it although it is tied
    for name, entry in entries.items():
        if entry.dtype not in DTYPES:
            known = ", ".join(DTYPES)
            raise UserError(f"{pair.instruct.name} stores {name} as {entry.dtype}; export knows {known}")
    shards = split_into_shards(entries, shard_bytes)
    if len(shards) == 1:
        files = ["model.safetensors"]
    else:
        files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    return {
        name: replace(entries[name], file=file, stored_as="")
        for file, names in zip(files, shards, strict=True)
        for name in names
    }


def split_into_shards(entries: dict[str, TensorInfo], shard_bytes: int) -> list[list[str]]:
    """The tensors of each file: as many as fit into `shard_bytes`, and at least one."""
    shards: list[list[str]] = []
    room = 0
    for name in file_order(entries):
        size = tensor_bytes(entries[name])
        if not shards or size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def adapter_entries(point: ExportPoint) -> dict[str, TensorInfo]:
    """A (rank, in) and B (out, rank) of every layer, under PEFT's names.

    A module kind that any update changes is there in every layer, as PEFT wants it.
    """
    rank, kinds = sum(point.ranks), target_modules(point)
    entries = {}
    for name in point.pair.names:
        stem, _, leaf = name.rpartition(".")
        if leaf == "weight" and stem.rpartition(".")[2] in kinds:
            out_features, in_features = point.pair.instruct.entries[name].shape
            key = f"{ADAPTER_PREFIX}{stem}"
            entries[f"{key}.lora_A.weight"] = TensorInfo((rank, in_features), "F32", ADAPTER_FILE)
            entries[f"{key}.lora_B.weight"] = TensorInfo((out_features, rank), "F32", ADAPTER_FILE)
    return entries


def target_modules(point: ExportPoint) -> list[str]:
    """The module kinds that any update changes: q_proj, up_proj ..."""
    return sorted({name.split(".")[-2] for update in point.updates for name in update.adapter.low_rank})


def tensor_blocks(point: ExportPoint, name: str, entry: TensorInfo) -> Iterator[torch.Tensor]:
    """A tensor of the export, a block of rows at a time: computed in float32 and rounded once."""
    if point.adapter:
        yield stack_adapters(point, name, entry)
        return
    step = rows_per_block(entry.shape)
    for block in merge_blocks(point.pair, point.round.adapters, point.recipe, name, step):
        yield block.to(DTYPES[entry.dtype], copy=True)


def stack_adapters(point: ExportPoint, key: str, entry: TensorInfo) -> torch.Tensor:
    """A or B of one layer with the ranks of all updates in a row; zero where an update leaves it alone."""
    stem, side = key.removeprefix(ADAPTER_PREFIX).removesuffix(".weight").split(".lora_")
    name = f"{stem}.weight"
    stacked = torch.zeros(entry.shape)
    start = 0
    for update, rank in zip(point.updates, point.ranks, strict=True):
        if name in update.adapter.low_rank:
            a, b = update.adapter.low_rank[name]
            ranks = slice(start, start + len(a))
            if side == "A":
                stacked[ranks] = a
            else:
                stacked[:, ranks] = b * update.factor(point.change[name])  # exact where it is 1
        start += rank
    return stacked


# ---- small files


def small_files(point: ExportPoint) -> dict[str, Path]:
    """Small files to copy: {name: source}. Never weights, indices or pickles."""
    instruct, thinking = point.pair.checkpoints
    sources = {name: instruct.folder / name for name in LICENSE_FILES}
    if point.gguf:  # which hold all else
        return {name: path for name, path in sources.items() if path.is_file()}
    sources |= {name: point.template_source.small_file(name) for name in TOKENIZER_FILES}
    if not point.adapter:
        sampling = instruct if point.t == 0 else thinking  # blends sample as the thinking checkpoint does
        sources["config.json"] = instruct.folder / "config.json"
        sources["generation_config.json"] = sampling.small_file("generation_config.json")
    return {name: path for name, path in sources.items() if path.is_file()}


def write_small_files(folder: Path, point: ExportPoint) -> None:
    for name, source in small_files(point).items():
        shutil.copyfile(source, folder / name)
    if point.gguf:
        return
    if (folder / "tokenizer_config.json").is_file():
        edit_json(folder / "tokenizer_config.json", use_old_tokenizer_names)
    if point.adapter:
        write_adapter_config(folder, point)
        return
    if point.pair.instruct.vision:
        point.pair.config.save_pretrained(folder)  # of the text model alone
    edit_json(folder / "config.json", partial(fit_config, point.pair.config))
    if point.template_source.turn_end not in point.template_source.declared_stops:
        declare_stops(folder / "generation_config.json", point.template_source)


def fit_config(read: PretrainedConfig, config: dict) -> None:
    """What the pair was read as, where config.json says otherwise."""
    config.pop("_name_or_path", None)  # may be a path on the machine of whoever made the checkpoint
    config["tie_word_embeddings"] = read.tie_word_embeddings
    add_old_rope(config)
    if config.get("pad_token_id") != read.pad_token_id:
        config["pad_token_id"] = read.pad_token_id


def declare_stops(path: Path, source: Checkpoint) -> None:
    """Name the end of a turn that only the chat template shows, or other programs would write on after it."""
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    values["eos_token_id"] = sorted(source.stop_token_ids)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_adapter_config(folder: Path, point: ExportPoint) -> None:
    from peft import LoraConfig  # it takes two seconds to import

    rank = sum(point.ranks)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=target_modules(point),
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=adapter_base(point.pair.instruct),
        revision=hub.revision_of(point.pair.instruct.name) or None,
    )
    config.save_pretrained(str(folder))
    edit_json(folder / "adapter_config.json", sort_target_modules)


def sort_target_modules(config: dict) -> None:
    config["target_modules"].sort()  # peft writes a set


def adapter_base(checkpoint: Checkpoint) -> str:
    """What an adapter names as its base: a Hub id, or the bare name of a folder.

    No path: it would be wrong on every other machine, and tell who made the adapter. So a folder is named
    where the adapter is loaded, as the model card shows.
    """
    return checkpoint.folder.resolve().name if is_local(checkpoint) else hub.repo_of(checkpoint.name)


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def kind_of(point: ExportPoint) -> str:
    if point.gguf:
        return "gguf"
    return "adapter" if point.adapter else "checkpoint"


def write_recipe(folder: Path, point: ExportPoint, hashes: dict[str, str]) -> None:
    """recipe.json: the exact coefficients, and the names of all files, which a later export may replace."""
    recipe = {
        "made_by": MADE_BY,
        "version": __version__,
        "kind": kind_of(point),
        "instruct": public_name(point.pair.instruct),
        "thinking": public_name(point.pair.thinking),
        "round": point.round.number,
        "t": point.t,
        "schedule": asdict(point.schedule),
        "template": point.template,
        "files": sorted({path.name for path in folder.iterdir()} | {"recipe.json"}),
        "sha256": hashes,
        "basis": point.basis,
        "commits": {hub.repo_of(name): commit for name, commit in point.pair.commits.items()},
        "coefficients": point.recipe,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
