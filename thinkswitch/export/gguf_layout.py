"""What a GGUF file of a point holds: the tensors under llama.cpp's names and types, and the model's keys.

llama.cpp refuses a file with a tensor too many or too few, and computes nonsense where rotary rows lie in
another order. What is not known to be right is refused here by name.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from thinkswitch.errors import UserError
from thinkswitch.export.layout import checkpoint_entries
from thinkswitch.export.point import ExportPoint
from thinkswitch.recipe import count_layers, layer_of
from thinkswitch.weights.checkpoint import DTYPES, TensorInfo

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # by model_type
ARCHITECTURE_IDS = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
NEIGHBOURS = ("llama",)  # architectures whose rotary pairs are neighbours, elsewhere halves of a head
ROPE_FREQS = "rope_freqs.weight"  # the only tensor that no checkpoint stores
PLAIN = {"BF16": Type.BF16, "F16": Type.F16, "Q8_0": Type.Q8_0}
MIXED = {"Q4_K_M": Type.Q4_K, "Q5_K_M": Type.Q5_K, "Q6_K": Type.Q6_K}  # most tensors; some get Q6_K
# where a row is no multiple of 256
SMALLER_BLOCKS = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
SCALED_BY_KEYS = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file. `shape` as torch has it: rows first."""

    name: str
    source: str  # its name in the checkpoint; empty: it is computed, see rope_freqs
    shape: tuple[int, ...]
    stored_as: torch.dtype  # in the checkpoint: a point is rounded to it before it is quantised
    type: Type
    heads: int = 0  # above 0: rows of each of so many heads are reordered

    @property
    def row_bytes(self) -> int:
        elements, size = gguf.GGML_QUANT_SIZES[self.type]
        return self.shape[-1] // elements * size

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.row_bytes


def architecture(point: ExportPoint) -> str:
    """llama.cpp's name for this family; a UserError where the export does not know it."""
    config = point.pair.config
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        known = ", ".join(ARCHITECTURES)
        raise UserError(
            f"GGUF export does not know {config.model_type} models; it knows {known}. "
            "Export a Hugging Face folder, and convert that with llama.cpp"
        )
    rope = config.rope_parameters["rope_type"]
    if rope not in ("default", "llama3", *SCALED_BY_KEYS):
        raise UserError(
            f"GGUF export does not know the rope type {rope!r}; export a Hugging Face folder, and convert "
            "that with llama.cpp"
        )
    if found == "qwen2" and head_size(config) * config.num_attention_heads != config.hidden_size:
        raise UserError(
            "llama.cpp takes the size of a qwen2 head for hidden size / heads, which it is not here"
        )
    return found


