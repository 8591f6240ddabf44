"""Safetensors files written a block of rows at a time."""

import hashlib
import json
import math
import os
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from thinkswitch.weights.checkpoint import DTYPES, TensorInfo
from thinkswitch.weights.device import limit_threads

AHEAD = 4  # blocks that may wait to be written
FLUSH = 1 << 25  # bytes after which what was written is sent to the disk
KEPT = 1 << 30  # bytes of a file being written that stay in the system's cache, where a comparison finds them


def file_order(entries: dict[str, TensorInfo]) -> list[str]:
    """How they lie in the files. Wide types first, so that every tensor begins at a multiple of its own size; then vectors; then
    layer by layer: as a model reads them, so it can be run while it is written."""
    return sorted(entries, key=lambda name: (-DTYPES[entries[name].dtype].itemsize, len(entries[name].shape) > 1))


def tensor_bytes(entry: TensorInfo) -> int:
    return math.prod(entry.shape) * DTYPES[entry.dtype].itemsize


def write_tensors(folder: Path, entries: dict[str, TensorInfo], blocks: Callable[[str], Iterator[torch.Tensor]],
                  arrived: dict[str, Future]) -> Generator[tuple[int, int], None, dict[str, str]]:
    """Safetensors files, and an index where there are several. Yields (bytes written, all); returns {file: SHA-256}.

    `arrived`: of every tensor, told when it can be read from its file.
    """
    done, total, files, sums = 0, sum(map(tensor_bytes, entries.values())), sorted({e.file for e in entries.values()}), {}
    for file in files:
        own = {name: entries[name] for name in file_order(entries) if entries[name].file == file}
        # one hand writes and one sums while the next block is combined
        with limit_threads(1), open(folder / file, "wb", buffering=0) as out, ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as summing:
            digest, busy = hashlib.sha256(), deque()

            def put(data) -> tuple[Future, Future]:
                return writing.submit(write_fully, out, data), summing.submit(digest.update, data)

            def waited(hands: tuple[Future, Future]) -> int:
                hands[1].result()
                return hands[0].result()

            head = header(own)
            out.truncate(len(head) + sum(map(tensor_bytes, own.values())))  # readers want a file of the length that its head tells
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


def write_fully(out, data) -> int:
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


def header(entries: dict[str, TensorInfo]) -> bytes:
    """The head of a safetensors file: its length in 8 bytes, then JSON, padded so that data begins at a multiple of 8."""
    table, at = {"__metadata__": {"format": "pt"}}, 0
    for name, entry in entries.items():
        table[name] = dict(dtype=entry.dtype, shape=entry.shape, data_offsets=[at, at + tensor_bytes(entry)])
        at += tensor_bytes(entry)
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
