"""The text model inside a checkpoint that also sees images is an ordinary checkpoint of its family."""

import json
from pathlib import Path

import pytest
import torch
from tiny_families import YARN
from transformers import AutoConfig, Mistral3Config, Mistral3ForConditionalGeneration, Qwen3VLConfig
from transformers import Qwen3VLForConditionalGeneration as Qwen3VL

from conftest import byte_tokenizer
from thinkswitch import rounds
from thinkswitch.cli.main import main
from thinkswitch.errors import UserError
from thinkswitch.export import point as export_point
from thinkswitch.preset import Preset
from thinkswitch.weights.gram import base_gram
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.offload import open_offloaded
from thinkswitch.weights.pair import open_pair
from thinkswitch.weights.pair_report import report_of
from ui.models.tab import report_html
from unit.export_helpers import IDS, after_rounds, export, load_strictly, relative_error

TEXT = dict(
    vocab_size=len(byte_tokenizer()),
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
    initializer_range=0.2,
    eos_token_id=byte_tokenizer().eos_token_id,
)
MROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
EYES = dict(
    depth=1, num_heads=2, out_hidden_size=64, deepstack_visual_indexes=[0], num_position_embeddings=16
)
PIXTRAL = dict(model_type="pixtral", num_hidden_layers=1, num_attention_heads=2, head_dim=16, image_size=32)
SMALL = dict(hidden_size=32, intermediate_size=32)


def qwen3_vl(tied: bool) -> Qwen3VL:
    text = {**TEXT, "rope_parameters": MROPE}
    config = Qwen3VLConfig(text_config=text, vision_config={**EYES, **SMALL}, tie_word_embeddings=tied)
    return Qwen3VL(config)


def mistral3(tied: bool) -> Mistral3ForConditionalGeneration:
    text = {**TEXT, "model_type": "ministral3", "rope_parameters": YARN}
    config = Mistral3Config(text_config=text, vision_config={**PIXTRAL, **SMALL}, tie_word_embeddings=tied)
    return Mistral3ForConditionalGeneration(config)


@pytest.fixture(
    scope="module",
    params=[(make, tied) for make in (qwen3_vl, mistral3) for tied in (True, False)],
    ids=lambda s: f"{s[0].__name__}-{'tied' if s[1] else 'untied'}",
)
def setting(request, tmp_path_factory):
    """(both folders, the thinking model in transformers)."""
    make, tied = request.param
    folder = tmp_path_factory.mktemp(make.__name__)
    torch.manual_seed(0)
    model = make(tied).eval()
    for role, prefill in (("instruct", ""), ("thinking", "<think>\n")):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * (p.std().nan_to_num(0.0) + 0.1) * 0.3)
        model.save_pretrained(folder / role)
        byte_tokenizer(prefill).save_pretrained(folder / role)
    return (str(folder / "instruct"), str(folder / "thinking")), model


@torch.inference_mode()
def test_it_computes_what_the_whole_computes_without_images(setting):
    folders, whole = setting
    pair = open_pair(*folders)
    assert pair.config.model_type in ("qwen3", "ministral3")
    expected = whole(input_ids=IDS).logits
    state = rounds.start(pair)
    assert torch.equal(materialise(pair, [], state.thinking)(input_ids=IDS).logits, expected)
    assert relative_error(open_offloaded(pair.thinking)(input_ids=IDS).logits, expected) < 1e-5
    blend = Blend(pair)
    blend.place([state.thinking])
    assert relative_error(blend(input_ids=IDS).logits, expected) < 1e-5
    assert base_gram(pair).keys() == pair.instruct.entries.keys()


@pytest.mark.parametrize("large", [False, True])
@torch.inference_mode()
def test_an_export_is_an_ordinary_checkpoint(setting, tmp_path, monkeypatch, large):
    """A large one is compared while it is written."""
    if large:
        monkeypatch.setattr(export_point, "LARGE_BYTES", 0)
    pair = open_pair(*setting[0])
    state = after_rounds(pair, 1)
    done = export(pair, state, 0.4, tmp_path / "out")
    assert done.error < 1e-5 and done.same_tokens == 1
    point = materialise(pair, state.adapters, state.point(0.4))
    again = load_strictly(tmp_path / "out")
    assert relative_error(again(input_ids=IDS).logits, point(input_ids=IDS).logits) < 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert config["model_type"] == pair.config.model_type and "vision_config" not in config
    assert config["architectures"] == [type(again).__name__]
    assert AutoConfig.from_pretrained(tmp_path / "out").tie_word_embeddings == pair.config.tie_word_embeddings
    assert "their vision was left out" in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert open_pair(str(tmp_path / "out"), setting[0][1]).names == pair.names


def test_an_adapter_would_fit_nothing(setting, tmp_path):
    pair = open_pair(*setting[0])
    with pytest.raises(UserError, match=r"also sees images.*export the whole checkpoint"):
        export(pair, after_rounds(pair, 1), 0, tmp_path / "out", adapter=True)


def test_check_says_that_the_vision_is_left_out(setting, capsys):
    pair = open_pair(*setting[0])
    assert pair.instruct.vision and not any("vis" in name for name in pair.names)
    assert main(["check", *setting[0]]) == 0
    assert f"the {len(pair.instruct.vision)} tensors of its vision are left out" in capsys.readouterr().out
    instruct, thinking = setting[0]
    assert "of its vision are left out" in report_html(Preset(instruct=instruct, thinking=thinking))


def test_a_tensor_that_is_neither_text_nor_vision_is_left_out_by_name(setting, tmp_path):
    """As transformers does. It was refused, and a leftover of training is harmless."""
    from safetensors.torch import load_file, save_file

    odd = []
    for folder in map(Path, setting[0]):
        copy = tmp_path / folder.name
        copy.mkdir()
        for path in folder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        tensors = load_file(copy / "model.safetensors")
        save_file({**tensors, "audio.weight": torch.zeros(2, 2)}, copy / "model.safetensors")
        odd.append(str(copy))
    pair = open_pair(*odd)
    assert any("1 tensors that no" in odd and "(audio.weight)" in odd for odd in report_of(pair).odd)
    Blend(pair)
