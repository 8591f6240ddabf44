"""Rows of numbers as GGUF stores them. The K types need ggml's own function, which xllamacpp brings along."""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from thinkswitch.errors import UserError
from thinkswitch.export import llama_cpp
from thinkswitch.export.gguf_kinds import KINDS, MIXED

INSTALL = "pip install -r requirements-gguf.txt"
BY_GGML = (Type.Q4_K, Type.Q5_K, Type.Q6_K)  # all others are written by the gguf package


def require(quantisation: str) -> None:
    """A UserError unless a file of this kind can be written here."""
    if quantisation not in KINDS:
        raise UserError(f"there is no GGUF kind {quantisation!r}; there are {', '.join(KINDS)}")
    if quantisation in MIXED and not llama_cpp.is_here():
        raise UserError(f"{quantisation} needs {llama_cpp.PACKAGE}: {INSTALL}. Q8_0 needs nothing more")


def quantised(rows: np.ndarray, type_: Type) -> np.ndarray:
    """Rows of float32 as the bytes of their blocks, uint8."""
    if type_ not in BY_GGML:
        return gguf.quants.quantize(rows, type_).view(np.uint8)
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    elements, size = gguf.GGML_QUANT_SIZES[type_]
    result = np.empty((len(rows), rows.shape[1] // elements * size), dtype=np.uint8)
    source = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    target = result.ctypes.data_as(ctypes.c_void_p)
    written = quantise_chunk()(int(type_), source, target, 0, len(rows), rows.shape[1], None)
    assert written == result.nbytes, (written, result.nbytes)
    return result


@cache
def quantise_chunk() -> Any:
    """ggml_quantize_chunk(type, source, target, start, rows, elements a row, importance) -> bytes written.

    The same bytes as llama-quantize writes, a block of rows at a time.
    """
    spec = importlib.util.find_spec(llama_cpp.PACKAGE)
    assert spec and spec.submodule_search_locations  # see `require`
    folder = Path(next(iter(spec.submodule_search_locations)))
    library = next(path for path in folder.iterdir() if path.suffix in (".so", ".pyd", ".dylib"))
    function = ctypes.CDLL(str(library), mode=ctypes.RTLD_LOCAL).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_float),
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return function
