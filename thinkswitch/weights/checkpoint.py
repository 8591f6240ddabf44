"""Pair: two checkpoints that can be interpolated. Opened by config, tokenizer and safetensors *headers*.

Every refusal names what differs, and comes before any weight is read. Weights are safetensors, never pickle.
"""

import json
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Iterator

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from thinkswitch.errors import UserError, first_line, list_some
from thinkswitch.weights import hub
from thinkswitch.weights.families import SUPPORTED

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # as safetensors names them


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as its header has it."""

    shape: tuple[int, ...]
    dtype: str  # as safetensors names it: BF16, F32 ...
    file: str


@dataclass(frozen=True)
class Checkpoint:
    """A folder (or, for a look at headers alone, a Hub id) with its config and the headers of its weights."""

    name: str
    folder: Path
    config: PretrainedConfig
    entries: dict[str, TensorInfo]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        try:
            return AutoTokenizer.from_pretrained(self.folder, padding_side="left", local_files_only=True)
        except Exception as error:  # the library raises whatever a damaged file leads to
            raise UserError(f"{self.name} has no readable tokenizer: {first_line(error)}") from None

    @cached_property
    def stop_token_ids(self) -> set[int]:
        """Token ids that end an answer."""
        path = self.folder / "generation_config.json"
        ids = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        ids = self.config.eos_token_id if ids is None else ids
        return {i for i in [*(ids if isinstance(ids, list) else [ids]), self.tokenizer.eos_token_id] if i is not None}

    @cached_property
    def turn_end(self) -> int:
        """The token that ends an assistant's turn in this chat template."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        after = self.tokenizer.encode(text[text.rindex("!") + 1:], add_special_tokens=False)
        return next((i for i in after if i in self.stop_token_ids), self.tokenizer.eos_token_id)

    def prompt_ids(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(self.render(prompt), add_special_tokens=False)

    def render(self, prompt: str) -> str:
        return self.tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                                  add_generation_prompt=True)

    @cached_property
    def template_opens_think(self) -> bool:
        """Whether the chat template opens the trace itself, as Qwen3-2507's thinking one does."""
        return self.render("").rstrip().endswith("<think>")

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor in the order of the files, one at a time, as stored (memory-mapped)."""
        for file in sorted({e.file for e in self.entries.values()}):
            with _open(self.folder / file) as shard:
                for name in sorted(n for n, e in self.entries.items() if e.file == file):
                    yield name, shard.get_tensor(name)

    def tensor(self, name: str, rows: slice = slice(None)) -> torch.Tensor:
        """As stored (memory-mapped); of `rows` only these are read."""
        with _open(self.folder / self.entries[name].file) as shard:
            return shard.get_tensor(name) if rows == slice(None) else shard.get_slice(name)[rows]

    def stream(self, name: str, step: int) -> Iterator[torch.Tensor]:
        """In float32, `step` rows at a time, each block in the memory of the one before.

        Read, not mapped: what has been read of a mapping counts as our memory until it goes, and threads that touch
        new pages of one wait for each other.
        """
        entry, path = self.entries[name], self.folder / self.entries[name].file
        if entry.dtype not in DTYPES:
            yield from self.tensor(name).float().split(step)
            return
        if path not in self._starts:
            self._starts[path] = tensor_offsets(path)
        stored = torch.empty(min(step, entry.shape[0]), *entry.shape[1:], dtype=DTYPES[entry.dtype])
        block, room = torch.empty_like(stored, dtype=torch.float32), memoryview(stored.view(torch.uint8).numpy()).cast("B")
        with open(path, "rb", buffering=0) as file:
            file.seek(self._starts[path][name])
            for left in range(entry.shape[0], 0, -step):
                wanted = room[: stored[:left].nbytes]
                while wanted:
                    if not (came := file.readinto(wanted)):
                        raise UserError(f"{path} is truncated; download it again")
                    wanted = wanted[came:]
                yield block[:left].copy_(stored[:left])

    @cached_property
    def _starts(self) -> dict[Path, dict[str, int]]:
        """Where in its file a tensor begins; filled as files are first read."""
        return {}


def open_checkpoint(name: str, headers_only: bool = False) -> Checkpoint:
    """Config and headers of a folder or Hub id; refuses what is incomplete, pickled, quantised or of another shape."""
    if not name:
        raise UserError("no checkpoint given; name a folder or a Hub id for both instruct and thinking")
    on_hub = not Path(name).is_dir()
    folder = hub.small_files(name) if on_hub else Path(name)
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} is no checkpoint: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise UserError(f"{name}/config.json cannot be used: {first_line(error)}") from None
    if getattr(config, "quantization_config", None):
        raise UserError(f"{name} is quantised; interpolation needs the original weights")
    if config.model_type not in SUPPORTED:
        experts = any(getattr(config, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts"))
        raise UserError(f"{name} is a {config.model_type} model{', and mixture-of-experts layers are not supported yet' if experts else ''}; "
                        f"known are {', '.join(SUPPORTED)}")
    checkpoint = Checkpoint(name, folder, config, _headers(name, folder, on_hub))
    if not checkpoint.tokenizer.chat_template:
        raise UserError(f"{name} has no chat template; copy chat_template.jinja from the vendor's checkpoint into it")
    try:
        checkpoint.stop_token_ids, checkpoint.turn_end, checkpoint.template_opens_think  # a damaged template shows now, not in the middle of a run
    except Exception as error:
        raise UserError(f"{name}: chat template or generation_config.json cannot be used: {first_line(error)}") from None
    return checkpoint if headers_only else with_weights(checkpoint)[0]


def _headers(name: str, folder: Path, on_hub: bool = False) -> dict[str, TensorInfo]:
    """Of all tensors. What is not in the folder yet is asked of the Hub: headers, no weights."""
    files, listed = _index(folder)
    absent = hub.absent(folder, files)
    if absent and not on_hub:
        if not listed:
            pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
            raise UserError(f"{name} has no weights: model.safetensors is missing"
                            + ("; its pickled weights are never opened, convert them to safetensors" if pickled else ""))
        raise UserError(f"{name} lacks {len(absent)} of its {len(files)} shards ({list_some(absent)}); download it again")
    entries = {}
    for file, tensors in zip(files, hub.headers(name, folder, files) if absent else (_header(folder / f) for f in files)):
        for key, shape, dtype in tensors:
            if not key.endswith("rotary_emb.inv_freq"):  # old Llama files store the table that config describes
                entries[key] = TensorInfo(tuple(shape), dtype, file)
    lost = sorted(listed - entries.keys())
    if lost:
        raise UserError(f"{name}: {len(lost)} tensors that the index lists are in no shard ({list_some(lost)})")
    return entries


def _index(folder: Path) -> tuple[list[str], set[str]]:
    """The files that hold the weights, and the tensors that an index, if there is one, says are in them."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"], set()
    try:
        placed = json.loads(index.read_text())["weight_map"]
        return sorted(set(placed.values())), set(placed)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} is not a readable index of shards") from None


