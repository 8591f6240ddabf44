"""CASES 1: an export is read by programs of transformers 4, too, and still the same by version 5.

Not run here: version 4.57.3 itself. By hand on 2026-11-29 it loaded exports of all families that it knows,
with the same logits (relative difference below 1e-6) and tokens. Before, the tokenizer was an error there.
"""

import json
from pathlib import Path

import pytest
import torch
from tiny_families import LONG_ROPE, YARN
from transformers import AutoConfig, AutoTokenizer

from conftest import save_pair
from thinkswitch import rounds
from thinkswitch.export.older_readers import add_old_rope, use_old_tokenizer_names
from thinkswitch.weights.pair import open_pair
from unit.export_helpers import IDS, export, load_strictly, relative_error

LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
BY_LAYER = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
ROPES = {
    "default": ("qwen3", {"rope_type": "default", "rope_theta": 1e6}, {"rope_theta": 1e6}),
    "llama 3": ("llama", LLAMA_3, {"rope_theta": 5e5}),
    "yarn": ("ministral3", YARN, {"rope_theta": 1e6}),
    "linear": ("llama", {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, {"rope_theta": 1e4}),
    "long": ("phi3", LONG_ROPE, {"rope_theta": 1e4, "partial_rotary_factor": 0.75}),
    "by kind of layer": ("gemma3_text", BY_LAYER, {"rope_theta": 1e6, "rope_local_base_freq": 1e4}),
}


@torch.inference_mode()
@pytest.mark.parametrize("kind", ROPES)
def test_the_rope_is_found_where_version_4_looks(tmp_path, kind):
    """llama.cpp 18065: rope_theta was lost, and every answer with it."""
    family, rope, flat = ROPES[kind]
    pair = open_pair(*save_pair(tmp_path / "pair", family, rope_parameters=rope))
    export(pair, rounds.start(pair), 0, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert {key: written[key] for key in flat} == flat
    scaling = written.get("rope_scaling")
    if kind == "default":
        assert scaling is None
    elif kind == "long":
        assert set(scaling) == {"type", "short_factor", "long_factor"} and scaling["type"] == "longrope"
    else:
        full = rope.get("full_attention", rope)
        assert scaling == {key: value for key, value in full.items() if key != "rope_theta"}
    again = AutoConfig.from_pretrained(tmp_path / "out").rope_parameters
    again.pop("type", None)
    assert again == pair.config.rope_parameters
    theirs = load_strictly(Path(pair.instruct.folder))(input_ids=IDS).logits
    assert relative_error(load_strictly(tmp_path / "out")(input_ids=IDS).logits, theirs) < 1e-6
    assert not open_pair(str(pair.instruct.folder), str(tmp_path / "out"), headers_only=True).commits


def test_a_config_of_version_4_stays_as_it_is():
    for config in (
        {"rope_theta": 1e6, "rope_scaling": None},
        {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}, "vocab_size": 3},
        {"model_type": "lfm2"},
        {"rope_parameters": None},
        {"rope_parameters": "none"},
    ):
        before = json.dumps(config)
        add_old_rope(config)
        assert json.dumps(config) == before


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"extra_special_tokens": ["<a>"]}, {"additional_special_tokens": ["<a>"]}),
        ({"extra_special_tokens": []}, {"additional_special_tokens": []}),
        ({"extra_special_tokens": {"image": "<a>"}}, {"extra_special_tokens": {"image": "<a>"}}),
        (
            {"extra_special_tokens": ["<a>"], "additional_special_tokens": ["<b>"]},
            {"additional_special_tokens": ["<b>"]},
        ),
        ({"tokenizer_class": "TokenizersBackend"}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"tokenizer_class": "Qwen2Tokenizer"}, {"tokenizer_class": "Qwen2Tokenizer"}),
        ({}, {}),
    ],
)
def test_names_of_version_5_in_a_tokenizer(written, expected):
    use_old_tokenizer_names(written)
    assert written == expected


def test_the_tokenizer_of_an_export_is_the_same_as_before(folders, tmp_path):
    pair = open_pair(*folders("qwen3"))
    export(pair, rounds.start(pair), 1, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text("utf-8"))
    assert "extra_special_tokens" not in config and config["tokenizer_class"] == "PreTrainedTokenizerFast"
    ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (tmp_path / "out", pair.thinking.folder))
    text = "a<|im_start|>b<|im_end|><think>c</think>"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text), skip_special_tokens=True) == "ab<think>c</think>"
    assert (ours.eos_token, ours.pad_token, ours.all_special_tokens) == (
        theirs.eos_token,
        theirs.pad_token,
        theirs.all_special_tokens,
    )
