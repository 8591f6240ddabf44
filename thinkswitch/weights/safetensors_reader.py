"""Reads safetensors files: headers without weights, and weights a block of rows at a time.

A file is the length of its header in 8 bytes, the header in JSON, then the bytes of all tensors.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from thinkswitch import json_text
from thinkswitch.errors import UserError, first_line, quote

# The dtypes that this project computes with, by their names in a header.
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

REASON = 200  # characters of the library's reason: it quotes whole values of the file

# Bits of every dtype that the format knows. Headers come from outside: other names are refused.
DTYPE_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E5M2", "F8_E5M2FNUZ", "F8_E4M3", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about one tensor."""

    shape: tuple[int, ...]
    dtype: str  # a key of DTYPE_BITS
    file: str
    stored_as: str = ""  # its name in the file, where that is another one

    @property
    def nbytes(self) -> float:
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] / 8


def checked_info(source: str, name: str, shape: list[int], dtype: str, file: str) -> TensorInfo:
    """A header's entry for tensor `name`; a UserError where it is no dtype or shape of the format.

    `source` is the checkpoint or file that the sentence names.
    """
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise UserError(
            f"{source}: the tensor {quote(name)} has the dtype {quote(dtype)}, "
            "which safetensors does not know; download it again, or choose another checkpoint"
        )
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise UserError(
            f"{source}: the tensor {quote(name)} has the shape {quote(shape)}; "
            "download it again, or choose another checkpoint"
        )
    return TensorInfo(tuple(shape), dtype, file)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """All tensors of a file; no weights are read."""
    with open_safetensors(path) as file:
        return tensor_infos(file, path.name)


def tensor_infos(file, name: str) -> dict[str, TensorInfo]:
    """All tensors of an open file, which is called `name`."""
    views = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    return {key: TensorInfo(tuple(v.get_shape()), v.get_dtype(), name) for key, v in views.items()}


def open_safetensors(path: Path):
    """An open file of the safetensors library, memory-mapped. A damaged one is a UserError."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise UserError(f"{path} is a folder or a pipe, not a file; put the file there")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        refuse_unknown_dtypes(path)
        reason = first_line(error)[:REASON]
        raise UserError(f"{path} is truncated or no safetensors file ({reason}); download it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def refuse_unknown_dtypes(path: Path) -> None:
    """Name the tensor whose dtype keeps the library from opening a file; nothing if that is not why."""
    try:
        tensors, _ = parse_header(path)
        entries = [(name, entry["shape"], entry["dtype"]) for name, entry in tensors.items()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return
    for name, shape, dtype in entries:
        checked_info(str(path), name, shape, dtype, path.name)


def parse_header(path: Path) -> tuple[dict[str, dict], int]:
    """The header's entry of each tensor, and the byte at which the tensors begin."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json_text.parse(file.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}, 8 + length


def tensor_offsets(path: Path) -> dict[str, int]:
    """The byte of a file at which each tensor begins."""
    tensors, start = parse_header(path)
    return {name: start + entry["data_offsets"][0] for name, entry in tensors.items()}


class BlockReader:
    """Iterates over a tensor in float32, `rows` rows at a time, all blocks IN THE SAME MEMORY.

    Take what you need of a block before asking for the next one. The file is read, not mapped: threads that
    touch new pages of one mapping wait for each other (the export of 4 B parameters took 61 s mapped, 46 s
    read), and mapped pages count as memory of this process.
    """

    def __init__(self, path: Path, offset: int, info: TensorInfo, rows: int):
        self.path = path
        self.offset = offset
        self.total = info.shape[0]
        self.rows = min(rows, self.total)
        self.stored = torch.empty(self.rows, *info.shape[1:], dtype=DTYPES[info.dtype])
        self.block = torch.empty_like(self.stored, dtype=torch.float32)

    def __iter__(self) -> Iterator[torch.Tensor]:
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            for start in range(0, self.total, max(1, self.rows)):
                count = min(self.rows, self.total - start)
                self.fill(file, count)
                yield self.block[:count].copy_(self.stored[:count])

    def fill(self, file, count: int) -> None:
        """Read `count` rows as they are stored."""
        stored = self.stored[:count].view(torch.uint8).numpy()
        waiting = memoryview(stored).cast("B")  # type: ignore[arg-type]
        while waiting:
            received = file.readinto(waiting)
            if not received:
                raise UserError(f"{self.path} is truncated; download it again")
            waiting = waiting[received:]
