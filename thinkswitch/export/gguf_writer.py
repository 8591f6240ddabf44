"""A point written as GGUF, a block of rows at a time: as much memory as for safetensors, and no 16-bit copy.

A file consists of a header (keys, then name, shape, type and offset of every tensor), which the gguf package
writes, and the tensors' data, each padded to 32 bytes.
"""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from thinkswitch.export.gguf_kinds import LORAS
from thinkswitch.export.gguf_layout import (
    GgufTensor,
    add_model_keys,
    architecture,
    plan_tensors,
    reordered,
)
from thinkswitch.export.gguf_lora import add_lora_keys, lora_matrix, plan_lora
from thinkswitch.export.gguf_quantise import quantised
from thinkswitch.export.gguf_rope import rope_tensors
from thinkswitch.export.gguf_tokenizer import add_tokenizer_keys
from thinkswitch.export.layout import ADAPTER_PREFIX
from thinkswitch.export.point import ExportPoint
from thinkswitch.weights.materialise import merge_blocks, rows_per_block

ALIGNMENT = 32  # bytes; GGUF's default


@dataclass(frozen=True)
class GgufFile:
    """A file to be written."""

    path: Path
    quantisation: str
    tensors: list[GgufTensor]

    @property
    def data_bytes(self) -> int:
        return sum(padded(tensor.nbytes) for tensor in self.tensors)


@dataclass(frozen=True)
class Written:
    """What was given to the system to be stored."""

    sha256: str
    error: float  # the largest |stored - computed| / |computed| of a tensor


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan_file(point: ExportPoint, quantisation: str, path: Path = Path()) -> GgufFile:
    plan = plan_lora if quantisation in LORAS else plan_tensors
    return GgufFile(path, quantisation, plan(point, quantisation))


def write_files(
    point: ExportPoint, files: list[GgufFile]
) -> Generator[tuple[int, int], None, dict[str, Written]]:
    """Write files of the same tensors, each computed once. Yields (bytes written, all); by file name."""
    total = sum(file.data_bytes for file in files)
    with ExitStack() as stack:
        writers = [stack.enter_context(OpenGguf(point, file)) for file in files]
        for number, tensor in enumerate(files[0].tensors):
            for block in blocks(point, tensor):
                for writer in writers:
                    writer.write(number, block)
            for writer in writers:
                writer.finish(number)
            yield sum(writer.written for writer in writers), total
        return {file.path.name: writer.result() for file, writer in zip(files, writers, strict=True)}


def blocks(point: ExportPoint, tensor: GgufTensor) -> Iterator[np.ndarray]:
    """A tensor's rows in float32, rounded once to the checkpoint's type, in the order of the file.

    Beside a LoRA the weights are those that it is added to.
    """
    if not tensor.source:
        yield rope_tensors(point.pair.config)[tensor.name].numpy()
        return
    if tensor.source.startswith(ADAPTER_PREFIX):
        yield lora_matrix(point, tensor)
        return
    head = tensor.shape[0] // tensor.heads if tensor.heads else 1
    step = max(head, rows_per_block(tensor.shape) // head * head)
    recipe = point.origin if point.lora else point.recipe
    for block in merge_blocks(point.pair, point.round.adapters, recipe, tensor.source, step):
        rows = block.to(tensor.stored_as).float()
        rows = rows + tensor.gain if tensor.gain else rows  # adding 0 would turn -0 into 0
        yield (reordered(rows, head) if tensor.heads else rows).contiguous().numpy()


class OpenGguf:
    """A file whose header is written and whose tensors are being."""

    def __init__(self, point: ExportPoint, file: GgufFile):
        self.written = 0
        self._tensors = file.tensors
        self._off = 0.0  # of the tensor that is being written: squares of what rounding changed
        self._norm = 0.0
        self._error = 0.0
        self._writer = gguf.GGUFWriter(file.path, architecture(point))
        if file.quantisation in LORAS:
            add_lora_keys(self._writer, point)
        else:
            add_model_keys(self._writer, point, file.quantisation, file.tensors)
            rows = next(t.shape[0] for t in file.tensors if t.name == "token_embd.weight")
            add_tokenizer_keys(self._writer, point.template_source, rows)
        for tensor in file.tensors:
            self._writer.add_tensor_info(
                tensor.name,
                (*tensor.shape[:-1], tensor.row_bytes),
                np.dtype(np.uint8),
                tensor.nbytes,
                tensor.type,
            )
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_ti_data_to_file()
        assert self._writer.fout  # opened by the lines above
        [self._file] = self._writer.fout
        self._writer.write_padding(self._file, self._file.tell())
        self._file.flush()
        self._digest = hashlib.sha256(file.path.read_bytes())

    def __enter__(self) -> "OpenGguf":
        return self

    def __exit__(self, *_) -> None:
        self._writer.close()

    def write(self, number: int, block: np.ndarray) -> None:
        type_ = self._tensors[number].type
        computed = block.reshape(-1, block.shape[-1])
        data = quantised(computed, type_)
        self._store(data.tobytes())
        self._off += float(np.square(gguf.dequantize(data, type_) - computed).sum())
        self._norm += float(np.square(computed).sum())

    def finish(self, number: int) -> None:
        """A tensor's last block was written."""
        size = self._tensors[number].nbytes
        self._store(bytes(padded(size) - size))
        if self._norm:
            self._error = max(self._error, (self._off / self._norm) ** 0.5)
        self._off = self._norm = 0.0

    def result(self) -> Written:
        """Once everything was written."""
        return Written(self._digest.hexdigest(), self._error)

    def _store(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.written += len(data)
