"""Any point of any round as a folder that others can load: a Hugging Face checkpoint, a PEFT adapter, GGUF.

Tensors are computed and written a block of rows at a time, into a hidden folder. That is loaded back and
compared with the live blend. Only then it takes its name.
"""

import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from thinkswitch.errors import UserError
from thinkswitch.export.comparison import VerificationResult
from thinkswitch.export.destination import (
    atomic_directory,
    fsync_tree,
    nearest_existing,
    remove_stale,
    resolve_path,
    stale_bytes,
    validate_target,
)
from thinkswitch.export.gguf_folder import plan_files, plan_lora_file, write_modelfile
from thinkswitch.export.gguf_kinds import LORAS
from thinkswitch.export.gguf_layout import architecture
from thinkswitch.export.gguf_quantise import require
from thinkswitch.export.gguf_tokenizer import find_rule
from thinkswitch.export.gguf_verify import GgufVerification, verify_files
from thinkswitch.export.gguf_writer import GgufFile, write_files
from thinkswitch.export.layout import (
    plan_entries,
    small_files,
    tensor_blocks,
    write_recipe,
    write_small_files,
)
from thinkswitch.export.mergekit import mergekit_config
from thinkswitch.export.model_card import measured_scores, model_card, named_base, usage
from thinkswitch.export.point import ExportPoint, ExportRequest
from thinkswitch.export.safetensors_writer import total_bytes, write_shards
from thinkswitch.export.streaming_verifier import StreamingVerifier
from thinkswitch.export.verify import make_blend, verify
from thinkswitch.recipe import remap_adapters
from thinkswitch.text import format_bytes
from thinkswitch.weights.checkpoint import TensorInfo
from thinkswitch.weights.device import find_device
from thinkswitch.weights.live_blend import Blend

DISK_MARGIN = 1.02  # of free space, for what the file system itself needs

T = TypeVar("T")
Steps = Generator[tuple[int, int], None, T]  # yields (done, total)
Progress = Generator[tuple[str, int, int], None, T]  # yields (stage, done, total)


@dataclass(frozen=True)
class Plan:
    """What an export will write."""

    entries: dict[str, TensorInfo]  # every tensor with its file; none where GGUF files are written
    gguf: list[GgufFile]  # a LoRA is the last one
    size: int  # bytes that will be written
    free: int  # bytes free at the destination, once leftovers of killed exports are removed
    template: str  # instruct | thinking: whose tokenizer and chat template are exported

    @property
    def tensors(self) -> int:
        of_gguf = {tensor.name for file in self.gguf for tensor in file.tensors}
        return len(of_gguf or self.entries)

    @property
    def dtype(self) -> str:
        """Stored types as safetensors or GGUF name them: BF16, F32, Q8_0 ..."""
        if self.gguf:
            return "/".join(file.quantisation for file in self.gguf)
        return "/".join(sorted({entry.dtype for entry in self.entries.values()}))


@dataclass(frozen=True)
class Exported:
    folder: Path
    size: int  # bytes
    files: int
    error: float  # see VerificationResult and GgufResult
    same_tokens: float | None  # None: llama.cpp, which is not installed, would have to say it
    verified: str  # the same in words
    seconds: float
    code: str  # three lines of Python that load it, or of a shell


def never() -> bool:
    return False


# ---- the plan


def plan_export(request: ExportRequest) -> Plan:
    """What an export would write; a UserError for all that can be refused before work. Changes nothing."""
    point = request.point
    validate_point(point)
    out = resolve_path(request.out)
    validate_export_target(request)
    find_device(point.preset)  # a device that is not here shows now
    entries = {} if point.gguf else plan_entries(point, request.shard_bytes)
    gguf = plan_gguf(point)
    size = export_bytes(point)
    ground = nearest_existing(out)
    free = shutil.disk_usage(ground).free + stale_bytes(out.parent)
    if size * DISK_MARGIN > free:
        raise UserError(
            f"the export takes {format_bytes(size)}, but only {format_bytes(free)} are free at {ground}; "
            "make room, or name a folder on another disk"
        )
    return Plan(entries, gguf, size, free, point.template)


