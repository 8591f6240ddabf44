"""Any point of any round as a folder that others can load: a Hugging Face checkpoint with its card, or a PEFT adapter.

Tensors are combined and written a block of rows at a time, into a hidden folder beside. That is loaded back and compared
with the live blend (verify.py). Only then does it take its name.
"""

import shutil
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from thinkswitch.errors import UserError
from thinkswitch.export.destination import (
    atomic_directory,
    fsync_tree,
    nearest_existing,
    remove_stale,
    resolve_path,
    validate_target,
)
from thinkswitch.export.layout import (
    adapter_entries,
    blocks,
    checkpoint_entries,
    small_files,
    write_recipe,
    write_small_files,
)
from thinkswitch.export.model_card import as_mergekit, loading_snippet, measured_scores, model_card
from thinkswitch.export.point import ExportRequest
from thinkswitch.export.safetensors_writer import KEPT, tensor_bytes, write_tensors
from thinkswitch.export.verify import (
    VerificationResult,
    load_in_transformers,
    verify,
    verify_while_writing,
)
from thinkswitch.recipe import Recipe, count_layers, layer_of
from thinkswitch.text import format_bytes
from thinkswitch.weights.device import find_device
from thinkswitch.weights.live_blend import Blend

MARGIN = 1.02  # of free space, for what the disk itself needs


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


def plan_export(request: ExportRequest) -> Plan:
    """What an export will write. Everything that can be refused is refused here, before work.

    What killed exports left beside is removed first: it takes room.
    """
    point, out = request.point, request.out
    pair, round, t, preset, adapter = point.pair, point.round, point.t, point.preset, point.adapter
    if not 0 <= t <= 1:
        raise UserError(f"t must lie between 0 and 1, it is {t:g}")
    out = resolve_path(out)
    if adapter and (t != 0 or not round.number):
        raise UserError(f"{point} is no LoRA update of the instruct checkpoint; only the instruct point (t = 0) of a round "
                        "above 0 is one: choose that, or export the whole checkpoint")
    validate_target(pair, out, request.replace)
    find_device(preset)  # refuses a device that is not here
    remove_stale(out.parent)
    entries = adapter_entries(point) if adapter else checkpoint_entries(pair)
    small = sum(path.stat().st_size for path in small_files(point).values())
    told = len(pair.names) * (250 + 25 * (2 + len(round.adapters)))  # headers, index and recipe.json, about
    size, free = sum(map(tensor_bytes, entries.values())) + small + told, shutil.disk_usage(nearest_existing(out)).free
    if size * MARGIN > free:
        raise UserError(f"the export takes {format_bytes(size)}, but only {format_bytes(free)} are free at {nearest_existing(out)}; "
                        "make room, or name a folder on another disk")
    return Plan(size, free, len(entries), "/".join(sorted({e.dtype for e in entries.values()})), point.template)


def export(
    request: ExportRequest,
    blend: Blend | None = None,
    recipe: Recipe | None = None,
    turn: Callable[[], AbstractContextManager] = nullcontext,
    cancelled: Callable[[], bool] = lambda: False,
) -> Generator[tuple[str, int, int], None, Exported]:
    """Write, verify, name. Yields (stage, done, total): bytes of "write", steps of "verify".

    `recipe` is the same point in the basis of `blend`, should that hold other adapters than the round. `turn` is entered
    for each part that the blend computes. A large checkpoint without a `blend` is compared while it is written. A failure
    or a cancel (both a UserError) leaves nothing behind, and what `replace` would have replaced as it was.
    """
    began = time.monotonic()
    plan_export(request)
    point, out, run = request.point, resolve_path(request.out), request.run
    pair, round, adapter = point.pair, point.round, point.adapter
    measured = measured_scores(run, round)
    entries = adapter_entries(point) if adapter else checkpoint_entries(pair, request.shard_bytes)
    arrived, compared = {name: Future() for name in entries}, [Future() for _ in range(count_layers(pair.names))]
    ahead = max(1, KEPT // 2 * len(compared) // sum(map(tensor_bytes, entries.values())))  # layers
    with atomic_directory(out) as folder, ThreadPoolExecutor(1) as beside:
        try:
            write_small_files(folder, point)
            early = beside.submit(verify_while_writing, folder, point, entries, arrived, compared) if point.is_large and not (blend or adapter) else None

            def source(name: str) -> Iterator[torch.Tensor]:
                if early and len(entries[name].shape) > 1 and (layer := layer_of(name) or 0) >= ahead:
                    compared[layer - ahead].result()  # not too far ahead, or the cache has let go what is to be compared
                return blocks(point, name, entries[name])

            sums = yield from _stage("write", write_tensors(folder, entries, source, arrived), cancelled)
            rest = waiting(folder, early) if early else verify(folder, point, entries, blend, recipe or point.recipe, turn)
            found = yield from _stage("verify", rest, cancelled)
        finally:
            for tensor in arrived.values():
                tensor.cancel()  # nobody is to wait for it any more
        (folder / "README.md").write_text(model_card(point, out.name, run, measured, entries, str(found)), encoding="utf-8")
        if recipe_of_mergekit := as_mergekit(point, entries):
            (folder / "mergekit.yml").write_text(recipe_of_mergekit, encoding="utf-8")
        write_recipe(folder, point, sums)
        fsync_tree(folder)
        validate_target(pair, out, request.replace)  # minutes have passed: the name may be somebody's by now
    sizes = [path.stat().st_size for path in out.iterdir()]
    return Exported(out, sum(sizes), len(sizes), found.error, found.same, time.monotonic() - began, loading_snippet(str(out)))


def _stage(name: str, steps: Generator, cancelled: Callable[[], bool]) -> Generator:
    with closing(steps):  # and its files, before the folder is removed
        while True:
            if cancelled():
                raise UserError("the export was cancelled; nothing is left of it")
            try:
                yield name, *next(steps)
            except StopIteration as end:
                return end.value


def waiting(folder: Path, early: Future) -> Generator[tuple[int, int], None, VerificationResult]:
    """What `verify` does, where a thread has begun it already."""
    load_in_transformers(folder, large=True)
    while not early.done():
        yield 1, 3
        wait([early], timeout=0.2)
    yield 3, 3
    return early.result()
