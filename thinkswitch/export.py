"""Any point of any round as a folder that others can load: a Hugging Face checkpoint with its card, or a PEFT adapter.

Tensors are combined and written a block of rows at a time, into a hidden folder beside. That is loaded back with plain
transformers and compared with the live blend: the preview equals the file. Only then does it take its name.
"""

import dataclasses
import gc
import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from .blend import Blend
from .card import Point, as_mergekit, card, loading, public_name, scores
from .errors import UserError
from .materialise import combine_rows, machine, on_disk
from .pair import PROBE, Checkpoint, Entry, Pair, open_checkpoint
from .place import MADE_BY, appearing, check, existing, resolved, settle, sweep
from .preset import Preset, Schedule
from .recipe import Recipe, Round, constant, load_adapter
from .terminal import readable

SHARD = 5_000_000_000  # bytes of a file
BLOCK = 1 << 20  # elements combined at once: 4 MB in float32 stay in a core's cache
AHEAD = 4  # blocks that may wait to be written
LARGE = 1_000_000_000  # bytes in float32; what is larger is not loaded to be verified
MARGIN = 1.02  # of free space, for what the disk itself needs
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
             "vocab.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json")
TERMS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
PROBES = ("What is 7 + 5 - 3 + 8?", "Is 51 a prime number? Answer yes or no.", PROBE)


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
    error: float  # see `difference`
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
    around the blend's one forward pass only. A failure or a cancel (both a UserError) leaves nothing behind, and what
    `replace` would have replaced as it was. `run`: its folder, for the scores on the card.
    """
    began = time.monotonic()
    plan(pair, round, t, preset, out, adapter, replace)
    point, out = Point(pair, round, t, schedule, preset, adapter), resolved(out)
    measured = scores(run, round)
    entries = adapter_entries(point) if adapter else checkpoint_entries(pair, shard)
    with appearing(out) as folder:
        sums = yield from _stage("write", write_tensors(folder, entries, lambda name: blocks(point, name, entries[name])), cancelled)
        write_small(folder, point)
        error, same, most = yield from _stage("verify", verify(folder, point, entries, blend, recipe or point.recipe, lane), cancelled)
        text = card(point, out.name, run, measured, entries, verified(error, same, most))
        (folder / "README.md").write_text(text, encoding="utf-8")
        if recipe_of_mergekit := as_mergekit(point, entries):
            (folder / "mergekit.yml").write_text(recipe_of_mergekit, encoding="utf-8")
        write_recipe(folder, point, sums)
        settle(folder)
        check(pair, out, replace)  # minutes have passed: the name may be somebody's by now
    sizes = [path.stat().st_size for path in out.iterdir()]
    return Exported(out, sum(sizes), len(sizes), error, same, time.monotonic() - began, loading(str(out)))


def _stage(name: str, steps: Generator, cancelled: Callable[[], bool]) -> Generator:
    with closing(steps):  # and its files, before the folder is removed
        while True:
            if cancelled():
                raise UserError("the export was cancelled; nothing is left of it")
            try:
                yield name, *next(steps)
            except StopIteration as end:
                return end.value


# ---- tensors


def nbytes(entry: Entry) -> int:
    return math.prod(entry.shape) * TYPES[entry.dtype].itemsize


def checkpoint_entries(pair: Pair, shard: int = SHARD) -> dict[str, Entry]:
    """Every tensor with the file it goes to, stored as the instruct checkpoint stores it; a tied head is none of its own."""
    entries, groups, room = pair.instruct.entries, [], 0
    for name in pair.names:
        if name == "lm_head.weight" and pair.config.tie_word_embeddings:  # some vendors store it twice
            continue
        if entries[name].dtype not in TYPES:
            raise UserError(f"{pair.instruct.name} stores {name} as {entries[name].dtype}; export knows {', '.join(TYPES)}")
        if not groups or nbytes(entries[name]) > room:
            groups.append([])
            room = shard
        groups[-1].append(name)
        room -= nbytes(entries[name])
    files = [f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    files = files if len(files) > 1 else ["model.safetensors"]
    return {name: dataclasses.replace(entries[name], file=file) for file, group in zip(files, groups) for name in group}


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
    step = max(1, BLOCK // math.prod(entry.shape[1:]))
    for block in combine_rows(point.pair, point.round.adapters, point.recipe, name, step):
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


def write_tensors(folder: Path, entries: dict[str, Entry],
                  blocks: Callable[[str], Iterator[torch.Tensor]]) -> Generator[tuple[int, int], None, dict[str, str]]:
    """Safetensors files, and an index where there are several. Yields (bytes written, all); returns {file: SHA-256}."""
    done, total, files, sums = 0, sum(map(nbytes, entries.values())), sorted({e.file for e in entries.values()}), {}
    for file in files:
        own = {n: e for n, e in sorted(entries.items(), key=lambda item: (-TYPES[item[1].dtype].itemsize, item[0])) if e.file == file}
        # one hand writes and one sums while the next block is combined
        with one_thread(), open(folder / file, "wb", buffering=0) as out, ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as summing:
            digest, busy = hashlib.sha256(), deque()

            def put(data) -> tuple[Future, Future]:
                return writing.submit(write_whole, out, data), summing.submit(digest.update, data)

            def waited(hands: tuple[Future, Future]) -> int:
                hands[1].result()
                return hands[0].result()

            waited(put(header(own)))
            for name in own:
                for block in blocks(name):
                    busy.append(put(block.contiguous().view(torch.uint8).numpy()))  # little-endian, as memory has it
                    done += waited(busy.popleft()) if len(busy) > AHEAD else 0
                    yield done, total
            done += sum(map(waited, busy))
            yield done, total
        sums[file] = digest.hexdigest()
    if len(files) > 1:
        index = dict(metadata=dict(total_size=total, sha256=sums), weight_map={n: e.file for n, e in sorted(entries.items())})
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return sums


@contextmanager
def one_thread() -> Iterator[None]:
    """torch's threads wait for each other at every small step, which takes long where the other hands keep the cores busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_whole(out, data) -> int:
    """Unbuffered, and on its way to the disk at once: the wait at the end is short, and the cache stays free for what is read."""
    start, view = out.tell(), memoryview(data).cast("B")
    size = view.nbytes
    while view:
        view = view[out.write(view):]  # a full disk raises
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(out.fileno(), start, size, os.POSIX_FADV_DONTNEED)
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


