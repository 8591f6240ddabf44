"""A large checkpoint compared with the live blend while it is written.

Both parents are in the page cache just then, so the comparison reads them from memory. Two threads wait for
each other: the comparison for tensors that are not in their files yet, and the writer for layers that are not
compared yet, or the cache would have dropped what the comparison still needs.
"""

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from thinkswitch.export.comparison import Comparison, PartCall, VerificationResult, record_parts
from thinkswitch.export.point import ExportPoint
from thinkswitch.export.safetensors_writer import CACHED_BYTES, total_bytes
from thinkswitch.export.verify import load_in_transformers, make_blend, prompt_tokens
from thinkswitch.recipe import count_layers, layer_of
from thinkswitch.weights.checkpoint import DTYPES, Checkpoint, TensorInfo
from thinkswitch.weights.device import limit_threads
from thinkswitch.weights.offload import open_offloaded


class WritingStoppedError(Exception):
    """Ends a comparison whose export was cancelled or has failed; nobody gets to see it."""


class StreamingVerifier:
    """Starts at once. The writer calls `wait_for_comparison` and `mark_readable`; `result` comes last."""

    def __init__(self, folder: Path, point: ExportPoint, entries: dict[str, TensorInfo]):
        self._folder = folder
        self._entries = entries
        layers = count_layers(point.pair.names)
        self._layers_ahead = max(1, CACHED_BYTES // 2 * layers // total_bytes(entries))
        self._readable: set[str] = set()
        self._layers_compared = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = ThreadPoolExecutor(1)
        self._outcome = self._thread.submit(self._compare, point)
        self._outcome.add_done_callback(lambda _: self._notify())

    def __enter__(self) -> "StreamingVerifier":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # ---- for the writer

    def mark_readable(self, name: str) -> None:
        """A tensor is whole in its file."""
        with self._changed:
            self._readable.add(name)
            self._changed.notify_all()

    def wait_for_comparison(self, name: str) -> None:
        """Call before a tensor is written: waits while the comparison is too many layers behind it."""
        layer = layer_of(name) or 0
        is_matrix = len(self._entries[name].shape) == 2  # all else is small, and written before
        if layer >= self._layers_ahead and is_matrix:
            self.wait_until_compared(layer - self._layers_ahead)

    def wait_until_compared(self, layer: int) -> None:
        """Wait for a layer (from 0). Raises the error of a comparison that has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._layers_compared > layer or self._outcome.done())
        if self._outcome.done():
            self._outcome.result()

    def result(self) -> Generator[tuple[int, int], None, VerificationResult]:
        """Wait for the comparison, after everything is written. Yields (step, steps) as `verify` does."""
        load_in_transformers(self._folder, large=True)
        while not self._outcome.done():
            yield 1, 3
            wait([self._outcome], timeout=0.2)
        yield 3, 3
        return self._outcome.result()

    def close(self) -> None:
        """End the comparison, finished or not, and wait for its thread."""
        self._closed = True
        self._notify()
        self._thread.shutdown()

    # ---- in the verifying thread

    def wait_until_readable(self, name: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: name in self._readable or self._closed)
        if self._closed:
            raise WritingStoppedError

    def _compare(self, point: ExportPoint) -> VerificationResult:
        comparison = Comparison()

        def compare(call: PartCall) -> None:
            comparison.add(blend, call)
            part = call.part
            if part.kind == "MLP" and part.layer:  # the last part of a layer
                self._layers_compared = part.layer
                self._notify()

        with limit_threads(max(1, torch.get_num_threads() // 2)):
            [ids] = prompt_tokens(self._folder, point)
            config = AutoConfig.from_pretrained(self._folder)
            unfinished = UnfinishedCheckpoint(
                str(self._folder), self._folder, config, self._entries, verifier=self
            )
            exported = open_offloaded(unfinished)
            blend = make_blend(point)
            blend.place([point.recipe])
            record_parts(exported, ids, compare)
        return comparison.result({torch.float32, *(DTYPES[entry.dtype] for entry in self._entries.values())})

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


@dataclass(frozen=True, kw_only=True)
class UnfinishedCheckpoint(Checkpoint):
    """A checkpoint that is being written: reading a tensor waits until it is in its file."""

    verifier: StreamingVerifier

    def tensor(self, name: str, rows: slice = slice(None)) -> torch.Tensor:
        self.verifier.wait_until_readable(name)
        return super().tensor(name, rows)

    def stream(self, name: str, step: int) -> Iterator[torch.Tensor]:
        self.verifier.wait_until_readable(name)
        return super().stream(name, step)
