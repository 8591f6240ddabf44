"""A checkpoint that is another one plus a LoRA adapter: W = W_base + scale * B A, formed when it is read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from thinkswitch.errors import UserError, list_some, quote
from thinkswitch.recipe import module_kind
from thinkswitch.weights import adapter as peft_format
from thinkswitch.weights import hub
from thinkswitch.weights.adapter import Adapter, load_adapter, read_config, update_shapes
from thinkswitch.weights.checkpoint import Checkpoint, check_chat_template
from thinkswitch.weights.prompting import Prompting
from thinkswitch.weights.safetensors_reader import TensorInfo, read_header
from thinkswitch.weights.tokenizer import TOKENIZER_FILES, read_tokenizer, tokenizer_differences
from thinkswitch.weights.weight_files import INDEX, ONE_FILE

TEMPLATE = "chat_template.jinja"
QUANTISED = ("-unsloth-bnb-4bit", "-bnb-4bit", "-4bit")  # Unsloth's names for copies of a checkpoint


@dataclass(frozen=True, kw_only=True)
class AdaptedCheckpoint(Checkpoint):
    """Named after the adapter, whose folder it has; `config` and `entries` are those of `base`."""

    base: Checkpoint
    header: dict[str, TensorInfo]  # of the adapter's own file
    own_files: frozenset[str]  # small files that are taken from the adapter's folder
    remarks: tuple[str, ...]  # what a user should know of it

    @cached_property
    def adapter(self) -> Adapter:
        return load_adapter(self.folder, self.name)

    @property
    def parameters(self) -> int:
        """Of the adapter."""
        return sum(prod(info.shape) for info in self.header.values())

    def missing(self) -> hub.Missing:
        """Of the adapter; those of `base` are its own."""
        return hub.missing_weights(self.name, self.folder, [peft_format.WEIGHTS], self.header.values())

    def small_file(self, name: str) -> Path:
        return (self.folder if name in self.own_files else self.base.folder) / name

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = read_tokenizer(self.name, self.small_file("tokenizer.json").parent)
        if TEMPLATE in self.own_files and self.small_file(TEMPLATE).is_file():
            tokenizer.chat_template = self.small_file(TEMPLATE).read_text(encoding="utf-8")
        return tokenizer

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, _ in self.base.tensors():
            yield name, self.tensor(name)

    def tensor(self, name: str, rows: slice = slice(None)) -> torch.Tensor:
        """As `base` has it; in float32 where the adapter changes it."""
        weight = self.base.tensor(name, rows)
        if name not in self.adapter.low_rank:
            return weight
        a, b = self.adapter.low_rank[name]
        return torch.addmm(weight.float(), b[rows], a)

    def stream(self, name: str, step: int) -> Iterator[torch.Tensor]:
        blocks = self.base.stream(name, step)
        if name not in self.adapter.low_rank:
            yield from blocks
            return
        a, b = self.adapter.low_rank[name]
        for block, rows in zip(blocks, b.split(step), strict=True):
            yield block.addmm_(rows, a)


def is_adapter(folder: Path) -> bool:
    """Whether a folder, or what is here of a Hub id, holds an adapter and no whole checkpoint."""
    whole = (folder / ONE_FILE).is_file() or (folder / INDEX).is_file()
    return (folder / peft_format.CONFIG).is_file() and not whole


def open_adapted(
    name: str, folder: Path, on_hub: bool, base: Checkpoint, prompting: Prompting = Prompting()
) -> AdaptedCheckpoint:
    """Config and header of an adapter and its fit to `base`; a UserError for what cannot be used."""
    config = read_config(name, folder)
    header = read_weights_header(name, folder, on_hub)
    refuse_misfit(name, base, update_shapes(name, config, header))
    rank = f"thinking is instruct + adapter of rank {config['r']} on {len(header) // 2} linear layers"
    own_files, refused = choose_small_files(name, folder, base)
    remarks = (rank, *base_remark(config, base.name), *refused)
    opened = AdaptedCheckpoint(
        name,
        folder,
        base.config,
        base.entries,
        prompting,
        vision=base.vision,
        base=base,
        header=header,
        own_files=own_files,
        remarks=remarks,
    )
    check_chat_template(opened)
    return opened


def fetch_weights(checkpoint: AdaptedCheckpoint) -> None:
    """Have the adapter here and readable, before the gigabytes of its base are fetched."""
    missing = checkpoint.missing()
    if missing.files:
        hub.fetch(missing.name, missing.folder, missing.files, missing.files, missing.nbytes)
    _ = checkpoint.adapter


def read_weights_header(name: str, folder: Path, on_hub: bool) -> dict[str, TensorInfo]:
    path = folder / peft_format.WEIGHTS
    if path.is_file():
        return read_header(path)
    if on_hub:
        return hub.headers(name, folder, [path.name])[0]
    pickled = "; its pickled weights are never opened, convert them to safetensors"
    has_pickle = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
    raise UserError(f"{name} has no weights: {path.name} is missing{pickled if has_pickle else ''}")


def refuse_misfit(name: str, base: Checkpoint, shapes: dict[str, tuple[int, int]]) -> None:
    """A UserError if an update's layer is not there, has another shape or is no linear one."""

    def is_linear(weight: str) -> bool:
        is_head = weight == "lm_head.weight" and not base.config.tie_word_embeddings
        return weight in base.entries and (is_head or module_kind(weight) in ("attention", "mlp"))

    misfits = [
        f"{quote(weight)} {list(shape)} / {list(base.entries[weight].shape) if is_linear(weight) else 'none'}"
        for weight, shape in shapes.items()
        if not is_linear(weight) or base.entries[weight].shape != shape
    ]
    if misfits:
        raise UserError(
            f"{name} does not fit {base.name}: {len(misfits)} of its {len(shapes)} updates are of other "
            f"layers ({list_some(misfits)}); give the checkpoint that it was trained on as instruct"
        )


