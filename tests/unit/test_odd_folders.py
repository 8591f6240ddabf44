"""CASES 1: checkpoints as they lie on people's disks are read as plain transformers reads them.

Each way to make a folder odd is a function of it. Both programs read it, and their logits are compared.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from conftest import save_pair
from thinkswitch import rounds
from thinkswitch.errors import UserError
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair
from thinkswitch.weights.pair_report import report_of

IDS = torch.arange(5, 60)[None]
ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def edit(folder: Path, change: Callable[[dict], dict]) -> None:
    """`change(weights)` returns the tensors that the file shall hold."""
    save_file(change(load_file(folder / ONE_FILE)), folder / ONE_FILE, metadata={"format": "pt"})


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def write_index(folder: Path, files: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}), "utf-8")


def shard(folder: Path, parts: int = 2, names: str = "model-{:05}-of-{:05}.safetensors") -> dict[str, str]:
    """Split the one file; returns what an index would say."""
    weights = load_file(folder / ONE_FILE)
    keys = sorted(weights)
    index = {}
    for part in range(parts):
        file = names.format(part + 1, parts)
        save_file({key: weights[key] for key in keys[part::parts]}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(keys[part::parts], file)
    (folder / ONE_FILE).unlink()
    return index


# ---- the ways


def stale_index_of_files_that_are_gone(folder):
    write_index(folder, {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})


def stale_index_with_its_stale_shards(folder):
    whole = (folder / ONE_FILE).read_bytes()
    edit(folder, lambda weights: {key: weight + 1 for key, weight in weights.items()})
    write_index(folder, shard(folder))
    (folder / ONE_FILE).write_bytes(whole)


def unreadable_index(folder):
    (folder / INDEX).write_text("{", "utf-8")


def shards(folder):
    write_index(folder, shard(folder, 3))


def shards_of_other_names(folder):
    write_index(folder, shard(folder, 2, "part {} of {}.safetensors"))


def shards_beside_files_that_no_index_names(folder):
    write_index(folder, shard(folder))
    save_file({EMBEDDING: torch.ones(3)}, folder / "consolidated.safetensors")


def pickle_beside(folder):
    other = {key: weight + 1 for key, weight in load_file(folder / ONE_FILE).items()}
    torch.save(other, folder / "pytorch_model.bin")


def optimiser_state_beside(folder):
    torch.save({"step": 3}, folder / "optimizer.pt")
    (folder / "checkpoint-500").mkdir()
    shutil.copy(folder / ONE_FILE, folder / "checkpoint-500")


def equal_head(folder):
    edit(folder, lambda weights: {**weights, HEAD: weights[EMBEDDING].clone()})


def different_head(folder):
    edit(folder, lambda weights: {**weights, HEAD: weights[EMBEDDING].flip(0).contiguous()})


def head_in_another_dtype(folder):
    edit(folder, lambda weights: {**weights, HEAD: weights[EMBEDDING].double()})


def head_without_embedding(folder):
    edit(folder, lambda weights: {HEAD: weights.pop(EMBEDDING), **weights})


def equal_head_in_shards(folder):
    equal_head(folder)
    write_index(folder, shard(folder))


def untied_on_this_side_only(folder):
    edit_config(folder, tie_word_embeddings=False)
    different_head(folder)


def mixed_dtypes(folder):
    def mix(weights):
        kinds = (torch.bfloat16, torch.float16, torch.float32)
        return {key: weight.to(kinds[i % 3]) for i, (key, weight) in enumerate(weights.items())}

    edit(folder, mix)


def double_precision(folder):
    edit(folder, lambda weights: {key: weight.double() for key, weight in weights.items()})


def rotary_buffers(folder):
    name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    edit(folder, lambda weights: {**weights, **{name.format(i): torch.ones(4) for i in range(2)}})


def other_buffers(folder):
    def add(weights):
        mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
        return {**weights, "model.layers.0.attn.bias": mask, "model.layers.0.attn.masked_bias": torch.ones(1)}

    edit(folder, add)


def a_layer_too_many(folder):
    """A head that predicts a second token, as GLM and DeepSeek store it."""

    def add(weights):
        layer = "model.layers.1."
        extra = {key.replace(layer, "model.layers.2."): w + 1 for key, w in weights.items() if layer in key}
        return {**weights, **extra}

    edit(folder, add)


def no_prefix(folder):
    """Saved by the base model alone."""
    edit(folder, lambda weights: {key.removeprefix("model."): weight for key, weight in weights.items()})


def one_prefix_too_many(folder):
    edit(folder, lambda weights: {**weights, "model.lm_head.weight": weights[EMBEDDING].clone()})


def no_metadata(folder):
    save_file(load_file(folder / ONE_FILE), folder / ONE_FILE)


def pad_token_of_llama_2(folder):
    edit_config(folder, pad_token_id=-1)


def config_of_transformers_4(folder):
    values = json.loads((folder / "config.json").read_text("utf-8"))
    rope = values.pop("rope_parameters")
    edited = values | {"rope_theta": rope["rope_theta"], "rope_scaling": None, "torch_dtype": "float32"}
    edited.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(edited), "utf-8")


WAYS = (
    stale_index_of_files_that_are_gone,
    stale_index_with_its_stale_shards,
    unreadable_index,
    shards,
    shards_of_other_names,
    shards_beside_files_that_no_index_names,
    pickle_beside,
    optimiser_state_beside,
    equal_head,
    different_head,
    head_in_another_dtype,
    head_without_embedding,
    equal_head_in_shards,
    untied_on_this_side_only,
    mixed_dtypes,
    double_precision,
    rotary_buffers,
    other_buffers,
    a_layer_too_many,
    no_prefix,
    one_prefix_too_many,
    no_metadata,
    pad_token_of_llama_2,
    config_of_transformers_4,
)


@pytest.fixture
def copied(folders, tmp_path) -> list[Path]:
    return [Path(shutil.copytree(folder, tmp_path / Path(folder).name)) for folder in folders("qwen3")]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@torch.inference_mode()
@pytest.mark.parametrize("side", [0, 1], ids=["instruct", "thinking"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_read_as_transformers_reads_it(copied, way, side):
    way(copied[side])
    pair = open_pair(*map(str, copied))
    state = rounds.start(pair)
    points = (state.instruct, state.thinking)
    theirs = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(input_ids=IDS).logits[0]
        for folder in copied
    ]
    blend = Blend(pair)
    blend.place(list(points))
    together = blend(input_ids=IDS.repeat(2, 1)).logits
    for point, live, plain in zip(points, together, theirs, strict=True):
        assert relative(materialise(pair, [], point)(input_ids=IDS).logits[0], plain) < 1e-5
        assert relative(live, plain) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "gemma2", "lfm2", "olmo3", "phi3"])
def test_other_families_without_their_prefix(tmp_path, family):
    folders = [Path(folder) for folder in save_pair(tmp_path, family, tied=True)]
    no_prefix(folders[0])
    equal_head(folders[1])
    pair = open_pair(*map(str, folders))
    plain = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32)(input_ids=IDS).logits
    ours = materialise(pair, [], rounds.start(pair).instruct)(input_ids=IDS).logits
    assert relative(ours, plain) < 1e-5


# ---- what is said of them

SAYS = {
    equal_head: "instruct: a tied head is stored, too, and left out (equal to the embedding)",
    different_head: "instruct: its config ties the head to the embedding, but a different one is stored",
    other_buffers: "instruct: 2 tensors that no qwen3 model has are left out",
    a_layer_too_many: "instruct: 11 tensors that no qwen3 model has are left out, as transformers does "
    "(model.layers.2.input_layernorm.weight",
    rotary_buffers: "instruct: 2 tensors that no qwen3 model has are left out",
    one_prefix_too_many: "instruct: 1 tensors that no qwen3 model has are left out",
}


@pytest.mark.parametrize("way", SAYS, ids=lambda way: way.__name__)
def test_what_is_left_out_is_said(copied, way):
    way(copied[0])
    report = report_of(open_pair(*map(str, copied)))
    assert not report.stops and len(report.odd) == 1 and report.odd[0].startswith(SAYS[way]), report.odd


@pytest.mark.parametrize(
    "way", [shards, pickle_beside, mixed_dtypes, no_prefix, stale_index_with_its_stale_shards, no_metadata]
)
def test_what_changes_nothing_is_not_said(copied, way):
    way(copied[0])
    assert report_of(open_pair(*map(str, copied))).odd == ()


# ---- what cannot be read


def shards_without_index(folder):
    shard(folder)


def only_a_pickle(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / ONE_FILE).unlink()


def only_another_file(folder):
    (folder / ONE_FILE).rename(folder / "consolidated.safetensors")


def a_tensor_is_missing(folder):
    edit(folder, lambda weights: {k: w for k, w in weights.items() if "1.mlp.up" not in k})


def a_layer_is_missing(folder):
    edit_config(folder, num_hidden_layers=3, layer_types=["full_attention"] * 3)


def an_embedding_of_other_rows(folder):
    edit_config(folder, vocab_size=300)


def scales_of_8_bits(folder):
    edit(folder, lambda weights: {**weights, "model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1)})


def weights_of_gptq(folder):
    edit(folder, lambda weights: {**weights, "model.layers.0.mlp.up_proj.qweight": torch.ones(1)})


def state_of_bitsandbytes(folder):
    name = "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4"
    edit(folder, lambda weights: {**weights, name: torch.ones(1)})


def an_unknown_activation(folder):
    edit_config(folder, hidden_act="none of them")


def nothing_that_ends_an_answer(folder):
    edit_config(folder, eos_token_id=None)
    (folder / "generation_config.json").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "eos_token": None}), "utf-8")
    template = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").write_text(template.replace("<|im_", "<|in_"), "utf-8")


REFUSED = {
    an_unknown_activation: "config.json describes no model: ",
    nothing_that_ends_an_answer: "has nothing that ends an answer, neither in its configs nor in its chat",
    shards_without_index: "model.safetensors is missing, and so is model.safetensors.index.json for what is",
    only_a_pickle: "pickled weights are never opened",
    only_another_file: "(consolidated.safetensors); add the index",
    a_tensor_is_missing: "1 tensors are missing from the instruct checkpoint (model.layers.1.mlp.up_pr",
    a_layer_is_missing: "11 tensors are missing from the instruct checkpoint",
    an_embedding_of_other_rows: "(model.embed_tokens.weight is [263, 64], [300, 64] by the config)",
    scales_of_8_bits: "is quantised (it holds model.layers.0.mlp.up_proj.weight_scale_inv)",
    weights_of_gptq: "is quantised (it holds model.layers.0.mlp.up_proj.qweight)",
    state_of_bitsandbytes: "is quantised (it holds model.layers.0.mlp.up_proj.weight.quant_state",
}


@pytest.mark.parametrize("way", REFUSED, ids=lambda way: way.__name__)
def test_what_cannot_be_read_is_one_sentence(copied, way):
    way(copied[0])
    with pytest.raises(UserError) as caught:
        open_pair(*map(str, copied))
    assert REFUSED[way] in str(caught.value)
