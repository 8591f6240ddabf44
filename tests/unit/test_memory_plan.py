"""The memory plan against real models, and what happens when memory runs out all the same."""

import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache, Qwen3Config

from conftest import save_pair
from thinkswitch import distil, memory_plan
from thinkswitch.distil import Example, Step, answer_loss, train_adapter
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, load_preset
from thinkswitch.recipe import INSTRUCT, uniform_recipe
from thinkswitch.weights.checkpoint import TensorInfo
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair, open_pair

GIB = 1 << 30


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return open_pair(*save_pair(tmp_path_factory.mktemp("plan"), hidden_size=256, intermediate_size=1024, num_hidden_layers=3))


@pytest.fixture(scope="module")
def qwen3_4b():
    """Config and headers of the published shape (hidden 2560, 36 layers, 8 kv heads of 128, 151 936 words, tied); no weights."""
    config = Qwen3Config(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
                         vocab_size=151_936, tie_word_embeddings=True, max_position_embeddings=262_144)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    entries = {n: TensorInfo(tuple(p.shape), "BF16", "x") for n, p in model.named_parameters()}
    side = SimpleNamespace(config=config, entries=entries, name="4b")
    return Pair(side, side)


def card(monkeypatch, gigabytes: float, elem=torch.bfloat16):
    """An NVIDIA card with so much free."""
    monkeypatch.setattr(memory_plan, "resolve_device", lambda preset: dict(device="cuda", dtype=elem, four_bit=preset.four_bit is not False))
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: gigabytes * 1e9)


def named(pair, preset) -> dict[str, memory_plan.Phase]:
    return {phase.name: phase for phase in memory_plan.plan_memory(pair, preset)}


@pytest.mark.parametrize("four_bit", [False, True])
def test_weights_are_what_a_blend_holds(pair, four_bit):
    blend = Blend(pair, four_bit=four_bit)
    states = [s for m in blend.modules() if (s := getattr(getattr(m, "weight", None), "quant_state", None))]
    scales = sum(s.absmax.nbytes + s.state2.absmax.nbytes for s in states)
    tables = {p.data_ptr(): p.nbytes for p in blend.parameters()}  # the tied head shares its tables
    assert memory_plan.weight_bytes(pair, 4, four_bit) == pytest.approx((sum(tables.values()) + scales) / 2, rel=0.01)
    assert bool(states) == four_bit


def test_a_token_s_cache_is_what_transformers_keeps(pair):
    model = materialise(pair, [], uniform_recipe(pair.names, INSTRUCT))
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.zeros(2, 7, dtype=torch.long), past_key_values=cache, use_cache=True)
    assert sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) == 2 * 7 * memory_plan.token_bytes(pair.config, 4)


def test_an_adapter_has_as_many_parameters_as_peft_makes(pair):
    wrapped = get_peft_model(materialise(pair, [], uniform_recipe(pair.names, INSTRUCT)), LoraConfig(r=3, target_modules="all-linear"))
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == memory_plan.adapter_parameters(pair, 3)


def test_qwen3_4b_has_the_known_sizes(qwen3_4b):
    """144 KiB of cache a token, about 2.6 GiB in NF4 with double quantisation and bf16 embeddings, 33 M parameters at rank 16 (Unsloth's formula)."""
    assert memory_plan.token_bytes(qwen3_4b.config, 2) == 144 * 1024
    assert memory_plan.weight_bytes(qwen3_4b, 2, True) / GIB == pytest.approx(2.6, rel=0.06)
    assert memory_plan.adapter_parameters(qwen3_4b, 16) / 1e6 == pytest.approx(33.0, rel=0.01)


@pytest.mark.parametrize("gigabytes", [6, 8, 12, 24])
@pytest.mark.parametrize("rows,tokens", [(8, 16384), (64, 2048), (1, 32768), (8, 81920)])
def test_who_follows_the_advice_fits(qwen3_4b, monkeypatch, gigabytes, rows, tokens):
    card(monkeypatch, gigabytes)
    preset = Preset(rows=rows, think_tokens=tokens, instruct_tokens=1024)
    think = named(qwen3_4b, preset)["think"]
    assert (think.advice is None) == (think.needs <= think.have)
    if think.advice:
        new = {k: int(v) for k, v in re.findall(r"(rows|think_tokens)[ =](?:to )?(\d+)", think.advice)}
        assert new, think.advice
        after = named(qwen3_4b, dataclasses.replace(preset, **new))["think"]
        assert after.advice is None and after.needs > 0.7 * after.have  # and gives away little


