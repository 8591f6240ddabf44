"""One checkpoint: its config, its tokenizer, the headers of its weights, and reading them.

Every refusal says what is wrong and comes before any weight is read. Weights are safetensors, never pickle.
"""

import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from thinkswitch import json_text
from thinkswitch.errors import UserError, first_line, quote
from thinkswitch.think_tags import Tags
from thinkswitch.weights import hub
from thinkswitch.weights.families import require_supported
from thinkswitch.weights.prompting import (
    Conversation,
    Prompting,
    check_prompting,
    find_tags,
    refuse_powers,
    render_prompt,
    tags_or_default,
)
from thinkswitch.weights.safetensors_reader import (
    DTYPES,
    BlockReader,
    TensorInfo,
    open_safetensors,
    tensor_offsets,
)
from thinkswitch.weights.text_model import text_config
from thinkswitch.weights.tokenizer import read_tokenizer, turn_end
from thinkswitch.weights.weight_files import EMBEDDING, HEAD, StoredTensors, read_tensors

__all__ = ["DTYPES", "Checkpoint", "TensorInfo", "open_checkpoint", "tensor_offsets", "with_weights"]


@dataclass(frozen=True)
class Checkpoint:
    """A folder with its config and the headers of its weights; of a Hub id, the folder in the Hub's cache."""

    name: str
    folder: Path
    config: PretrainedConfig
    entries: dict[str, TensorInfo]
    prompting: Prompting = Prompting()
    vision: dict[str, TensorInfo] = field(default_factory=dict, kw_only=True)  # not used: see text_model.py
    unused: dict[str, TensorInfo] = field(default_factory=dict, kw_only=True)  # see weight_files.py
    lacking: frozenset[str] = field(default=frozenset(), kw_only=True)
    misshapen: tuple[str, ...] = field(default=(), kw_only=True)
    own_head: bool = field(default=False, kw_only=True)  # in spite of its config.json: see `settle_head`

    @property
    def commit(self) -> str:
        """Of a Hub id, whose folder in the Hub's cache is named after it; empty for a folder."""
        return "" if self.folder == Path(self.name) else self.folder.name

    def small_file(self, name: str) -> Path:
        """Where a file of the tokenizer, or generation_config.json, is, if there is one."""
        return self.folder / name

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return read_tokenizer(self.name, self.folder)

    @cached_property
    def declared_stops(self) -> set[int]:
        """Tokens that end an answer, by generation_config.json or the config, and the tokenizer."""
        path = self.small_file("generation_config.json")
        values = json_text.read(path) if path.is_file() else {}
        GenerationConfig.from_dict(values)  # what transformers does not take would end an export
        ids = values.get("eos_token_id")
        if ids is None:
            ids = self.config.eos_token_id
        listed = ids if isinstance(ids, list) else [ids]
        stops = [i for i in [*listed, self.tokenizer.eos_token_id] if i is not None]
        if not all(type(i) is int for i in stops):  # text would never stop, and fail in the middle of a run
            raise UserError(f"{self.name} has the eos_token_id {quote(ids)}; it must hold token ids")
        return set(stops)

    @cached_property
    def template_turn_end(self) -> int | None:
        """The token with which the chat template ends an assistant's turn, whether declared or not."""
        return turn_end(self.tokenizer, self.prompting, self.declared_stops)

    @property
    def stop_token_ids(self) -> set[int]:
        """Tokens that end an answer: copies of base models declare only the end of a document."""
        template = self.template_turn_end
        return self.declared_stops if template is None else self.declared_stops | {template}

    @property
    def turn_end(self) -> int:
        """The token that ends an assistant's turn, as answers are taught to end."""
        ends = (self.template_turn_end, self.tokenizer.eos_token_id, *sorted(self.declared_stops))
        return next(end for end in ends if end is not None)  # there is one: see `check_chat_template`

    def prompt_ids(self, prompt: str, conversation: Conversation = Conversation()) -> list[int]:
        """Token ids of a prompt, chat template applied."""
        ids = self.tokenizer.encode(self.render(prompt, conversation), add_special_tokens=False)
        if max(ids, default=0) >= self.config.vocab_size:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise UserError(f"{self.name} has no weights for the token {token!r}, which the prompt holds")
        return ids

    def render(self, prompt: str, conversation: Conversation = Conversation()) -> str:
        """A prompt as the chat template shows it to the model."""
        return render_prompt(self.tokenizer, self.prompting, prompt, conversation)

    def check_system(self, system: str) -> None:
        """A UserError where the chat template would leave this system prompt out."""
        check_prompting(self.name, self.tokenizer, replace(self.prompting, system=system))

    @cached_property
    def found_tags(self) -> Tags | None:
        """The tags of its traces; None if neither preset nor template nor vocabulary shows them."""
        return find_tags(self.tokenizer, self.prompting)

    @property
    def think_tags(self) -> Tags:
        return tags_or_default(self.found_tags)

    @cached_property
    def template_opens_think(self) -> bool:
        """Whether the chat template opens the trace itself, as Qwen3-2507's thinking one does."""
        return self.render("").rstrip().endswith(self.think_tags.open)

    @cached_property
    def opening_tokens(self) -> tuple[list[int], list[int]]:
        """The tokens of the tag that opens a trace: all but the last, and every one that may be the last.

        Where the tag is plain text, its end and the line break after it may be one token.
        """
        *first, last = self.tokenizer.encode(self.think_tags.open, add_special_tokens=False)
        if not first:
            return [], [last]
        end = str(self.tokenizer.convert_ids_to_tokens(last))
        return first, sorted(i for text, i in self.tokenizer.get_vocab().items() if text.startswith(end))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor in the order of the files, one at a time, as stored (memory-mapped)."""
        for file in sorted({info.file for info in self.entries.values()}):
            with open_safetensors(self.folder / file) as shard:
                for name in sorted(name for name, info in self.entries.items() if info.file == file):
                    yield name, shard.get_tensor(self.stored_name(name))

    def tensor(self, name: str, rows: slice = slice(None)) -> torch.Tensor:
        """A tensor as stored (memory-mapped); only `rows` of it are read."""
        stored = self.stored_name(name)
        with open_safetensors(self.folder / self.entries[name].file) as shard:
            return shard.get_tensor(stored) if rows == slice(None) else shard.get_slice(stored)[rows]

    def stream(self, name: str, step: int) -> Iterator[torch.Tensor]:
        """A tensor in float32, `step` rows at a time, all blocks IN THE SAME MEMORY (see `BlockReader`)."""
        info = self.entries[name]
        if info.dtype not in DTYPES:
            yield from self.tensor(name).float().split(step)
            return
        path = self.folder / info.file
        if path not in self._offsets:
            self._offsets[path] = tensor_offsets(path)
        yield from BlockReader(path, self._offsets[path][self.stored_name(name)], info, step)

    def stored_name(self, name: str) -> str:
        """The name of a tensor in its file."""
        return self.entries[name].stored_as or name

    def stored(self) -> list[TensorInfo]:
        """All that the files hold."""
        return [*self.entries.values(), *self.vision.values(), *self.unused.values()]

    @property
    def files(self) -> list[str]:
        """Those that hold its weights."""
        return sorted({info.file for info in self.stored()})

    def missing(self) -> hub.Missing:
        """Its weights that are not in its folder yet."""
        return hub.missing_weights(self.name, self.folder, self.files, self.stored())

    @cached_property
    def _offsets(self) -> dict[Path, dict[str, int]]:
        """Where in its file a tensor begins; filled as files are first read."""
        return {}


def open_checkpoint(
    name: str, headers_only: bool = False, prompting: Prompting = Prompting(), commit: str = ""
) -> Checkpoint:
    """Config and headers of a folder or Hub id; a UserError for what cannot be used.

    Refused are checkpoints that are incomplete, pickled, quantised, of an unknown family or without a chat
    template.
    """
    checkpoint = open_folder(name, *find_folder(name, commit), prompting)
    return checkpoint if headers_only else with_weights(checkpoint)[0]


def open_folder(name: str, folder: Path, on_hub: bool, prompting: Prompting = Prompting()) -> Checkpoint:
    """A checkpoint from its headers. `folder`, `on_hub`: as from `find_folder`."""
    config = read_config(name, folder)
    tensors = read_tensors(name, folder, config, on_hub)
    checkpoint = Checkpoint(name, folder, config, tensors.entries, prompting)
    check_chat_template(checkpoint)
    return with_tensors(checkpoint, tensors)


def with_tensors(checkpoint: Checkpoint, tensors: StoredTensors) -> Checkpoint:
    """The checkpoint of these tensors, with the meaning of its head settled once its weights are here."""
    opened = replace(checkpoint, **vars(tensors))
    if HEAD in opened.unused and EMBEDDING in opened.entries and not opened.missing().files:
        return settle_head(opened)
    return opened


def settle_head(checkpoint: Checkpoint) -> Checkpoint:
    """A head that is stored although the config ties it: left out if it is the embedding, else it counts.

    So do transformers 5; other programs follow the config.
    """
    head, embedding = checkpoint.unused[HEAD], checkpoint.entries[EMBEDDING]
    stored = replace(checkpoint, entries={**checkpoint.entries, HEAD: head})
    if head.shape == embedding.shape and equal_tensors(stored, HEAD, EMBEDDING):
        return checkpoint
    unused = {name: info for name, info in checkpoint.unused.items() if name != HEAD}
    return replace(stored, config=untied(checkpoint.config), unused=unused, own_head=True)


def with_own_head(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, if it is tied, as an untied one: its head is its embedding, read again."""
    head = replace(checkpoint.entries[EMBEDDING], stored_as=checkpoint.stored_name(EMBEDDING))
    entries = {**checkpoint.entries, HEAD: head}
    return replace(checkpoint, config=untied(checkpoint.config), entries=entries)


