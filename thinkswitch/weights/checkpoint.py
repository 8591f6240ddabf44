"""One checkpoint: its config, its tokenizer, the headers of its weights, and reading them.

Every refusal says what is wrong and comes before any weight is read. Weights are safetensors, never pickle.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from thinkswitch import json_text
from thinkswitch.errors import UserError, first_line, list_some, quote
from thinkswitch.think_tags import Tags
from thinkswitch.weights import hub
from thinkswitch.weights.families import require_supported
from thinkswitch.weights.prompting import (
    Conversation,
    Prompting,
    check_prompting,
    find_tags,
    render,
    render_prompt,
    tags_or_default,
)
from thinkswitch.weights.safetensors_reader import (
    DTYPES,
    BlockReader,
    TensorInfo,
    open_safetensors,
    read_header,
    tensor_offsets,
)
from thinkswitch.weights.text_model import split_vision, text_config

__all__ = ["DTYPES", "Checkpoint", "TensorInfo", "open_checkpoint", "tensor_offsets", "with_weights"]

INDEX = "model.safetensors.index.json"
ONE_FILE = "model.safetensors"
PLAIN_NAME = re.compile(r"[\w][\w. -]*")  # of a shard
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
# Numbers, spaces, accents, scripts, emoji, tags: what tokenizers of one vocabulary may split differently.
PROBE = "Wait, 3·7 = 21?\n\tNaïve ½ – 你好 \U0001f914 <think>\n</think>\n\n\\boxed{-12}"


@dataclass(frozen=True)
class Checkpoint:
    """A folder with its config and the headers of its weights; of a Hub id, the folder in the Hub's cache."""

    name: str
    folder: Path
    config: PretrainedConfig
    entries: dict[str, TensorInfo]
    prompting: Prompting = Prompting()
    vision: dict[str, TensorInfo] = field(default_factory=dict, kw_only=True)  # not used: see text_model.py

    def small_file(self, name: str) -> Path:
        """Where a file of the tokenizer, or generation_config.json, is, if there is one."""
        return self.folder / name

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return read_tokenizer(self.name, self.folder)

    @cached_property
    def stop_token_ids(self) -> set[int]:
        """Tokens that end an answer."""
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
    def turn_end(self) -> int:
        """The token that ends an assistant's turn in this chat template."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        text = render(self.tokenizer, self.prompting, turns)
        after_answer = text[text.rindex("!") + 1 :]
        ids = self.tokenizer.encode(after_answer, add_special_tokens=False)
        return next((i for i in ids if i in self.stop_token_ids), self.tokenizer.eos_token_id)

    def prompt_ids(self, prompt: str, conversation: Conversation = Conversation()) -> list[int]:
        """Token ids of a prompt, chat template applied."""
        return self.tokenizer.encode(self.render(prompt, conversation), add_special_tokens=False)

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
        return [*self.entries.values(), *self.vision.values()]

    def missing(self) -> hub.Missing:
        """Its weights that are not in its folder yet."""
        return hub.missing_weights(self.name, self.folder, read_index(self.folder)[0], self.stored())

    @cached_property
    def _offsets(self) -> dict[Path, dict[str, int]]:
        """Where in its file a tensor begins; filled as files are first read."""
        return {}


def open_checkpoint(name: str, headers_only: bool = False, prompting: Prompting = Prompting()) -> Checkpoint:
    """Config and headers of a folder or Hub id; a UserError for what cannot be used.

    Refused are checkpoints that are incomplete, pickled, quantised, of an unknown family or without a chat
    template.
    """
    checkpoint = open_folder(name, *find_folder(name), prompting)
    return checkpoint if headers_only else with_weights(checkpoint)[0]


def open_folder(name: str, folder: Path, on_hub: bool, prompting: Prompting = Prompting()) -> Checkpoint:
    """A checkpoint from its headers. `folder`, `on_hub`: as from `find_folder`."""
    config = read_config(name, folder)
    entries, vision = split_vision(read_headers(name, folder, on_hub))
    checkpoint = Checkpoint(name, folder, config, entries, prompting, vision=vision)
    check_chat_template(checkpoint)
    return checkpoint


def find_folder(name: str) -> tuple[Path, bool]:
    """(the folder of a checkpoint or adapter, whether it is that of a Hub id in the Hub's cache)."""
    if not name:
        raise UserError("no checkpoint given; name a folder or a Hub id for both instruct and thinking")
    on_hub = not Path(name).is_dir()
    return (hub.small_files(name) if on_hub else Path(name)), on_hub


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
    return config


def read_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(
            folder, padding_side="left", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library raises whatever a damaged file leads to
        raise UserError(f"{name} has no readable tokenizer: {first_line(error)}") from None


def tokenizer_differences(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, probe: str = PROBE
) -> list[str]:
    """What tells two tokenizers apart, a clause or none."""
    our_ids, their_ids = ours.get_vocab(), theirs.get_vocab()
    if our_ids != their_ids:
        different = sorted(set(our_ids.items()) ^ set(their_ids.items()), key=lambda token: token[1])
        tokens = {text for text, _ in different}
        examples = list_some([repr(text) for text, _ in different])
        return [f"the tokenizers differ in {len(tokens)} tokens ({examples})"]
    if ours.encode(probe) != theirs.encode(probe):
        return ["the tokenizers have the same tokens but split a probe text differently"]
    return []


def check_chat_template(checkpoint: Checkpoint) -> None:
    """A UserError if the small files are damaged: it should show now, not in the middle of a run."""
    name = checkpoint.name
    if not checkpoint.tokenizer.chat_template:
        raise UserError(
            f"{name} has no chat template; copy chat_template.jinja from the vendor's checkpoint into it"
        )
    asked = f" with {checkpoint.prompting}" if str(checkpoint.prompting) else ""
    try:
        check_prompting(name, checkpoint.tokenizer, checkpoint.prompting)
        _ = checkpoint.stop_token_ids, checkpoint.turn_end, checkpoint.template_opens_think
    except UserError:
        raise
    except Exception as error:  # templates are programs: they raise what they like
        raise UserError(
            f"{name}: chat template or generation_config.json cannot be used{asked}: {first_line(error)}"
        ) from None


def read_headers(name: str, folder: Path, on_hub: bool = False) -> dict[str, TensorInfo]:
    """What the headers say about all tensors. `on_hub`: headers of absent files are downloaded."""
    files, listed = read_index(folder)
    missing = hub.missing_files(folder, files)
    if missing and not on_hub:
        refuse_missing_weights(name, folder, files, missing)
    tables = hub.headers(name, folder, files) if missing else [read_header(folder / file) for file in files]
    entries = {tensor: info for table in tables for tensor, info in table.items() if is_weight(tensor)}
    lost = sorted(listed - entries.keys())
    if lost:
        raise UserError(
            f"{name}: {len(lost)} tensors that the index lists are in no shard ({list_some(lost)}); "
            "download it again"
        )
    return entries


def is_weight(name: str) -> bool:
    """Old Llama files store the rotary table, too, which the config describes."""
    return not name.endswith("rotary_emb.inv_freq")


def refuse_missing_weights(name: str, folder: Path, files: list[str], missing: list[str]) -> None:
    if (folder / INDEX).is_file():
        raise UserError(
            f"{name} lacks {len(missing)} of its {len(files)} shards ({list_some(missing)}); "
            "download it again"
        )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise UserError(
            f"{name} has no weights: {ONE_FILE} is missing; its pickled weights are never opened, "
            "convert them to safetensors"
        )
    raise UserError(f"{name} has no weights: {ONE_FILE} is missing")


def read_index(folder: Path) -> tuple[list[str], set[str]]:
    """The files that hold the weights, and the tensors that an index, if there is one, says are in them."""
    path = folder / INDEX
    if not path.is_file():
        return [ONE_FILE], set()
    try:
        file_of_tensor = json_text.read(path)["weight_map"]
        files = sorted(set(file_of_tensor.values()))
        if not all(PLAIN_NAME.fullmatch(file) for file in files):  # nor may one lie in another folder
            raise ValueError
        return files, set(file_of_tensor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a readable index of shards; download it again") from None


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
            hub.fetch(name, folder, one.files, read_index(folder)[0], one.nbytes)
            entries, vision = split_vision(read_headers(name, folder))
            checkpoint = replace(checkpoint, entries=entries, vision=vision)
        complete.append(checkpoint)
    return complete
