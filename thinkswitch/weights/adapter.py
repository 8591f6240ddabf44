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
    """A LoRA update: per tensor name, A (rank, in) and B (out, rank) in float32, scale already in B."""

    low_rank: dict[str, tuple[torch.Tensor, torch.Tensor]]

    def delta(self, name: str) -> torch.Tensor:
        a, b = self.low_rank[name]
        return b @ a


def load_adapter(folder: Path) -> Adapter:
    """From a folder in PEFT's format (adapter_config.json, adapter_model.safetensors)."""
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("use_dora") or config.get("rank_pattern") or config.get("alpha_pattern") or config.get("bias", "none") != "none":
        raise UserError(f"{folder} is not a plain LoRA adapter (DoRA, biases or per-layer ranks); a recipe cannot hold it")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    low_rank = {}
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        for key in sorted(file.keys()):
            if key.endswith(".lora_A.weight"):
                name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
                b = file.get_tensor(key.replace(".lora_A.", ".lora_B.")).float()
                low_rank[name] = (file.get_tensor(key).float(), b * scale)
    return Adapter(low_rank)
