"""Any point of any round as a folder that others can load: a Hugging Face checkpoint with its card, or a PEFT adapter.

Tensors are combined and written a block of rows at a time, into a hidden folder beside. That is loaded back and compared
with the live blend (verify.py). Only then does it take its name.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import struct
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .blend import Blend
from .card import Point, as_mergekit, card, loading, public_name, scores
from .errors import UserError
from .materialise import combine_rows, machine, rows_of
from .pair import TYPES, Entry, Pair
from .place import MADE_BY, appearing, check, existing, resolved, settle, sweep
from .preset import Preset, Schedule
from .recipe import Recipe, Round, layer_of, layers
from .terminal import readable
from .verify import Likeness, alongside, in_transformers, large, threads, verify

SHARD = 5_000_000_000  # bytes of a file
AHEAD = 4  # blocks that may wait to be written
FLUSH = 1 << 25  # bytes after which what was written is sent to the disk
KEPT = 1 << 30  # bytes of a file being written that stay in the system's cache, where a comparison finds them
MARGIN = 1.02  # of free space, for what the disk itself needs
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
             "vocab.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json")
TERMS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")


@dataclass(frozen=True)
class Plan:
    size: int  # bytes that will be written
    free: int  # bytes free where the folder goes
    tensors: int
    dtype: str  # stored, as safetensors names it: BF16, F32 ...
    template: str  # instruct | thinking: whose tokenizer and chat template go along


@dataclass(frozen=True)
class Exported:
    folder: Path
    size: int
    files: int
    error: float  # see verify.Likeness
    same_tokens: float
    seconds: float
    code: str  # three lines of Python that load it


def plan(pair: Pair, round: Round, t: float, preset: Preset, out: Path, adapter: bool = False, replace: bool = False) -> Plan:
    """What an export will write. Everything that can be refused is refused here, before work.

    What killed exports left beside is removed first: it takes room.
    """
    if not 0 <= t <= 1:
        raise UserError(f"t must lie between 0 and 1, it is {t:g}")
    point, out = Point(pair, round, t, Schedule(), preset, adapter), resolved(out)
    if adapter and (t != 0 or not round.number):
        raise UserError(f"{point} is no LoRA update of the instruct checkpoint; only the instruct point (t = 0) of a round "
                        "above 0 is one: choose that, or export the whole checkpoint")
    check(pair, out, replace)
    machine(preset)  # a device that is not here shows now
    sweep(out.parent)
    entries = adapter_entries(point) if adapter else checkpoint_entries(pair)
    small = sum(path.stat().st_size for path in copies(point).values())
    told = len(pair.names) * (250 + 25 * (2 + len(round.adapters)))  # headers, index and recipe.json, about
    size, free = sum(map(nbytes, entries.values())) + small + told, shutil.disk_usage(existing(out)).free
    if size * MARGIN > free:
        raise UserError(f"the export takes {readable(size)}, but only {readable(free)} are free at {existing(out)}; "
                        "make room, or name a folder on another disk")
    return Plan(size, free, len(entries), "/".join(sorted({e.dtype for e in entries.values()})), point.template)


def export(pair: Pair, round: Round, t: float, schedule: Schedule, preset: Preset, out: Path, blend: Blend | None = None,
           adapter: bool = False, replace: bool = False, run: Path | None = None, cancelled: Callable[[], bool] = lambda: False,
           recipe: Recipe | None = None, lane=nullcontext(), shard: int = SHARD) -> Generator[tuple[str, int, int], None, Exported]:
    """Write, verify, name. Yields (stage, done, total): bytes of "write", steps of "verify".

    `recipe` is the same point in the basis of `blend`, should that hold other adapters than the round. `lane` is entered
    while the blend is at work only. A large checkpoint without a `blend` is compared while it is written. A failure or a
    cancel (both a UserError) leaves nothing behind, and what `replace` would have replaced as it was. `run`: its folder,
    for the scores on the card.
    """
    began = time.monotonic()
    plan(pair, round, t, preset, out, adapter, replace)
    point, out = Point(pair, round, t, schedule, preset, adapter), resolved(out)
    measured = scores(run, round)
    entries = adapter_entries(point) if adapter else checkpoint_entries(pair, shard)
    arrived, compared = {name: Future() for name in entries}, [Future() for _ in range(layers(pair.names))]
    ahead = max(1, KEPT // 2 * len(compared) // sum(map(nbytes, entries.values())))  # layers
    with appearing(out) as folder, ThreadPoolExecutor(1) as beside:
        try:
            write_small(folder, point)
            early = beside.submit(alongside, folder, point, entries, arrived, compared) if large(point) and not (blend or adapter) else None

            def source(name: str) -> Iterator[torch.Tensor]:
                if early and len(entries[name].shape) > 1 and (layer := layer_of(name) or 0) >= ahead:
                    compared[layer - ahead].result()  # not too far ahead, or the cache has let go what is to be compared
                return blocks(point, name, entries[name])

            sums = yield from _stage("write", write_tensors(folder, entries, source, arrived), cancelled)
            rest = waiting(folder, early) if early else verify(folder, point, entries, blend, recipe or point.recipe, lane)
            found = yield from _stage("verify", rest, cancelled)
        finally:
            for tensor in arrived.values():
                tensor.cancel()  # nobody is to wait for it any more
        (folder / "README.md").write_text(card(point, out.name, run, measured, entries, str(found)), encoding="utf-8")
        if recipe_of_mergekit := as_mergekit(point, entries):
            (folder / "mergekit.yml").write_text(recipe_of_mergekit, encoding="utf-8")
        write_recipe(folder, point, sums)
        settle(folder)
        check(pair, out, replace)  # minutes have passed: the name may be somebody's by now
    sizes = [path.stat().st_size for path in out.iterdir()]
    return Exported(out, sum(sizes), len(sizes), found.error, found.same, time.monotonic() - began, loading(str(out)))


def _stage(name: str, steps: Generator, cancelled: Callable[[], bool]) -> Generator:
    with closing(steps):  # and its files, before the folder is removed
        while True:
            if cancelled():
                raise UserError("the export was cancelled; nothing is left of it")
            try:
                yield name, *next(steps)
            except StopIteration as end:
                return end.value


def waiting(folder: Path, early: Future) -> Generator[tuple[int, int], None, Likeness]:
    """What `verify` does, where a thread has begun it already."""
    in_transformers(folder, large=True)
    while not early.done():
        yield 1, 3
        wait([early], timeout=0.2)
    yield 3, 3
    return early.result()


# ---- tensors


def nbytes(entry: Entry) -> int:
    return math.prod(entry.shape) * TYPES[entry.dtype].itemsize


def checkpoint_entries(pair: Pair, shard: int = SHARD) -> dict[str, Entry]:
    """Every tensor with the file it goes to, stored as the instruct checkpoint stores it; a tied head is none of its own."""
    entries, groups, room = {name: pair.instruct.entries[name] for name in pair.names}, [], 0
    if pair.config.tie_word_embeddings:
        entries.pop("lm_head.weight", None)  # some vendors store it twice
    for name, entry in entries.items():
        if entry.dtype not in TYPES:
            raise UserError(f"{pair.instruct.name} stores {name} as {entry.dtype}; export knows {', '.join(TYPES)}")
    for name in in_order(entries):
        if not groups or nbytes(entries[name]) > room:
            groups.append([])
            room = shard
        groups[-1].append(name)
        room -= nbytes(entries[name])
    files = [f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    files = files if len(files) > 1 else ["model.safetensors"]
    return {name: dataclasses.replace(entries[name], file=file) for file, group in zip(files, groups) for name in group}


def in_order(entries: dict[str, Entry]) -> list[str]:
    """How they lie in the files. Wide types first, so that every tensor begins at a multiple of its own size; then vectors; then
    layer by layer: as a model reads them, so it can be run while it is written."""
    return sorted(entries, key=lambda name: (-TYPES[entries[name].dtype].itemsize, len(entries[name].shape) > 1))


def adapter_entries(point: Point) -> dict[str, Entry]:
    """A and B of every layer, under PEFT's names. Module kinds that some round has trained are there in every layer."""
    rank, kinds, entries = sum(point.ranks), targets(point.round), {}
    for name in point.pair.names:
        if name.endswith(".weight") and name.split(".")[-2] in kinds:
            (out, width), key = point.pair.instruct.entries[name].shape, "base_model.model." + name.removesuffix("weight")
            entries[f"{key}lora_A.weight"] = Entry((rank, width), "F32", "adapter_model.safetensors")
            entries[f"{key}lora_B.weight"] = Entry((out, rank), "F32", "adapter_model.safetensors")
    return entries


