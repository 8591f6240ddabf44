"""Two checkpoints are opened by their headers; what does not fit is named before any weight is read."""

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
def copied(folders, tmp_path) -> list[Path]:
    """A pair that a test may damage."""
    return [Path(shutil.copytree(folder, tmp_path / Path(folder).name)) for folder in folders("qwen3")]


def edit(path: Path, **changes) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **changes}), encoding="utf-8")


def refusal(folders) -> str:
    """The sentence with which a pair is refused."""
    with pytest.raises(UserError) as caught:
        open_pair(*map(str, folders))
    return str(caught.value)


# ---- what fits


def test_counts_and_conventions(folders):
    pair = open_pair(*folders("qwen3"))
    weights = load_file(Path(folders("qwen3")[0]) / "model.safetensors")
    assert pair.names == sorted(weights) and "lm_head.weight" not in pair.names  # tied
    assert pair.parameters == sum(weight.numel() for weight in weights.values())
    assert pair.checkpoints == (pair.instruct, pair.thinking)
    assert (pair.instruct.template_opens_think, pair.thinking.template_opens_think) == (False, True)
    turn_end = pair.instruct.turn_end
    assert pair.instruct.tokenizer.decode([turn_end]) == "<|im_end|>"
    assert turn_end in pair.instruct.stop_token_ids


def test_layers_are_in_their_order(tmp_path):
    pair = open_pair(*save_pair(tmp_path, num_hidden_layers=11))
    layers = [int(name.split(".")[2]) for name in pair.names if ".layers." in name]
    assert layers == sorted(layers) and layers[-1] == 10


def test_headers_are_enough(copied, monkeypatch):
    """No weight is read to open a pair."""
    monkeypatch.setattr(Checkpoint, "tensor", lambda *args: pytest.fail("read a weight"))
    monkeypatch.setattr(Checkpoint, "stream", lambda *args: pytest.fail("read a weight"))
    assert len(open_pair(*map(str, copied)).names) > 20


def test_shards_read_as_single_files(folders, tmp_path):
    sharded = save_pair(tmp_path, "qwen3", shard="20KB")
    assert len(list(Path(sharded[0]).glob("*.safetensors"))) > 2
    whole, parts = open_pair(*folders("qwen3")), open_pair(*sharded)
    for (name, a, b), (_, c, d) in zip(sorted(whole.tensors()), sorted(parts.tensors()), strict=True):
        assert torch.equal(a, c) and torch.equal(b, d), name


def test_the_rotary_table_of_old_llama_files_is_left_out(copied):
    for folder in copied:
        path = folder / "model.safetensors"
        table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        save_file({**load_file(path), **table}, path)
    assert not any("rotary" in name for name in open_pair(*map(str, copied)).names)


# ---- what differs


@pytest.mark.parametrize(
    "key, value",
    [
        ("rope_parameters", {"rope_type": "default", "rope_theta": 5e6}),
        ("tie_word_embeddings", False),
        ("num_attention_heads", 4),
        ("rms_norm_eps", 1e-5),
        ("model_type", "llama"),
    ],
)
def test_configs_that_differ(copied, key, value):
    edit(copied[1] / "config.json", **{key: value})
    sentence = refusal(copied)
    assert "cannot be interpolated: " in sentence and f"{key} differs" in sentence


def test_shapes_and_names_that_differ(copied):
    path = copied[1] / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = torch.ones(7)
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, path)
    sentence = refusal(copied)
    assert "missing from the thinking checkpoint (model.layers.0.mlp.up_proj.weight)" in sentence
    assert "model.norm.weight [64] / [7]" in sentence


def test_tokenizers_that_differ(copied):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.chat_template += "<new>"
    tokenizer.save_pretrained(copied[1])
    assert "the tokenizers differ in 1 tokens ('<new>')" in refusal(copied)


def test_tokenizers_that_have_the_same_tokens_but_split_differently(copied):
    path = copied[1] / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(values), encoding="utf-8")
    assert "the tokenizers have the same tokens but split a probe text differently" in refusal(copied)


# ---- what is damaged


def test_damaged_weights(copied):
    path = copied[0] / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-100], b"not weights at all"):
        path.write_bytes(damaged)
        assert "truncated or no safetensors file" in refusal(copied)
    path.unlink()
    assert refusal(copied).endswith("has no weights: model.safetensors is missing")
    (copied[0] / "pytest.bin").write_bytes(b"")
    assert "pickled weights are never opened" in refusal(copied)


def test_missing_shards(tmp_path):
    folders = [Path(folder) for folder in save_pair(tmp_path, shard="20KB")]
    shards = len(list(folders[0].glob("*.safetensors")))
    next(folders[0].glob("model-00002*")).unlink()
    assert f"lacks 1 of its {shards} shards (model-00002" in refusal(folders)
    (folders[0] / "model.safetensors.index.json").write_text("{", encoding="utf-8")
    assert "not a readable index" in refusal(folders)


def test_an_index_that_lists_more_than_there_is(tmp_path):
    folders = [Path(folder) for folder in save_pair(tmp_path, shard="20KB")]
    index = folders[0] / "model.safetensors.index.json"
    file_of_tensor = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    edit(index, weight_map={**file_of_tensor, "ghost.weight": sorted(file_of_tensor.values())[0]})
    assert "1 tensors that the index lists are in no shard (ghost.weight)" in refusal(folders)


def test_folders_that_are_no_checkpoint(copied, tmp_path):
    assert "neither an existing folder nor a Hub id" in refusal((copied[0], tmp_path / "none"))
    assert "no checkpoint given" in refusal(("", copied[1]))
    (tmp_path / "empty").mkdir()
    assert "it has no config.json" in refusal((tmp_path / "empty", copied[1]))
    (copied[0] / "config.json").write_text("{", encoding="utf-8")
    assert "config.json cannot be used" in refusal(copied)


def test_other_architectures_quantised_parents_and_missing_templates(copied):
    path = copied[0] / "config.json"
    whole = path.read_text(encoding="utf-8")
    edit(path, model_type="gpt2")
    assert "is a gpt2 model; known are" in refusal(copied)
    path.write_text(whole, encoding="utf-8")
    edit(path, quantization_config={"quant_method": "gptq"})
    assert "is quantised" in refusal(copied)
    path.write_text(whole, encoding="utf-8")
    (copied[0] / "chat_template.jinja").unlink()
    assert "has no chat template" in refusal(copied)


@pytest.mark.parametrize(
    "file, text, says",
    [
        ("tokenizer.json", "{}", "no readable tokenizer"),
        ("chat_template.jinja", "{% if %}", "chat template or generation_config"),
        ("generation_config.json", "{", "chat template or generation_config"),
    ],
)
def test_damaged_small_files(copied, file, text, says):
    (copied[0] / file).write_text(text, encoding="utf-8")
    assert says in refusal(copied)


def test_a_hub_id_offline_is_one_sentence():
    with pytest.raises(UserError, match=r"nobody/nothing.*(Hub cannot be reached|could not be fetched)"):
        open_checkpoint("nobody/nothing")
