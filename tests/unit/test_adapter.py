"""PEFT's folder -> two small matrices per layer, scale included."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from thinkswitch.errors import UserError
from thinkswitch.weights.adapter import load_adapter

KEY = "base_model.model.model.layers.0.mlp.up_proj"
NAME = "model.layers.0.mlp.up_proj.weight"


def write_adapter(folder: Path, **config) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.randn(4, 6).bfloat16(), torch.randn(5, 4).bfloat16()
    folder.mkdir(exist_ok=True)
    save_file({f"{KEY}.lora_A.weight": a, f"{KEY}.lora_B.weight": b}, folder / "adapter_model.safetensors")
    text = json.dumps(
        {"r": 4, "lora_alpha": 8, "base_model_name_or_path": "Modèle", **config}, ensure_ascii=False
    )
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    return a.float(), b.float()


@pytest.mark.parametrize("config, scale", [({}, 2.0), ({"use_rslora": True}, 8 / math.sqrt(4))])
def test_the_scale_is_in_b(tmp_path, config, scale):
    a, b = write_adapter(tmp_path, **config)
    adapter = load_adapter(tmp_path)
    got_a, got_b = adapter.low_rank[NAME]
    assert list(adapter.low_rank) == [NAME]
    assert got_a.dtype == got_b.dtype == torch.float32
    assert torch.equal(got_a, a) and torch.equal(got_b, b * scale)
    assert torch.equal(adapter.delta(NAME), (b * scale) @ a)


@pytest.mark.parametrize(
    "config", [{"use_dora": True}, {"rank_pattern": {"x": 2}}, {"alpha_pattern": {"x": 2}}, {"bias": "all"}]
)
def test_what_a_recipe_cannot_hold_is_refused(tmp_path, config):
    write_adapter(tmp_path, **config)
    with pytest.raises(UserError, match="is not a plain LoRA adapter"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\0" * 99, b"[" * 9000, b"[]", b"\xff"])
def test_a_file_that_is_gone_or_damaged(tmp_path, name, content):
    """A run whose adapter's folder was empty ended in FileNotFoundError when it was resumed."""
    write_adapter(tmp_path)
    path = tmp_path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} (cannot be|is truncated)") as refusal:
        load_adapter(tmp_path)
    assert len(str(refusal.value)) < 400 and "\n" not in str(refusal.value)
