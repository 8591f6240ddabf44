"""What a GGUF file of a point holds: the tensors under llama.cpp's names and types, and the model's keys.

llama.cpp refuses a file with a tensor too many or too few, and computes nonsense where rotary rows lie in
another order. What is not known to be right is refused here and in gguf_families.py by name.
"""

import math
from dataclasses import dataclass
from functools import cache

import gguf
import torch
from gguf import GGMLQuantizationType as Type
from transformers import PretrainedConfig

from thinkswitch.errors import UserError
from thinkswitch.export.gguf_families import context_length, family_of
from thinkswitch.export.gguf_rope import rope_keys, rope_tensors
from thinkswitch.export.layout import checkpoint_entries
from thinkswitch.export.point import ExportPoint
from thinkswitch.recipe import count_layers, layer_of
from thinkswitch.weights import families
from thinkswitch.weights.checkpoint import DTYPES, TensorInfo

ARCHITECTURE_IDS = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
PLAIN = {"BF16": Type.BF16, "F16": Type.F16, "Q8_0": Type.Q8_0}
MIXED = {"Q4_K_M": Type.Q4_K, "Q5_K_M": Type.Q5_K, "Q6_K": Type.Q6_K}  # most tensors; some get Q6_K
# where a row is no multiple of 256
SMALLER_BLOCKS = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
ALWAYS_F32 = ("_norm.weight", ".shortconv.conv.weight")
VALUES = ("attn_v.weight", "attn_qkv.weight")


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file. `shape` as torch has it: rows first."""

    name: str
    source: str  # its name in the checkpoint; empty: it is computed, see rope_freqs
    shape: tuple[int, ...]
    stored_as: torch.dtype  # in the checkpoint: a point is rounded to it before it is quantised
    type: Type
    heads: int = 0  # above 0: rows of each of so many heads are reordered
    gain: float = 0.0  # what is added to every number

    @property
    def row_bytes(self) -> int:
        elements, size = gguf.GGML_QUANT_SIZES[self.type]
        return self.shape[-1] // elements * size

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.row_bytes


def architecture(point: ExportPoint) -> str:
    """llama.cpp's name for this family; a UserError where the export does not know it."""
    return family_of(point.pair.config).architecture


# ---- tensors


def plan_tensors(point: ExportPoint, quantisation: str) -> list[GgufTensor]:
    """Every tensor of the file, in its order."""
    config = point.pair.config
    entries = checkpoint_entries(point.pair)
    layers = count_layers(list(entries))
    tied = "lm_head.weight" not in entries
    ranks = value_ranks(list(entries))
    tensors = []
    for source, entry in sorted(entries.items(), key=file_place):
        name = name_of(point, source, layers)
        shape = tuple(size for size in entry.shape if size > 1) if is_convolution(name) else entry.shape
        type_ = type_of(name, shape, quantisation, layers, tied, ranks)
        heads, gain = heads_of(point, source), gain_of(config, source)
        tensors.append(GgufTensor(name, source, shape, DTYPES[entry.dtype], type_, heads, gain))
    computed = [
        GgufTensor(name, "", tuple(tensor.shape), torch.float32, Type.F32)
        for name, tensor in rope_tensors(config).items()
    ]
    return [*computed, *tensors]


def name_of(point: ExportPoint, source: str, layers: int) -> str:
    """llama.cpp's name of a tensor; a UserError where it has no place for one."""
    family = family_of(point.pair.config)
    name = name_map(family.architecture, layers).get_name(source, try_suffixes=(".weight", ".bias"))
    module, _, leaf = source.rpartition(".")
    no_place = leaf == "bias" and module.rpartition(".")[2] not in family.biases
    if name is None or no_place:
        raise UserError(f"{source} has no place in a GGUF file of a {family.architecture} model")
    return name


@cache  # it is asked for each tensor, and takes milliseconds to build
def name_map(architecture: str, layers: int) -> gguf.TensorNameMap:
    return gguf.get_tensor_name_map(ARCHITECTURE_IDS[architecture], layers)


def is_convolution(name: str) -> bool:
    """Its kernel is (channels, 1, width) in the checkpoint and (channels, width) in the file."""
    return name.endswith(".shortconv.conv.weight")