# ---- verified by reloading


def verify(folder: Path, point: Point, entries: dict[str, Entry], blend: Blend | None, recipe: Recipe,
           lane) -> Generator[tuple[int, int], None, tuple[float, float, float]]:
    """Load the folder as anybody would and compare it with the live blend; returns `difference` and its `bound`.

    What is larger than LARGE is compared from the disk, a block of rows at a time, so memory stays as small as while writing.
    """
    large = 4 * point.pair.parameters > LARGE
    ids, mask = probe(AutoTokenizer.from_pretrained(folder, local_files_only=True), getattr(point.pair, point.template), PROBES[:1] if large else PROBES)
    yield 0, 3
    model = reloaded(folder, point, large)
    yield 1, 3
    plain, dtypes = outputs(model, ids, mask), {p.dtype for p in model.parameters()} | {TYPES[e.dtype] for e in entries.values()}
    del model
    gc.collect()  # before the blend is made; and Windows renames no folder with open files
    yield 2, 3
    blend = blend or Blend(point.pair, point.round.adapters, **dict(device="cpu", stored=True) if large else machine(point.preset))
    with lane:
        blend.place([recipe] * len(ids))
        live = outputs(blend, ids.to(blend.device), mask.to(blend.device), plain)
    error, place, same = difference(plain, live, mask.bool())
    most = bound(dtypes | {p.dtype for p in blend.parameters()})
    if not error <= most:  # so is NaN
        raise UserError(f"the files written differ from the live blend by {error:.2g} at {place} (relative) where rounding explains {most:g}, "
                        "so nothing was kept; try again with four_bit=false and dtype=float32, and check the disk")
    yield 3, 3
    return error, same, most


def probe(tokenizer: PreTrainedTokenizerBase, checkpoint: Checkpoint, prompts: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (prompts, length) of a few prompts under the exported chat template, which must be the checkpoint's."""
    rendered = [tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
                for prompt in PROBES]
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in rendered]
    if rows != [checkpoint.prompt_ids(prompt) for prompt in PROBES]:
        raise UserError(f"the tokenizer files of {checkpoint.name} alone do not render prompts as that checkpoint does; nothing was kept")
    rows = rows[: len(prompts)]
    width = max(map(len, rows))
    return (torch.tensor([row + [0] * (width - len(row)) for row in rows]),
            torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]))