def untied(config: PretrainedConfig) -> PretrainedConfig:
    changed = deepcopy(config)
    changed.tie_word_embeddings = False
    return changed


def equal_tensors(checkpoint: Checkpoint, one: str, other: str, step: int = 4096) -> bool:
    """Whether two tensors of a checkpoint hold the same numbers."""
    for start in range(0, checkpoint.entries[one].shape[0], step):
        rows = slice(start, start + step)
        if not torch.equal(checkpoint.tensor(one, rows).float(), checkpoint.tensor(other, rows).float()):
            return False
    return True


def find_folder(name: str, commit: str = "") -> tuple[Path, bool]:
    """(the folder of a checkpoint or adapter, whether it is that of a Hub id in the Hub's cache).

    `commit`: of a Hub id, whatever its newest one is now.
    """
    if not name:
        raise UserError("no checkpoint given; name a folder or a Hub id for both instruct and thinking")
    on_hub = not Path(name).is_dir()
    return (hub.small_files(name, commit) if on_hub else Path(name)), on_hub


def read_config(name: str, folder: Path) -> PretrainedConfig:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise UserError(f"{name} is an adapter; name it as thinking, and its checkpoint as instruct")
        raise UserError(f"{name} is no checkpoint: it has no config.json")
    try:
        # without the False, transformers asks on the terminal whether to run code of the checkpoint
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever a damaged file leads to
        raise UserError(f"{name}/config.json cannot be used: {first_line(error)}") from None
    if getattr(config, "quantization_config", None):
        raise UserError(f"{name} is quantised; interpolation needs the original weights")
    config = text_config(config)
    require_supported(name, config)
    pad = getattr(config, "pad_token_id", None)
    if isinstance(pad, int) and pad >= config.vocab_size:
        config.pad_token_id = None  # no model can be made with it, and padding is masked
    return config


