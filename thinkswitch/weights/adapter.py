"""A LoRA update as two small matrices per layer, read from PEFT's format.

Adapters come from anywhere. Every setting and every tensor is used or refused by name: what PEFT would do and
a recipe cannot hold must not be left out without a word.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from thinkswitch import json_text
from thinkswitch.errors import UserError, first_line, list_some, quote
from thinkswitch.weights.safetensors_reader import TensorInfo, open_safetensors, tensor_infos

CONFIG = "adapter_config.json"  # these names are PEFT's
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# Settings that leave the update W + scale * B A, whatever they are: how and where it was trained.
HARMLESS = {
    *("r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version"),
    *("inference_mode", "lora_dropout", "fan_in_fan_out", "megatron_core", "ensure_weight_tying"),
    *("qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
}
# Other settings must have one of these values. Some ways to begin the training change the base's weights,
# so the update is none of the weights that were published.
EXPECTED: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
MERGE_IT = "merge it into its checkpoint with peft, and name the merged folder instead"
TRY_ANOTHER = "download it again, or choose another adapter"


@dataclass(frozen=True)
class Adapter:
    """Per tensor name, A (rank, in) and B (out, rank) in float32. PEFT's scale is already in B."""

    low_rank: dict[str, tuple[torch.Tensor, torch.Tensor]]

    def delta(self, name: str) -> torch.Tensor:
        """The update of a weight (out, in)."""
        a, b = self.low_rank[name]
        return b @ a


def load_adapter(folder: Path, source: str = "") -> Adapter:
    """Read a folder in PEFT's format: adapter_config.json and adapter_model.safetensors.

    `source` is what a refusal calls it, if not by its folder.
    """
    source = source or str(folder)
    config = read_config(source, folder)
    low_rank = {}
    with open_safetensors(folder / WEIGHTS) as file:
        names = sorted(update_shapes(source, config, tensor_infos(file, WEIGHTS)))
        scale = update_scale(config)
        for name in names:
            stem = PREFIX + name.removesuffix(".weight")
            a, b = file.get_tensor(stem + A).float(), file.get_tensor(stem + B).float()
            if not (a.isfinite().all() and b.isfinite().all()):
                raise UserError(
                    f"{source} holds NaN or infinity in its update of {quote(name)}; {TRY_ANOTHER}"
                )
            low_rank[name] = (a, b * scale)
    return Adapter(low_rank)


def read_config(source: str, folder: Path) -> dict:
    try:
        config = json_text.read(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise UserError(f"{source}/{CONFIG} cannot be used: {first_line(error)}; {TRY_ANOTHER}") from None
    if not isinstance(config, dict):
        raise UserError(f"{source}/{CONFIG} cannot be used: it holds no settings; {TRY_ANOTHER}")
    return config


def update_scale(config: dict) -> float:
    """What PEFT multiplies B A by."""
    rank = config["r"]
    return config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)


def update_shapes(source: str, config: dict, header: dict[str, TensorInfo]) -> dict[str, tuple[int, int]]:
    """{name of a weight: (out, in)} of an adapter file, from its header; a UserError for all else in it."""
    refuse_special(source, config)
    if not header:
        raise UserError(f"{source} is empty: {WEIGHTS} holds no tensors; {TRY_ANOTHER}")
    stems = [key.removesuffix(A) for key in sorted(header) if key.startswith(PREFIX) and key.endswith(A)]
    unknown = sorted(header.keys() - {stem + side for stem in stems for side in (A, B)})
    if unknown:
        raise UserError(
            f"{source} holds {len(unknown)} tensors that are no LoRA update of a linear layer "
            f"({list_some([quote(key) for key in unknown])}); {MERGE_IT}"
        )
    return {
        f"{stem.removeprefix(PREFIX)}.weight": update_shape(source, config["r"], stem, header)
        for stem in stems
    }


def update_shape(source: str, rank: int, stem: str, header: dict[str, TensorInfo]) -> tuple[int, int]:
    """(out, in) of one layer's update."""
    a, b = header[stem + A], header.get(stem + B)
    if b is None:
        raise UserError(f"{source} lacks the tensor {quote(stem + B)}; {TRY_ANOTHER}")
    for info in (a, b):
        if info.dtype not in FLOATS:
            raise UserError(f"{source} stores {quote(stem)} as {info.dtype}, known are {', '.join(FLOATS)}")
    if len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] == b.shape[1] == rank:
        raise UserError(
            f"{source}: the matrices of {quote(stem)} are {list(a.shape)} and {list(b.shape)}, which is no "
            f"update of rank {rank}, as {CONFIG} says; {TRY_ANOTHER}"
        )
    return b.shape[0], a.shape[1]


def refuse_special(source: str, config: dict) -> None:
    """A UserError for settings under which PEFT computes something else than W + scale * B A."""
    special = [
        f"{key}={quote(value)}"
        for key, value in sorted(config.items())
        if key not in HARMLESS and (value not in EXPECTED[key] if key in EXPECTED else value)
    ]
    if special:
        raise UserError(f"{source} is not a plain LoRA adapter ({list_some(special)}); {MERGE_IT}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise UserError(f"{source} has the rank {quote(rank)}, so it updates nothing; {TRY_ANOTHER}")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UserError(f"{source}/{CONFIG} has the lora_alpha {quote(alpha)}, no number; {TRY_ANOTHER}")
