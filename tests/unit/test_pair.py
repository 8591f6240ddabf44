"""Two checkpoints are opened by their headers; what does not fit is refused by name, before any weight is read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import byte_tokenizer, save_pair
from thinkswitch.errors import UserError
from thinkswitch.weights.checkpoint import Checkpoint, open_checkpoint
from thinkswitch.weights.pair import open_pair


@pytest.fixture
def copied(folders, tmp_path):
    """A pair that a test may damage."""
    out = []
    for folder in folders("qwen3"):
        out.append(Path(shutil.copytree(folder, tmp_path / Path(folder).name)))
    return out


def edit(path: Path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_counts_and_conventions(folders):
    pair = open_pair(*folders("qwen3"))
    weights = load_file(Path(folders("qwen3")[0]) / "model.safetensors")
    assert pair.names == sorted(weights) and "lm_head.weight" not in pair.names  # tied
    assert pair.parameters == sum(w.numel() for w in weights.values())
    assert (pair.instruct.template_opens_think, pair.thinking.template_opens_think) == (False, True)
    tok = pair.instruct.tokenizer
    assert tok.decode([pair.instruct.turn_end]) == "<|im_end|>" and pair.instruct.turn_end in pair.instruct.stop_token_ids


def test_headers_are_enough(copied, monkeypatch):
    """No weight is read to open a pair."""
    monkeypatch.setattr(Checkpoint, "tensor", lambda *a: pytest.fail("read a weight"))
    assert len(open_pair(*map(str, copied)).names) > 20


def test_shards_read_as_single_files(folders, tmp_path):
    sharded = save_pair(tmp_path, "qwen3", shard="20KB")
    assert len(list(Path(sharded[0]).glob("*.safetensors"))) > 2
    whole, parts = open_pair(*folders("qwen3")), open_pair(*sharded)
    for (name, a, b), (_, c, d) in zip(sorted(whole.tensors()), sorted(parts.tensors())):
        assert torch.equal(a, c) and torch.equal(b, d), name


@pytest.mark.parametrize("key, value, says", [
    ("rope_parameters", {"rope_type": "default", "rope_theta": 5e6}, "rope_parameters differs"),
    ("tie_word_embeddings", False, "tie_word_embeddings differs"),
    ("num_attention_heads", 4, "num_attention_heads differs"),
    ("rms_norm_eps", 1e-5, "rms_norm_eps differs"),
    ("model_type", "llama", "model_type differs"),
])
def test_configs_that_differ(copied, key, value, says):
    edit(copied[1] / "config.json", **{key: value})
    with pytest.raises(UserError, match=f"cannot be interpolated: .*{says}"):
        open_pair(*map(str, copied))


def test_shapes_and_names_that_differ(copied):
    path = copied[1] / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = torch.ones(7)
    weights["extra.weight"] = weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, path)
    with pytest.raises(UserError) as caught:
        open_pair(*map(str, copied))
    assert "missing from the thinking checkpoint (model.layers.0.mlp.up_proj.weight)" in str(caught.value)
    assert "missing from the instruct checkpoint (extra.weight)" in str(caught.value)
    assert "model.norm.weight [64] / [7]" in str(caught.value)


def test_tokenizers_that_differ(copied):
    tok = byte_tokenizer()
    tok.add_tokens(["<new>"])
    tok.save_pretrained(copied[1])
    with pytest.raises(UserError, match="tokenizers differ in 1 tokens .'<new>'"):
        open_pair(*map(str, copied))


def refuse(copied, says):
    with pytest.raises(UserError, match=says):
        open_pair(*map(str, copied))


def test_damaged_weights(copied):
    path = copied[0] / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refuse(copied, "truncated or no safetensors file")
    path.write_bytes(b"not weights at all")
    refuse(copied, "truncated or no safetensors file")
    path.unlink()
    refuse(copied, "has no weights: model.safetensors is missing$")
    (copied[0] / "pytest.bin").write_bytes(b"")
    refuse(copied, "pickled weights are never opened")


def test_missing_shards(tmp_path):
    folders = [Path(f) for f in save_pair(tmp_path, shard="20KB")]
    next(folders[0].glob("model-00002*")).unlink()
    refuse(folders, r"lacks 1 of its \d+ shards .model-00002")
    (folders[0] / "model.safetensors.index.json").write_text("{")
    refuse(folders, "not a readable index")


def test_index_that_lists_more_than_there_is(tmp_path):
    folders = [Path(f) for f in save_pair(tmp_path, shard="20KB")]
    index = folders[0] / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map={**placed, "ghost.weight": sorted(placed.values())[0]})
    refuse(folders, "1 tensors that the index lists are in no shard .ghost.weight")


def test_folders_that_are_no_checkpoint(copied, tmp_path):
    refuse((copied[0], tmp_path / "none"), "neither an existing folder nor a Hub id")
    refuse(("", copied[1]), "no checkpoint given")
    (tmp_path / "empty").mkdir()
    refuse((tmp_path / "empty", copied[1]), "it has no config.json")
    (copied[0] / "config.json").write_text("{")
    refuse(copied, "config.json cannot be used")


def test_other_architectures_quantised_parents_and_missing_templates(copied):
    config = json.loads((copied[0] / "config.json").read_text())
    edit(copied[0] / "config.json", model_type="gpt2")
    refuse(copied, "is a gpt2 model; known are")
    (copied[0] / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    refuse(copied, "is quantised")
    (copied[0] / "config.json").write_text(json.dumps(config))
    (copied[0] / "chat_template.jinja").unlink()
    refuse(copied, "has no chat template")


@pytest.mark.parametrize("file, text, says", [
    ("tokenizer.json", "{}", "no readable tokenizer"), ("chat_template.jinja", "{% if %}", "chat template or generation_config"),
    ("generation_config.json", "{", "chat template or generation_config")])
def test_damaged_small_files(copied, file, text, says):
    (copied[0] / file).write_text(text)
    refuse(copied, says)


def test_the_rotary_table_of_old_llama_files_is_left_out(copied):
    for folder in copied:
        weights = load_file(folder / "model.safetensors")
        save_file({**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / "model.safetensors")
    assert not any("rotary" in n for n in open_pair(*map(str, copied)).names)


def test_a_hub_id_offline_is_one_sentence():
    with pytest.raises(UserError, match="nobody/nothing.*(Hub cannot be reached|could not be fetched)"):
        open_checkpoint("nobody/nothing")
