"""Damage to safetensors files: their headers, offsets and numbers."""

import json
from typing import Any

from process.tree_mutators import TREE_RULES, Draw, as_json


def parts_of(content: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def safetensors_of(header: Any, body: bytes) -> bytes:
    text = as_json(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def header_edited(draw: Draw, content: bytes) -> bytes:
    header, body = parts_of(content)
    return safetensors_of(draw.choice(TREE_RULES)(draw, header), body)


def header_length(draw: Draw, content: bytes) -> bytes:
    lengths = (0, 1, 7, 2**20, 2**31, 2**63, 2**64 - 1, len(content), len(content) - 8)
    return draw.choice(lengths).to_bytes(8, "little") + content[8:]


def another_dtype(draw: Draw, content: bytes) -> bytes:
    header, body = parts_of(content)
    names = [name for name in header if name != "__metadata__"]
    wanted = draw.choice(("F16", "BF16", "F32", "I32", "U32", "I64", "U8", "BOOL", "F8_E4M3", "F64", "f32"))
    for name in draw.choice(([draw.choice(names)], names)):
        header[name]["dtype"] = wanted
    return safetensors_of(header, body)


def another_shape(draw: Draw, content: bytes) -> bytes:
    """Shapes whose bytes still add up, and shapes whose bytes do not."""
    header, body = parts_of(content)
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    shape = entry["shape"]
    count = 1
    for size in shape:
        count *= size
    shapes = (shape[::-1], [*shape, 1], [1, *shape], [count], [], [0], [-1], [2**40, 2**40], [count, 0])
    entry["shape"] = draw.choice(shapes)
    return safetensors_of(header, body)


def tensor_renamed(draw: Draw, content: bytes) -> bytes:
    header, body = parts_of(content)
    name = draw.choice([name for name in header if name != "__metadata__"])
    new = draw.choice(
        (f"{name}_", f"x.{name}", name.replace("layers.0", "layers.9"), "", "lm_head.weight", "\x00")
    )
    header[new] = header.pop(name)
    return safetensors_of(header, body)


def tensor_lost(draw: Draw, content: bytes) -> bytes:
    """The tensor and its bytes are gone, and all others are in order."""
    header, body = parts_of(content)
    name = draw.choice([name for name in header if name != "__metadata__"])
    start, end = header.pop(name)["data_offsets"]
    for key, entry in header.items():
        if key != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - start) for offset in entry["data_offsets"]]
    return safetensors_of(header, body[:start] + body[end:])


def tensor_added(draw: Draw, content: bytes) -> bytes:
    header, body = parts_of(content)
    name = draw.choice(
        ("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "x", "model.visual.a")
    )
    size = draw.choice((0, 4, 64))
    header[name] = {"dtype": "F32", "shape": [size], "data_offsets": [len(body), len(body) + 4 * size]}
    return safetensors_of(header, body + bytes(4 * size))


def offsets_moved(draw: Draw, content: bytes) -> bytes:
    header, body = parts_of(content)
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    start, end = entry["data_offsets"]
    moved = (
        [start + 4, end + 4],
        [end, start],
        [-4, end],
        [start, end + 2**40],
        [start, start],
        [0, end - start],
    )
    entry["data_offsets"] = draw.choice(moved)
    return safetensors_of(header, body)


def values_damaged(draw: Draw, content: bytes) -> bytes:
    """NaN, infinity, zeros or noise in the weights themselves."""
    header, body = parts_of(content)
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    start, end = entry["data_offsets"]
    pattern = draw.choice(
        (b"\xff\xff", b"\x80\x7f", b"\x00\x7c", b"\x00\x00", b"\xff\x7e", draw.randbytes(2))
    )
    end = min(end, start + draw.choice((4, 2**10, 2**30)) // 4 * 4)
    filled = (pattern * ((end - start) // 2 + 1))[: end - start]
    return safetensors_of(header, body[:start] + filled + body[end:])


SAFETENSORS_RULES = (
    header_edited,
    header_edited,
    header_length,
    another_dtype,
    another_shape,
    tensor_renamed,
    tensor_lost,
    tensor_added,
    offsets_moved,
    values_damaged,
    values_damaged,
)