def targets(round: Round) -> list[str]:
    return sorted({name.split(".")[-2] for adapter in round.adapters for name in adapter.low_rank})


def blocks(point: Point, name: str, entry: Entry) -> Iterator[torch.Tensor]:
    """A tensor of the export, a block of rows at a time: float32 arithmetic, rounded once."""
    if point.adapter:
        yield side_by_side(point, name, entry)
        return
    for block in combine_rows(point.pair, point.round.adapters, point.recipe, name, rows_of(entry.shape)):
        yield block.to(TYPES[entry.dtype], copy=True)


def side_by_side(point: Point, key: str, entry: Entry) -> torch.Tensor:
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


# ---- files


def write_tensors(folder: Path, entries: dict[str, Entry], blocks: Callable[[str], Iterator[torch.Tensor]],
                  arrived: dict[str, Future]) -> Generator[tuple[int, int], None, dict[str, str]]:
    """Safetensors files, and an index where there are several. Yields (bytes written, all); returns {file: SHA-256}.

    `arrived`: of every tensor, told when it can be read from its file.
    """
    done, total, files, sums = 0, sum(map(nbytes, entries.values())), sorted({e.file for e in entries.values()}), {}
    for file in files:
        own = {name: entries[name] for name in in_order(entries) if entries[name].file == file}
        # one hand writes and one sums while the next block is combined
        with threads(1), open(folder / file, "wb", buffering=0) as out, ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as summing:
            digest, busy = hashlib.sha256(), deque()

            def put(data) -> tuple[Future, Future]:
                return writing.submit(write_whole, out, data), summing.submit(digest.update, data)

            def waited(hands: tuple[Future, Future]) -> int:
                hands[1].result()
                return hands[0].result()

            head = header(own)
            out.truncate(len(head) + sum(map(nbytes, own.values())))  # readers want a file of the length that its head tells
            waited(put(head))
            for name in own:
                for block in blocks(name):
                    busy.append(put(block.contiguous().view(torch.uint8).numpy()))  # little-endian, as memory has it
                    done += waited(busy.popleft()) if len(busy) > AHEAD else 0
                    yield done, total
                writing.submit(arrived[name].set_result, None)
            done += sum(map(waited, busy))
            yield done, total
        sums[file] = digest.hexdigest()
    if len(files) > 1:
        index = dict(metadata=dict(total_size=total, sha256=sums), weight_map={n: e.file for n, e in sorted(entries.items())})
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return sums