def head_size(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


# ---- tensors


def plan_tensors(point: ExportPoint, quantisation: str) -> list[GgufTensor]:
    """Every tensor of the file, in its order."""
    arch = architecture(point)
    entries = checkpoint_entries(point.pair)
    layers = count_layers(list(entries))
    names = gguf.get_tensor_name_map(ARCHITECTURE_IDS[arch], layers)
    tied = "lm_head.weight" not in entries
    tensors = []
    for source, entry in sorted(entries.items(), key=file_place):
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(f"{source} has no place in a GGUF file of a {arch} model")
        type_ = type_of(name, entry.shape, quantisation, layers, tied)
        heads = heads_of(point, arch, source)
        tensors.append(GgufTensor(name, source, entry.shape, DTYPES[entry.dtype], type_, heads))
    if point.pair.config.rope_parameters["rope_type"] == "llama3":
        size = head_size(point.pair.config) // 2
        tensors.insert(0, GgufTensor(ROPE_FREQS, "", (size,), torch.float32, Type.F32))
    return tensors


def file_place(item: tuple[str, TensorInfo]) -> tuple[int, str]:
    """Embedding, layers in their order, then the rest."""
    layer = layer_of(item[0])
    if layer is None:
        return (-1 if "embed_tokens" in item[0] else 1 << 30), item[0]
    return layer, item[0]


def heads_of(point: ExportPoint, arch: str, source: str) -> int:
    """How many heads' rows are reordered: of the queries' or the keys' weight and bias."""
    config = point.pair.config
    kind = source.rpartition(".")[0].rpartition(".")[2]
    if arch not in NEIGHBOURS:
        return 0
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(kind, 0)


def type_of(name: str, shape: tuple[int, ...], quantisation: str, layers: int, tied: bool) -> Type:
    """As llama.cpp's converter and its llama-quantize choose it."""
    if len(shape) == 1 or not name.endswith(".weight") or name.endswith("_norm.weight"):
        return Type.F32
    wanted = PLAIN.get(quantisation) or mixed_type(name, quantisation, layers, tied)
    if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = SMALLER_BLOCKS.get(wanted, Type.F16)
    if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = Type.F16
    return wanted


def mixed_type(name: str, quantisation: str, layers: int, tied: bool) -> Type:
    """Of the K mixtures: more bits for the head, and for values and the MLP's last matrix of some layers."""
    head = "token_embd.weight" if tied else "output.weight"
    if name == head:
        return Type.Q6_K
    _, _, rest = name.partition("blk.")
    layer, _, kind = rest.partition(".")
    sensitive = kind in ("attn_v.weight", "ffn_down.weight")
    return Type.Q6_K if sensitive and gets_more_bits(int(layer), layers) else MIXED[quantisation]


def gets_more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def reordered(block: torch.Tensor, head: int) -> torch.Tensor:
    """Rows of whole heads, each of `head` rows: from its two halves to pairs of neighbours."""
    by_half = block.reshape(len(block) // head, 2, head // 2, *block.shape[1:])
    return by_half.transpose(1, 2).reshape(block.shape)


def rope_freqs(config: PretrainedConfig) -> np.ndarray:
    """What llama.cpp divides each rotary frequency by, for Llama 3's scaling. float32, (head size / 2,)."""
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    size = head_size(config)
    exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
    plain = 1.0 / config.rope_parameters["rope_theta"] ** exponents
    return (plain / scaled).numpy().astype(np.float32)


# ---- keys


def add_model_keys(writer: gguf.GGUFWriter, point: ExportPoint, quantisation: str) -> None:
    """What llama.cpp has to know of the model to compute the same."""
    config = point.pair.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(point.preset.name or "ThinkSwitch")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quantisation}"])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    for key, value in rope_keys(config):
        getattr(writer, key)(value)
    if architecture(point) == "llama":
        writer.add_rope_dimension_count(head_size(config))
        writer.add_vocab_size(config.vocab_size)


def context_length(config: PretrainedConfig) -> int:
    """Positions. A sliding window that is on ends it, since llama.cpp has none for these families."""
    return sliding_window(config) or config.max_position_embeddings


def sliding_window(config: PretrainedConfig) -> int | None:
    """The window of a model whose context is longer than that; None elsewhere."""
    kinds = getattr(config, "layer_types", None)
    uses_one = any(kind == "sliding_attention" for kind in kinds) if kinds else config.model_type == "mistral"
    window = getattr(config, "sliding_window", None) if uses_one else None
    return window if window and window < config.max_position_embeddings else None


def rope_keys(config: PretrainedConfig) -> Iterator[tuple[str, object]]:
    rope = config.rope_parameters
    yield "add_rope_freq_base", rope["rope_theta"]
    kind = rope["rope_type"]
    if kind in SCALED_BY_KEYS:
        yield "add_rope_scaling_type", SCALED_BY_KEYS[kind]
        yield "add_rope_scaling_factor", rope["factor"]
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        yield "add_rope_scaling_orig_ctx_len", original
        for ours, theirs in YARN_KEYS.items():
            if rope.get(ours) is not None:
                yield theirs, rope[ours]


YARN_KEYS = {
    "beta_fast": "add_rope_scaling_yarn_beta_fast",
    "beta_slow": "add_rope_scaling_yarn_beta_slow",
    "attention_factor": "add_rope_scaling_yarn_attn_factor",
}