def export_bytes(point: ExportPoint) -> int:
    """About what an export takes on the disk."""
    weights = sum(f.data_bytes for f in plan_gguf(point)) if point.gguf else total_bytes(plan_entries(point))
    return weights + size_of_small_files(point)


def plan_gguf(point: ExportPoint) -> list[GgufFile]:
    lora = plan_lora_file(point)
    return [*plan_files(point), *([lora] if lora else [])]


def validate_point(point: ExportPoint) -> None:
    if not 0 <= point.t <= 1:
        raise UserError(f"t must lie between 0 and 1, it is {point.t:g}")
    if point.gguf:
        validate_gguf(point)
    if (point.adapter or point.lora) and not point.is_update:
        with_adapter = " (and of a thinking adapter all that lies on a straight line, not on SLERP's arc)"
        raise UserError(
            f"{point} is no LoRA update of the instruct checkpoint; only the instruct point (t = 0) of a "
            f"round above 0 is one{with_adapter if point.pair.update else ''}: choose that, or export the "
            "whole checkpoint"
        )
    if point.adapter and point.pair.instruct.vision:
        raise UserError(
            f"{point.pair.instruct.name} also sees images, and an adapter of its text model alone would fit "
            "no published checkpoint; export the whole checkpoint, which is of the text model"
        )


def validate_gguf(point: ExportPoint) -> None:
    if point.adapter:
        raise UserError("an export is either an adapter or GGUF files; ask for one of them")
    for quantisation in point.gguf:
        require(quantisation)
    if sum(kind in LORAS for kind in point.gguf) > 1:
        raise UserError(f"one LoRA goes with the files; ask for one of {', '.join(LORAS)}")
    architecture(point)
    find_rule(point.template_source)


def validate_export_target(request: ExportRequest) -> None:
    pair = request.point.pair
    sources = [pair.instruct.folder, pair.thinking.folder]
    validate_target(sources, resolve_path(request.out), request.replace)


def size_of_small_files(point: ExportPoint) -> int:
    """Bytes of copied files, and about those of headers, index and recipe.json."""
    copied = sum(path.stat().st_size for path in small_files(point).values())
    numbers_per_tensor = 2 + len(point.round.adapters)
    return copied + len(point.pair.names) * (250 + 25 * numbers_per_tensor)


# ---- the export


def export(
    request: ExportRequest,
    blend: Blend | None = None,
    slots: list[int] | None = None,
    turn: Callable[[], AbstractContextManager] = nullcontext,
    cancelled: Callable[[], bool] = never,
) -> Progress[Exported]:
    """Plan, write, verify, describe, rename. Yields (stage, done, total): bytes to write, steps to verify.

    It is verified against `blend`, or one made here. `slots`: where that holds the round's adapters, if it
    holds others too; `turn()` is entered for each part that the blend computes. A failure or a cancel leaves
    nothing behind, and an export that was to be replaced untouched.
    """
    began = time.monotonic()
    point, out = request.point, resolve_path(request.out)
    remove_stale(out.parent)
    plan = plan_export(request)
    measured = measured_scores(request.run, point.round)
    steps: Progress[tuple[dict[str, str], VerificationResult | GgufVerification]]
    with atomic_directory(out) as folder:
        write_small_files(folder, point)
        if point.gguf:
            steps = write_and_verify_gguf(folder, point, blend, slots, turn, cancelled)
        elif point.is_large and not point.adapter and blend is None:
            steps = write_and_verify_at_once(folder, point, plan.entries, cancelled)
        else:
            steps = write_then_verify(folder, point, plan.entries, blend, slots, turn, cancelled)
        hashes, verification = yield from steps
        describe(folder, request, plan.entries, hashes, measured, verification)
        fsync_tree(folder)
        validate_export_target(
            request
        )  # again: minutes have passed, and somebody else may have that name now
    sizes = [path.stat().st_size for path in out.iterdir()]
    base = os.path.abspath(point.pair.instruct.folder) if named_base(point) else ""
    return Exported(
        folder=out,
        size=sum(sizes),
        files=len(sizes),
        error=verification.error,
        same_tokens=verification.same_tokens,
        verified=str(verification),
        seconds=time.monotonic() - began,
        code=usage(point, str(out), base),
    )