def check_chat_template(checkpoint: Checkpoint) -> None:
    """A UserError if the small files are damaged: it should show now, not in the middle of a run."""
    name = checkpoint.name
    if not checkpoint.tokenizer.chat_template:
        raise UserError(
            f"{name} has no chat template; copy chat_template.jinja from the vendor's checkpoint into it"
        )
    refuse_powers(name, checkpoint.tokenizer)
    asked = f" with {checkpoint.prompting}" if str(checkpoint.prompting) else ""
    try:
        check_prompting(name, checkpoint.tokenizer, checkpoint.prompting)
        _ = checkpoint.stop_token_ids, checkpoint.template_opens_think
        if not checkpoint.stop_token_ids:
            raise UserError(
                f"{name} has nothing that ends an answer, neither in its configs nor in its chat template; "
                "write the token into generation_config.json, as eos_token_id"
            )
    except UserError:
        raise
    except Exception as error:  # templates are programs: they raise what they like
        raise UserError(
            f"{name}: chat template or generation_config.json cannot be used{asked}: {first_line(error)}"
        ) from None


def with_weights(*checkpoints: Checkpoint) -> list[Checkpoint]:
    """The same checkpoints with their weights in their folders.

    Nothing is downloaded if the disk has no room for all of it.
    """
    missing = [checkpoint.missing() for checkpoint in checkpoints]
    size = sum(one.nbytes for one in missing)
    free = shutil.disk_usage(checkpoints[0].folder).free
    if size > free:
        names = " and ".join(one.name for one in missing if one.files)
        raise UserError(
            f"the weights of {names} take {size / 1e9:,.1f} GB, the disk of the Hub's cache has "
            f"{free / 1e9:,.1f} GB free; make room, or set HF_HOME to a folder on a larger disk"
        )
    complete = []
    for checkpoint, one in zip(checkpoints, missing, strict=True):
        if one.files:
            name, folder = checkpoint.name, checkpoint.folder
            hub.fetch(name, folder, one.files, checkpoint.files, one.nbytes)
            checkpoint = with_tensors(checkpoint, read_tensors(name, folder, checkpoint.config))
        complete.append(checkpoint)
    return complete