def base_remark(config: dict, instruct: str) -> list[str]:
    """A remark if the adapter says it was trained on another checkpoint. Shapes are the hard check."""
    named = str(config.get("base_model_name_or_path") or "")
    if not named:
        return ["the adapter does not say which checkpoint it was trained on; its shapes fit"]
    if bare_name(named) == bare_name(instruct):
        return []
    # a Hub id, or the end of a path, which says nothing about the machine
    shown = "/".join(path_parts(named)[-2:])
    found = f"the adapter says it was trained on {quote(shown)}, not on {path_parts(instruct)[-1]}"
    return [f"{found}; its shapes fit"]


def bare_name(name: str) -> str:
    """A checkpoint's name without owner or folder, and without what Unsloth adds."""
    bare = path_parts(name)[-1].lower()
    suffix = next((suffix for suffix in QUANTISED if bare.endswith(suffix)), "")
    return bare.removesuffix(suffix)


def path_parts(name: str) -> list[str]:
    """Of a Hub id or of a path of any system."""
    return [part for part in re.split(r"[/\\]", name) if part] or [name]


# ---- tokenizer and chat template


def choose_small_files(name: str, folder: Path, base: Checkpoint) -> tuple[frozenset[str], list[str]]:
    """(the files to take from the adapter's folder, a remark if its tokenizer is not taken).

    A tokenizer counts if it has a chat template and the base's vocabulary. A chat template alone goes with
    the base's tokenizer.
    """
    here = {file for file in (*TOKENIZER_FILES, "generation_config.json") if (folder / file).is_file()}
    own = here - set(TOKENIZER_FILES)
    if not here & {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"}:
        return frozenset(own | here & {TEMPLATE}), []
    tokenizer = read_tokenizer(name, folder)
    found = tokenizer_differences(base.tokenizer, tokenizer)
    if not tokenizer.chat_template:
        found.append("it has no chat template")
    if found:
        return frozenset(own), [f"the adapter's tokenizer is not used: {'; '.join(found)}"]
    return frozenset(own | set(TOKENIZER_FILES)), []
