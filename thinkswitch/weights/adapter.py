"""A LoRA update as two small matrices per layer, read from PEFT's format."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from thinkswitch.errors import UserError


@dataclass(frozen=True)
class Adapter:
    """Per tensor name, A (rank, in) and B (out, rank) in float32. PEFT's scale is already in B."""

    low_rank: dict[str, tuple[torch.Tensor, torch.Tensor]]

    def delta(self, name: str) -> torch.Tensor:
        """The update of a weight (out, in)."""
        a, b = self.low_rank[name]
        return b @ a


def load_adapter(folder: Path) -> Adapter:
    """Read a folder in PEFT's format: adapter_config.json and adapter_model.safetensors."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if not is_plain_lora(config):
        raise UserError(
            f"{folder} is not a plain LoRA adapter (DoRA, biases or per-layer ranks); a recipe cannot hold it"
        )
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    low_rank = {}
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        for key in sorted(file.keys()):
            if key.endswith(".lora_A.weight"):
                name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
                a = file.get_tensor(key).float()
                b = file.get_tensor(key.replace(".lora_A.", ".lora_B.")).float()
                low_rank[name] = (a, b * scale)
    return Adapter(low_rank)


def is_plain_lora(config: dict) -> bool:
    """Whether PEFT's config describes W + scale * B A with one rank and one alpha for all layers."""
    special = ("use_dora", "rank_pattern", "alpha_pattern")
    return not any(config.get(key) for key in special) and config.get("bias", "none") == "none"
