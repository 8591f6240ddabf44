"""A round's thinking checkpoint as files that an engine reads: GGUF for llama.cpp, safetensors for vLLM."""

import logging
import shutil
from collections.abc import Generator
from pathlib import Path

import psutil

from thinkswitch.engines import engine
from thinkswitch.engines.engine import Engine
from thinkswitch.errors import UserError
from thinkswitch.export import gguf_folder, gguf_writer
from thinkswitch.export.export import plan_gguf, validate_point
from thinkswitch.export.layout import plan_entries, tensor_blocks, write_small_files
from thinkswitch.export.point import ExportPoint
from thinkswitch.export.safetensors_writer import total_bytes, write_shards
from thinkswitch.preset import Preset
from thinkswitch.recipe import Schedule
from thinkswitch.rounds import Round
from thinkswitch.text import format_bytes
from thinkswitch.weights.kv_cache import cache_bytes
from thinkswitch.weights.pair import Pair

QUANTISATION = "Q8_0"
MARGIN = 1.02  # of free space, for what the file system itself needs
CACHE_VALUE_BYTES = 2  # llama.cpp keeps keys and values in 16 bits
UNWRITTEN = Round(0, [], {}, {}, {})  # sizes and names are the same in every round

logger = logging.getLogger(__name__)


def thinking_point(name: str, pair: Pair, state: Round, preset: Preset) -> ExportPoint:
    """The thinking checkpoint of a round, in the form that an engine reads."""
    return ExportPoint(
        pair, state, 1.0, Schedule(), preset, gguf=(QUANTISATION,) if name == "llama.cpp" else ()
    )


def check(name: str, pair: Pair, preset: Preset, folder: Path) -> None:
    """Before a run begins: a UserError where the family has no such file, or the disk no room for it."""
    point = thinking_point(name, pair, UNWRITTEN, preset)
    validate_point(point)
    refuse_full_disk(name, size_of(point), folder)


def llama_cpp_or_torch(pair: Pair, preset: Preset, folder: Path) -> Engine:
    """For auto: llama.cpp where it is there and can hold this checkpoint, else torch."""
    point = thinking_point("llama.cpp", pair, UNWRITTEN, preset)
    try:
        found = engine.find_llama_cpp()
        check("llama.cpp", pair, preset, folder)
        refuse_full_memory(point, preset.rows, preset.think_tokens)
    except UserError as error:
        logger.info("engine auto is torch: %s", error)
        return engine.TORCH
    return found


def size_of(point: ExportPoint) -> int:
    """Bytes of its weights in the files."""
    return (
        sum(file.data_bytes for file in plan_gguf(point)) if point.gguf else total_bytes(plan_entries(point))
    )


def refuse_full_disk(name: str, size: int, folder: Path) -> None:
    ground = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(ground).free
    if size * MARGIN > free:
        raise UserError(
            f"{name} reads the thinking checkpoint from a file of {format_bytes(size)}, and only "
            f"{format_bytes(free)} are free at {ground}; make room, or take engine=torch"
        )


def refuse_full_memory(point: ExportPoint, slots: int, tokens: int) -> None:
    """llama.cpp takes the cache of all its slots when it starts; who takes too much, the system ends."""
    cache = slots * cache_bytes(point.pair.config, CACHE_VALUE_BYTES, tokens)
    needed = size_of(point) + cache
    free = psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"llama.cpp would take {format_bytes(needed)} of memory, {format_bytes(cache)} of them for "
            f"{slots} answers of {tokens:,} tokens at once, and {format_bytes(free)} are free; lower rows or "
            "think_tokens in preset.yaml, then resume"
        )


def write(point: ExportPoint, folder: Path) -> Generator[tuple[int, int], None, Path]:
    """Write the files; yields (bytes written, all), returns what the engine is told to load."""
    try:
        if point.gguf:
            files = gguf_folder.plan_files(point, folder)
            yield from gguf_writer.write_files(point, files)
            return files[0].path
        entries = plan_entries(point)
        write_small_files(folder, point)
        yield from write_shards(folder, entries, lambda name: tensor_blocks(point, name, entries[name]))
        return folder
    except OSError as error:
        if error.errno is None:  # raised by a library, and no failure of the system
            raise
        raise UserError(
            f"the thinking checkpoint could not be written for the engine ({error.strerror} at {folder}); "
            "remove the cause, then resume"
        ) from None