def reloaded(folder: Path, point: Point, large: bool):
    """The export in plain transformers on the CPU, in float32; a large one with its matrices on the disk."""
    if point.adapter and large:
        updated = Blend(point.pair, [load_adapter(folder)], stored=True)
        updated.place([constant(point.pair.names, (1.0, 0.0, 1.0))])
        return updated
    source = point.pair.instruct.folder if point.adapter else folder
    with tempfile.TemporaryDirectory() as scratch:  # stays empty: what lies in safetensors is read from there
        where = dict(device_map={"": "disk"}, offload_folder=scratch) if large else dict(dtype=torch.float32)
        model, told = AutoModelForCausalLM.from_pretrained(source, local_files_only=True, output_loading_info=True, **where)
    wrong = {kind.replace("_", " "): sorted(map(str, names))[:3] for kind, names in told.items() if names}
    if wrong:
        raise UserError(f"transformers does not load what was written, so nothing was kept: {wrong}")
    if point.adapter:
        from peft import PeftModel
        return PeftModel.from_pretrained(model, folder).eval().get_base_model()
    return on_disk(open_checkpoint(str(folder))) if large else model


@dataclass(frozen=True)
class Outputs:
    """What a model computed on the way: every layer's input, every attention's and MLP's own output, and the logits."""

    inputs: list[torch.Tensor]
    parts: dict[str, torch.Tensor]


@torch.inference_mode()
def outputs(model, ids: torch.Tensor, mask: torch.Tensor, like: Outputs | None = None) -> Outputs:
    """Run a model. `like`: every layer is given the input that another model's had, so that rounding does not add up over layers."""
    inputs, parts, hooks = [], {}, []

    def enter(index: int):
        def hook(layer, args, kwargs):
            (hidden,) = args or [kwargs["hidden_states"]]
            inputs.append(hidden.float().cpu())
            return ((like.inputs[index].to(hidden),), {k: v for k, v in kwargs.items() if k != "hidden_states"}) if like else None
        return hook

    def keep(name: str):
        def hook(module, args, out):
            parts[name] = (out[0] if isinstance(out, tuple) else out).float().cpu()
        return hook

    for i, layer in enumerate((model.model if isinstance(model, Blend) else model).model.layers):
        hooks += [layer.register_forward_pre_hook(enter(i), with_kwargs=True), layer.self_attn.register_forward_hook(keep(f"layer {i + 1}, attention")),
                  layer.mlp.register_forward_hook(keep(f"layer {i + 1}, MLP"))]
    try:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().cpu()
    finally:
        for hook in hooks:
            hook.remove()
    return Outputs(inputs, {"the embedding": inputs[0], **parts, "the logits": logits})


def difference(plain: Outputs, live: Outputs, mask: torch.Tensor) -> tuple[float, str, float]:
    """(error, place, same): the largest |plain - live| / |live| over the parts of the model, the Euclidean norm being over all
    positions of all probe prompts; where that is; and the share of positions whose likeliest token is the same.

    One position's own error says little where its values are small: its maximum was 0.1 for mere bf16, 1.2 for NF4.
    """
    def error(a: torch.Tensor, b: torch.Tensor) -> float:
        return 0.0 if torch.equal(a, b) else float((a - b).norm() / b.norm())  # also where a layer adds nothing at all

    errors = {name: error(part[mask], live.parts[name][mask]) for name, part in plain.parts.items()}
    place = next((name for name, error in errors.items() if math.isnan(error)), None) or max(errors, key=errors.get)
    same = plain.parts["the logits"][mask].argmax(-1) == live.parts["the logits"][mask].argmax(-1)
    return errors[place], place, float(same.float().mean())


def bound(dtypes: set[torch.dtype]) -> float:
    """The largest error that rounding explains, by what either side was rounded to. Measured on the embedded pair:

    float32 (sums in another order): up to 1e-5. bf16, fp16 (each weight off by up to 2^-9, 2^-11 of itself): 0.003 stored, 0.011 if
    the blend computes in it, too; random 4 B 0.005. NF4 (each weight of a layer off by 9 %): 0.06 to 0.1; random weights 0.2.
    A point off by 0.05 in t: 0.03; by 0.1: 0.06; the other end: 0.3. So against NF4 only gross damage shows.
    """
    return 0.3 if torch.uint8 in dtypes else 1e-4 if dtypes == {torch.float32} else 3e-2


def verified(error: float, same: float, most: float) -> str:
    return (f"Read back from its files and compared with the live blend, layer by layer: no layer's output nor the logits differ by more "
            f"than {error:.2g} of their norm (rounding explains up to {most:g}), and the likeliest token is the same at {100 * same:.1f} % of positions.")
