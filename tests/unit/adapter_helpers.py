"""Adapters as people publish them, made with peft on the instruct checkpoint of a tiny pair."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from conftest import byte_tokenizer

WEIGHTS = "adapter_model.safetensors"
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_adapter(instruct: str, folder: Path, size: float = 0.5, seed: int = 0, **settings) -> str:
    """A random LoRA, `size` in its B, with a tokenizer whose template opens the trace."""
    torch.manual_seed(seed)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEAR, "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(load(instruct), LoraConfig(**config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and parameter.dim() == 2:
                parameter.copy_(torch.randn_like(parameter) * size / parameter.shape[1] ** 0.5)
            elif parameter.requires_grad:  # what PEFT trains whole: a norm, a bias, an output head
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    byte_tokenizer("<think>\n").save_pretrained(folder)
    return str(folder)


def merge(instruct: str, adapter: str, folder: Path) -> str:
    """The same as a whole checkpoint, by peft."""
    merged = PeftModel.from_pretrained(load(instruct), adapter).merge_and_unload()
    merged.save_pretrained(folder)
    for file in Path(adapter).iterdir():
        if "adapter" not in file.name and file.suffix in (".json", ".jinja"):
            shutil.copyfile(file, folder / file.name)
    return str(folder)


def load(folder: str):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def edit_config(folder: str, **changes) -> None:
    path = Path(folder) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def edit_weights(folder: str, change) -> None:
    """`change(weights)` returns the tensors that the file shall hold."""
    path = Path(folder) / WEIGHTS
    save_file(change(load_file(path)), path)