def gain_of(config: PretrainedConfig, source: str) -> float:
    """What a norm of this family adds to its weight, which llama.cpp wants added."""
    return families.FAMILIES[config.model_type].gain_offset if source.endswith("norm.weight") else 0.0


def file_place(item: tuple[str, TensorInfo]) -> tuple[int, str]:
    """Embedding, layers in their order, then the rest."""
    layer = layer_of(item[0])
    if layer is None:
        return (-1 if "embed_tokens" in item[0] else 1 << 30), item[0]
    return layer, item[0]


def heads_of(point: ExportPoint, source: str) -> int:
    """How many heads' rows are reordered: of the queries' or the keys' weight and bias."""
    config = point.pair.config
    kind = source.rpartition(".")[0].rpartition(".")[2]
    if not family_of(config).neighbours:
        return 0
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(kind, 0)


def value_ranks(sources: list[str]) -> dict[int, int]:
    """{layer: its number among those with attention}."""
    layers = {layer_of(name) for name in sources if name.endswith(("v_proj.weight", "qkv_proj.weight"))}
    return {layer: rank for rank, layer in enumerate(sorted(n for n in layers if n is not None))}


def type_of(
    name: str, shape: tuple[int, ...], quantisation: str, layers: int, tied: bool, ranks: dict[int, int]
) -> Type:
    """As llama.cpp's converter and its llama-quantize choose it."""
    if len(shape) == 1 or not name.endswith(".weight") or name.endswith(ALWAYS_F32):
        return Type.F32
    wanted = PLAIN.get(quantisation) or mixed_type(name, quantisation, layers, tied, ranks)
    if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = SMALLER_BLOCKS.get(wanted, Type.F16)
    if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = Type.F16
    return wanted


def mixed_type(name: str, quantisation: str, layers: int, tied: bool, ranks: dict[int, int]) -> Type:
    """Of the K mixtures: more bits for the head, and for values and the MLP's last matrix of some layers."""
    head = "token_embd.weight" if tied else "output.weight"
    if name == head:
        return Type.Q6_K
    _, _, rest = name.partition("blk.")
    number, _, kind = rest.partition(".")
    more = False
    if kind in VALUES:  # llama-quantize counts layers with attention
        more = gets_more_bits(ranks[int(number)], len(ranks))
    elif kind == "ffn_down.weight":
        more = gets_more_bits(int(number), layers)
    return Type.Q6_K if more else MIXED[quantisation]


def gets_more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def reordered(block: torch.Tensor, head: int) -> torch.Tensor:
    """Rows of whole heads, each of `head` rows: from its two halves to pairs of neighbours."""
    by_half = block.reshape(len(block) // head, 2, head // 2, *block.shape[1:])
    return by_half.transpose(1, 2).reshape(block.shape)


# ---- keys


def add_model_keys(
    writer: gguf.GGUFWriter, point: ExportPoint, quantisation: str, tensors: list[GgufTensor]
) -> None:
    """What llama.cpp has to know of the model to compute the same."""
    config = point.pair.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(point.preset.name or "ThinkSwitch")
    writer.add_size_label(gguf.size_label(point.pair.parameters, 0, 0, 0))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quantisation}"])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(feed_forward_length(tensors))
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(key_heads(config))
    writer.add_layer_norm_rms_eps(getattr(config, "rms_norm_eps", None) or config.norm_eps)
    if size := getattr(config, "head_dim", None):
        writer.add_key_length(size)
        writer.add_value_length(size)
    for key, value in (*rope_keys(config), *family_of(config).keys(config)):
        getattr(writer, key)(value)


def feed_forward_length(tensors: list[GgufTensor]) -> int:
    """Not every config names it."""
    return next(tensor.shape[-1] for tensor in tensors if tensor.name == "blk.0.ffn_down.weight")


def key_heads(config: PretrainedConfig) -> int | list[int]:
    """Of each layer where some have no attention."""
    kinds = getattr(config, "layer_types", None) or ()
    if "conv" not in kinds:
        return config.num_key_value_heads
    return [0 if kind == "conv" else config.num_key_value_heads for kind in kinds]