def write_then_verify(
    folder: Path,
    point: ExportPoint,
    entries: dict[str, TensorInfo],
    blend: Blend | None,
    slots: list[int] | None,
    turn: Callable[[], AbstractContextManager],
    cancelled: Callable[[], bool],
) -> Progress[tuple[dict[str, str], VerificationResult]]:
    def blocks(name: str):
        return tensor_blocks(point, name, entries[name])

    hashes = yield from stage("write", write_shards(folder, entries, blocks), cancelled)
    recipe = point.recipe if slots is None else remap_adapters(point.recipe, slots)
    steps = verify(folder, point, entries, blend, recipe, turn)
    verification = yield from stage("verify", steps, cancelled)
    return hashes, verification


def write_and_verify_gguf(
    folder: Path,
    point: ExportPoint,
    blend: Blend | None,
    slots: list[int] | None,
    turn: Callable[[], AbstractContextManager],
    cancelled: Callable[[], bool],
) -> Progress[tuple[dict[str, str], GgufVerification]]:
    files = plan_files(point, folder)
    lora = plan_lora_file(point, folder)
    written = yield from stage("write", write_files(point, files), cancelled)
    if lora:
        written |= yield from stage("write", write_files(point, [lora]), cancelled)
    write_modelfile(folder, point)

    @cache
    def live() -> Blend:
        return blend or make_blend(point)

    in_order = list(range(len(point.round.adapters)))
    steps = verify_files(point, files, lora, written, live, in_order if slots is None else slots, turn)
    verification = yield from stage("verify", steps, cancelled)
    return {name: file.sha256 for name, file in written.items()}, verification


def write_and_verify_at_once(
    folder: Path,
    point: ExportPoint,
    entries: dict[str, TensorInfo],
    cancelled: Callable[[], bool],
) -> Progress[tuple[dict[str, str], VerificationResult]]:
    with StreamingVerifier(folder, point, entries) as verifier:

        def blocks(name: str):
            verifier.wait_for_comparison(name)
            return tensor_blocks(point, name, entries[name])

        writing = write_shards(folder, entries, blocks, verifier.mark_readable)
        hashes = yield from stage("write", writing, cancelled)
        verification = yield from stage("verify", verifier.result(), cancelled)
    return hashes, verification


def stage(name: str, steps: Steps[T], cancelled: Callable[[], bool]) -> Progress[T]:
    """Name the steps, and stop between two of them if cancelled."""
    with closing(steps):  # and so its files, before their folder is removed
        while True:
            if cancelled():
                raise UserError("the export was cancelled; nothing is left of it")
            try:
                done, total = next(steps)
            except StopIteration as end:
                return end.value
            yield name, done, total


def describe(
    folder: Path,
    request: ExportRequest,
    entries: dict[str, TensorInfo],
    hashes: dict[str, str],
    measured: list[dict],
    verification: VerificationResult | GgufVerification,
) -> None:
    """Write the model card, mergekit's configuration and recipe.json."""
    point = request.point
    stored_as = point.whole_kinds or sorted({entry.dtype for entry in entries.values()})
    card = model_card(request, measured, ", ".join(stored_as), str(verification))
    (folder / "README.md").write_text(card, encoding="utf-8")
    config = None if point.gguf else mergekit_config(point, entries)
    if config:
        (folder / "mergekit.yml").write_text(config, encoding="utf-8")
    write_recipe(folder, point, hashes)  # last: it lists the others