def write_whole(out, data) -> int:
    """Unbuffered, and on its way to the disk before long: the wait at the end is short, and the cache stays free for what is read."""
    start, view = out.tell(), memoryview(data).cast("B")
    size = view.nbytes
    while view:
        view = view[out.write(view):]  # a full disk raises
    if (whole := (start + size) // FLUSH * FLUSH) > start and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(out.fileno(), whole - FLUSH, FLUSH, os.POSIX_FADV_DONTNEED)  # begins to write them
        if whole > KEPT:
            os.posix_fadvise(out.fileno(), whole - KEPT, FLUSH, os.POSIX_FADV_DONTNEED)  # lets them go
    return size


def header(entries: dict[str, Entry]) -> bytes:
    """The head of a safetensors file: its length in 8 bytes, then JSON, padded so that data begins at a multiple of 8."""
    table, at = {"__metadata__": {"format": "pt"}}, 0
    for name, entry in entries.items():
        table[name] = dict(dtype=entry.dtype, shape=entry.shape, data_offsets=[at, at + nbytes(entry)])
        at += nbytes(entry)
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def copies(point: Point) -> dict[str, Path]:
    """Small files to copy: name -> source. Never weights, indices or pickles."""
    instruct, words = point.pair.instruct.folder, getattr(point.pair, point.template).folder
    found = {name: words / name for name in TOKENIZER} | {name: instruct / name for name in TERMS}
    if not point.adapter:
        manners = instruct if point.t == 0 else point.pair.thinking.folder  # blends sample as the thinking checkpoint does
        found |= {"config.json": instruct / "config.json", "generation_config.json": manners / "generation_config.json"}
    return {name: path for name, path in found.items() if path.is_file()}


def write_small(folder: Path, point: Point) -> None:
    for name, source in copies(point).items():
        shutil.copyfile(source, folder / name)
    if point.adapter:
        from peft import LoraConfig  # here: it takes two seconds to import
        rank = sum(point.ranks)
        LoraConfig(r=rank, lora_alpha=rank, target_modules=targets(point.round), task_type="CAUSAL_LM", inference_mode=True,
                   base_model_name_or_path=point.pair.instruct.name).save_pretrained(folder)
        edit(folder / "adapter_config.json", lambda values: values["target_modules"].sort())  # peft lists them in the order of a set
    else:
        edit(folder / "config.json", lambda values: values.pop("_name_or_path", None))  # may be a path on its maker's machine


def edit(path: Path, change: Callable[[dict], None]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_recipe(folder: Path, point: Point, sums: dict[str, str]) -> None:
    """The exact coefficients; and the names of all files, which is what a later export may replace."""
    data = dict(made_by=MADE_BY, kind="adapter" if point.adapter else "checkpoint",
                instruct=public_name(point.pair.instruct), thinking=public_name(point.pair.thinking),
                round=point.round.number, t=point.t, schedule=asdict(point.schedule), template=point.template,
                files=sorted({path.name for path in folder.iterdir()} | {"recipe.json"}),
                sha256=sums, basis=point.basis, coefficients=point.recipe)
    (folder / "recipe.json").write_text(json.dumps(data, indent=1) + "\n")
