"""A LoRA update as a GGUF file: llama.cpp adds scale * B A to the weights of the base that it is loaded with.

So the scale is a slider: 0 is the base, 1 the exported point. An update's own scale is in B already, so the
file says alpha = rank, by which llama.cpp multiplies with 1.
"""

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from thinkswitch.errors import UserError
from thinkswitch.export.gguf_layout import GgufTensor, heads_of, name_of, reordered
from thinkswitch.export.layout import ADAPTER_PREFIX, adapter_entries, stack_adapters
from thinkswitch.export.point import ROUNDING, ExportPoint
from thinkswitch.recipe import count_layers, straight
from thinkswitch.weights.checkpoint import TensorInfo

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)  # on the card, and at which llama.cpp is compared with the live blend
TYPES = {"LORA": Type.F32, "LORA_F16": Type.F16}
LARGEST_F16 = 65504.0


def plan_lora(point: ExportPoint, kind: str) -> list[GgufTensor]:
    """A (rank, in) and B (out, rank) of every layer that the point changes."""
    layers = count_layers(point.pair.names)
    changed = {
        name
        for update in point.updates
        for name in update.adapter.low_rank
        if abs(update.factor(point.change[name])) > ROUNDING
    }
    tensors = []
    for key, entry in adapter_entries(point).items():
        source, side = weight_of(key)
        if source not in changed:
            continue
        heads = heads_of(point, source) if side == "B" else 0
        name = f"{name_of(point, source, layers)}.lora_{side.lower()}"
        tensors.append(GgufTensor(name, key, entry.shape, torch.float32, TYPES[kind], heads))
    return tensors


def weight_of(key: str) -> tuple[str, str]:
    """(name of the weight, A or B) of PEFT's name of a matrix."""
    stem, _, side = key.removeprefix(ADAPTER_PREFIX).removesuffix(".weight").rpartition(".lora_")
    return f"{stem}.weight", side


def lora_matrix(point: ExportPoint, tensor: GgufTensor) -> np.ndarray:
    """In float32, rows in the order of the file: of queries and keys B's are reordered as the weight's."""
    entry = TensorInfo(tensor.shape, "F32", "")
    matrix = stack_adapters(point, tensor.source, entry)
    if tensor.type == Type.F16 and matrix.abs().max() > LARGEST_F16:
        raise UserError(f"{tensor.source} is too large for 16 bits; ask for LORA instead of LORA_F16")
    if tensor.heads:
        matrix = reordered(matrix, len(matrix) // tensor.heads)
    return matrix.contiguous().numpy()


def add_lora_keys(writer: gguf.GGUFWriter, point: ExportPoint) -> None:
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(point.preset.name or "ThinkSwitch")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(sum(point.ranks)))


def is_straight(point: ExportPoint) -> bool:
    """Whether the slider of this page goes the straight way that a scale does, up to the point."""
    for scale in SCALES[1:-1]:
        ours = point.round.point(scale * point.t, point.schedule)
        theirs = straight(point.origin, point.recipe, scale)
        for name, coefficients in ours.items():
            pairs = zip(coefficients, theirs[name], strict=False)  # those left off are zero
            if any(abs(x - y) > ROUNDING for x, y in pairs):
                return False
    return True