def test_eight_gigabytes_take_one_trace_of_16k_in_4_bit_and_none_in_16(qwen3_4b, monkeypatch):
    card(monkeypatch, 7.6)
    preset = Preset(rows=8, think_tokens=16384)
    assert memory_plan.fit_to_memory(qwen3_4b, preset).rows == 1
    phases = named(qwen3_4b, dataclasses.replace(preset, rows=1))
    assert phases["think"].advice is None and phases["distil"].advice is None
    wide = named(qwen3_4b, dataclasses.replace(preset, rows=1, four_bit=False))
    assert "4-bit" in wide["think"].advice


def test_the_embedded_pair_fits_as_it_is():
    preset = load_preset("tiny")
    pair = open_pair(preset.instruct, preset.thinking, headers_only=True)
    assert all(p.advice is None for p in memory_plan.plan_memory(pair, preset)) and memory_plan.fit_to_memory(pair, preset) == dataclasses.replace(preset, four_bit=False)


def test_four_bits_are_taken_where_plain_weights_do_not_fit(qwen3_4b, monkeypatch):
    """On 8 GB they are needed; on 80 GB they would only cost time and precision. What the preset says itself is left alone."""
    small = Preset(rows=2, think_tokens=4096, max_length=2048)
    card(monkeypatch, 80)
    assert memory_plan.fit_to_memory(qwen3_4b, small) == dataclasses.replace(small, four_bit=False)
    assert memory_plan.fit_to_memory(qwen3_4b, dataclasses.replace(small, four_bit=True)).four_bit
    card(monkeypatch, 7.6)
    fitted = memory_plan.fit_to_memory(qwen3_4b, small)
    assert fitted.four_bit and (fitted.rows, fitted.think_tokens) == (2, 4096)
    assert "weights in 4 bits" in named(qwen3_4b, small)["compare"].parts  # 16 GB for both sides otherwise
    card(monkeypatch, 24)  # a side fits as it is, two with three columns do not
    assert "weights" in named(qwen3_4b, small)["think"].parts and "weights" in named(qwen3_4b, small)["compare"].parts
    card(monkeypatch, 16)
    assert "weights" in named(qwen3_4b, small)["think"].parts and "weights in 4 bits" in named(qwen3_4b, small)["compare"].parts


def test_apple_is_not_given_four_bits_unasked(qwen3_4b, monkeypatch):
    card(monkeypatch, 7.6)
    monkeypatch.setattr(memory_plan, "resolve_device", lambda preset: dict(device="mps", dtype=torch.float16, four_bit=bool(preset.four_bit)))
    assert memory_plan.resolve_quantisation(qwen3_4b, Preset(), memory_plan.LOOP).four_bit is False


def test_a_run_shortens_what_not_even_one_row_has_room_for_and_refuses_what_cannot_fit(qwen3_4b, monkeypatch):
    """Before the run's folder is made, not after an hour of thinking."""
    preset = Preset(rows=4, think_tokens=81920, instruct_tokens=1024)
    card(monkeypatch, 7.6)
    fitted = memory_plan.fit_to_memory(qwen3_4b, preset)
    assert fitted.rows == 1 and 16_000 < fitted.think_tokens < 30_000 and fitted.instruct_tokens == 1024
    assert named(qwen3_4b, fitted)["think"].advice is None
    card(monkeypatch, 3)
    with pytest.raises(UserError, match=r"4b does not fit: its weights take 2.\d+ GB, 3 GB are free on the cuda; take a smaller pair"):
        memory_plan.fit_to_memory(qwen3_4b, preset)
    with pytest.raises(UserError, match="take four_bit=true"):
        memory_plan.fit_to_memory(qwen3_4b, dataclasses.replace(preset, four_bit=False))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] not enough memory: you tried to allocate")])
def test_a_step_that_runs_out_of_memory_is_the_same_step_in_smaller_parts(pair, tmp_path, monkeypatch, error):
    preset = Preset(batch=4, micro_batch=4, epochs=2, lora_rank=2, four_bit=False, device="cpu")
    examples = [Example(tuple(range(5, 8 + i)), (20 + i, 9)) for i in range(8)]
    real, widths = answer_loss, []

    def train(folder) -> list[Step]:
        return list(train_adapter(materialise(pair, [], uniform_recipe(pair.names, INSTRUCT)), examples, preset, 0, folder))

    def crowded(model, batch, device):
        widths.append(len(batch))
        if len(batch) > 1 and len(widths) > 1:
            raise error
        return real(model, batch, device)

    plain = train(tmp_path / "a")
    monkeypatch.setattr(distil, "answer_loss", crowded)
    tight = train(tmp_path / "b")
    assert widths == [4] + [4, 2] + 3 * 4 * [1]  # tried as wide as before once, and then no more
    assert [s.loss for s in tight] == pytest.approx([s.loss for s in plain], rel=1e-5)

    def hopeless(*args):
        raise error
    monkeypatch.setattr(distil, "answer_loss", hopeless)
    with pytest.raises(UserError, match="an answer of 1?\\d tokens, prompt included, does not fit into memory to train on; lower max_length"):
        train(tmp_path / "c")
