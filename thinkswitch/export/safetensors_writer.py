"""Safetensors files written block by block, so that an export needs the memory of a few blocks only.

A file consists of
    8 bytes   N, the size of the header, an unsigned 64-bit little-endian integer
    N bytes   the header, a JSON object that may end in spaces:
              {"__metadata__": {"format": "pt"},
               NAME: {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
              where offsets count from the first byte after the header
    the rest  the tensors without gaps: little-endian, the last dimension contiguous

The writer is ours because the safetensors library has no streaming one: `save_file` wants all tensors of a
file in memory. So the export of a 4 B pair takes 0.49 GB at its peak instead of 10.7 GB (2026-11-24).
"""

import hashlib
import io
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

QUEUED_BLOCKS = 4  # that may wait to be written
FLUSH_BYTES = 1 << 25  # after so many bytes, what was written is sent to the disk
CACHED_BYTES = 1 << 30  # of a file being written that stay in the page cache, where a comparison finds them


def file_order(entries: dict[str, TensorInfo]) -> list[str]:
    """The order of tensors in the files: wide types first, so each begins at a multiple of its item size.

    Then all that is small, then matrices layer by layer, as a model reads them: so it can run while it is
    written.
    """

    def key(name: str) -> tuple[int, bool]:
        return -DTYPES[entries[name].dtype].itemsize, len(entries[name].shape) == 2

    return sorted(entries, key=key)


def tensor_bytes(entry: TensorInfo) -> int:
    return math.prod(entry.shape) * DTYPES[entry.dtype].itemsize


def total_bytes(entries: dict[str, TensorInfo]) -> int:
    return sum(map(tensor_bytes, entries.values()))


def ignore_written(name: str) -> None:
    """Nobody waits for the tensors."""


def write_shards(
    folder: Path,
    entries: dict[str, TensorInfo],
    blocks: Callable[[str], Iterator[torch.Tensor]],
    on_written: Callable[[str], None] = ignore_written,
) -> Generator[tuple[int, int], None, dict[str, str]]:
    """Write every file that `entries` name, and an index if there are several.

    Yields (bytes written, all bytes), returns {file: SHA-256}. `blocks(name)` gives a tensor's rows, every
    block in memory of its own; `on_written(name)` is called in another thread once the tensor can be read.
    """
    done, total = 0, total_bytes(entries)
    hashes = {}
    for file in sorted({entry.file for entry in entries.values()}):
        own = {name: entries[name] for name in file_order(entries) if entries[name].file == file}
        with limit_threads(1), ShardWriter(folder / file, own) as shard:  # the other cores write and hash
            for name in own:
                for block in blocks(name):
                    shard.write(block)
                shard.call_when_written(on_written, name)
                yield done + shard.written, total
            hashes[file] = shard.close()
        done += shard.written
        yield done, total
    if len(hashes) > 1:
        write_index(folder, entries, hashes)
    return hashes


def write_index(folder: Path, entries: dict[str, TensorInfo], hashes: dict[str, str]) -> None:
    index = {
        "metadata": {"total_size": total_bytes(entries), "sha256": hashes},
        "weight_map": {name: entry.file for name, entry in sorted(entries.items())},
    }
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


class ShardWriter:
    """One file, written and hashed by two threads while the caller computes the next block."""

    def __init__(self, path: Path, entries: dict[str, TensorInfo]):
        """`entries`: the file's tensors in the order in which their blocks will come."""
        head = header(entries)
        self.written = 0  # bytes of tensors that are in the file
        self._digest = hashlib.sha256(head)
        self._queue: deque[tuple[Future[int], Future[None]]] = deque()
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._file.truncate(
            len(head) + total_bytes(entries)
        )  # readers compare a file's length with its header
        write_fully(self._file, head)
        self._writing = ThreadPoolExecutor(1)
        self._hashing = ThreadPoolExecutor(1)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_) -> None:
        for pool in (self._writing, self._hashing):
            pool.shutdown(cancel_futures=True)
        self._file.close()

    def write(self, block: torch.Tensor) -> None:
        """Queue a block, whose memory must not change any more. Waits while QUEUED_BLOCKS are queued."""
        data = block.contiguous().view(torch.uint8).numpy().data  # little-endian, as memory has it
        written = self._writing.submit(write_fully, self._file, data)
        hashed = self._hashing.submit(self._digest.update, data)
        self._queue.append((written, hashed))
        if len(self._queue) > QUEUED_BLOCKS:
            self._finish_oldest()

    def call_when_written(self, callback: Callable[[str], None], name: str) -> None:
        """Call `callback(name)`, in the writing thread, when all blocks queued so far are in the file."""
        self._writing.submit(callback, name)

    def close(self) -> str:
        """Finish the file. Returns its SHA-256."""
        while self._queue:
            self._finish_oldest()
        self._writing.shutdown()
        self._file.close()
        return self._digest.hexdigest()

    def _finish_oldest(self) -> None:
        written, hashed = self._queue.popleft()
        hashed.result()
        self.written += written.result()  # raises what went wrong, such as a full disk


def write_fully(file: io.FileIO, data: bytes | memoryview) -> int:
    """Write all bytes of `data`; returns how many they are."""
    start = file.tell()
    left = memoryview(data).cast("B")
    size = left.nbytes
    while left:
        left = left[file.write(left) :]
    flush_page_cache(file, start, start + size)
    return size


def flush_page_cache(file: io.FileIO, start: int, end: int) -> None:
    """Begin to write back every FLUSH_BYTES, and drop what lies more than CACHED_BYTES back.

    So the sync at the end is short, and the cache is left to the checkpoints that are read.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    whole = end // FLUSH_BYTES * FLUSH_BYTES
    if whole <= start:
        return
    dont_need = os.POSIX_FADV_DONTNEED  # of dirty pages: write them back; of clean ones: drop them
    os.posix_fadvise(file.fileno(), whole - FLUSH_BYTES, FLUSH_BYTES, dont_need)
    if whole > CACHED_BYTES:
        os.posix_fadvise(file.fileno(), whole - CACHED_BYTES, FLUSH_BYTES, dont_need)


def header(entries: dict[str, TensorInfo]) -> bytes:
    """The size and the header of a file, padded so that the data begin at a multiple of 8."""
    table: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, entry in entries.items():
        end = offset + tensor_bytes(entry)
        table[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