def _header(path: Path) -> list[tuple]:
    with _open(path) as shard:
        return [(key, view.get_shape(), view.get_dtype()) for key in shard.keys() for view in [shard.get_slice(key)]]


def tensor_offsets(path: Path) -> dict[str, int]:
    """The byte of a safetensors file at which each tensor begins: after a length in 8 bytes and a table in JSON."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return {name: 8 + size + entry["data_offsets"][0] for name, entry in json.loads(file.read(size)).items() if name != "__metadata__"}


def _open(path: Path):
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{path} is truncated or no safetensors file ({error}); download it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def with_weights(*checkpoints: Checkpoint) -> list[Checkpoint]:
    """The same with their weights in their folders. Nothing is fetched when the disk has no room for all of it."""
    absent = [hub.absent(c.folder, _index(c.folder)[0]) for c in checkpoints]
    sizes = [sum(_size(e) for e in c.entries.values() if e.file in files) for c, files in zip(checkpoints, absent)]
    free = shutil.disk_usage(checkpoints[0].folder).free
    if sum(sizes) > free:
        raise UserError(f"the weights of {' and '.join(c.name for c, files in zip(checkpoints, absent) if files)} take {sum(sizes) / 1e9:,.1f} GB, "
                        f"the disk of the Hub's cache has {free / 1e9:,.1f} GB free; make room, or set HF_HOME to a folder on a larger disk")
    for c, files, size in zip(checkpoints, absent, sizes):
        if files:
            hub.fetch(c.name, c.folder, files, _index(c.folder)[0], size)
    return [replace(c, entries=_headers(c.name, c.folder)) if files else c for c, files in zip(checkpoints, absent)]


def _size(entry: TensorInfo) -> float:
    return torch.Size(entry.shape).numel() * int("".join(filter(str.isdigit, entry.dtype.partition("_")[0])) or 8) / 8
