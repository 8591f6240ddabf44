"""CASES 1: NaN in the weights, float16 that overflows, and what a run keeps from the day it began."""

import json
import logging
import shutil
from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import TINY, pretend_gpu, save_pair
from thinkswitch import loop, rounds, run_context
from thinkswitch.errors import UserError
from thinkswitch.generate import Row, generate
from thinkswitch.preset import Preset, load_preset, make_preset
from thinkswitch.sampler import Sampling
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import Pair, open_pair, open_pair_of
from thinkswitch.weights.pair_report import about_precision, report_of
from thinkswitch.weights.prompting import Prompting

# ---- NaN and infinity

BROKEN = {
    "one NaN": ("model.layers.1.mlp.up_proj.weight", torch.nan, 1, torch.float32),
    "infinity": ("model.layers.0.self_attn.q_proj.weight", torch.inf, 1, torch.bfloat16),
    "minus infinity": ("model.norm.weight", -torch.inf, 3, torch.float16),
    "all of a norm": ("model.layers.0.input_layernorm.weight", torch.nan, 64, torch.float32),
    "the embedding": ("model.embed_tokens.weight", torch.nan, 7, torch.float32),
    "the last layer": ("model.layers.1.self_attn.o_proj.weight", torch.nan, 2, torch.bfloat16),
}


@pytest.fixture
def copied(folders, tmp_path) -> list[Path]:
    return [Path(shutil.copytree(folder, tmp_path / Path(folder).name)) for folder in folders("qwen3")]


def spoil(folder: Path, name: str, value: float, count: int, dtype: torch.dtype) -> None:
    weights = {key: weight.to(dtype) for key, weight in load_file(folder / "model.safetensors").items()}
    weights[name].view(-1)[-count:] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("side", [0, 1], ids=["instruct", "thinking"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_tensor_that_holds_no_numbers_is_named(copied, kind, side):
    """unsloth 3690: it went into every angle and every answer, and only the loss showed it."""
    name, _, count, _ = BROKEN[kind]
    spoil(copied[side], *BROKEN[kind])
    pair = open_pair(*map(str, copied))
    with pytest.raises(UserError) as caught:
        rounds.start(pair)
    assert f"{copied[side]} holds NaN or infinity in {name} ({count} of " in str(caught.value)


def test_numbers_that_are_only_large_are_none(copied):
    """Their squares overflow in float32."""
    spoil(copied[0], "model.layers.0.mlp.up_proj.weight", 1e25, 1, torch.float32)
    assert rounds.start(open_pair(*map(str, copied))).number == 0


# ---- float16


def test_an_answer_of_nan_is_refused(copied):
    """Qwen3 868: float16 overflowed, and nothing but `!!!!`, the token of number 0, was written."""
    spoil(copied[0], "model.norm.weight", torch.nan, 1, torch.float32)
    pair = open_pair(*map(str, copied))
    ask = [Row((5, 6, 7), Sampling(max_new_tokens=3), recipe=dict.fromkeys(pair.names, (1.0, 0.0)))]
    with pytest.raises(UserError, match=r"NaN\) in float32; float16 overflows .* set dtype=float32"):
        list(generate(Blend(pair), pair.instruct.tokenizer, ask, set()))


PRECISION = [  # family, generation of the card, what the preset asks for; whether there is something to say
    ("qwen2", 7, {}, True),  # T4, RTX 20xx: bf16 is emulated there
    ("qwen2", 8, {}, False),  # bf16
    ("qwen2", 8, {"dtype": "float16"}, True),
    ("qwen2", 7, {"dtype": "float32"}, False),
    ("qwen2", 7, {"device": "cpu"}, False),
    ("qwen2", 7, {"four_bit": True}, True),
    ("llama", 7, {}, False),
    ("qwen3", 7, {}, False),
]


@pytest.mark.parametrize(("family", "generation", "asked", "said"), PRECISION)
def test_a_family_that_overflows_in_float16_is_remarked_on(
    folders, monkeypatch, family, generation, asked, said
):
    pair = open_pair(*folders(family, True))
    pretend_gpu(monkeypatch, 16e9, generation)
    preset = Preset(**asked)
    assert bool(list(about_precision(pair, preset))) is said
    found = [odd for odd in report_of(pair, preset).odd if "float16" in odd]
    assert len(found) == said and all("set dtype=float32" in odd for odd in found)


def test_a_run_says_it_once(monkeypatch, tmp_path, caplog):
    instruct, thinking = save_pair(tmp_path, "qwen2")
    sets = dict(train_set=str(TINY / "train.jsonl"), held_out_set=str(TINY / "held_out.jsonl"))
    asked = dict(instruct=instruct, thinking=thinking, device="cpu", dtype="float16", four_bit=False)
    with caplog.at_level(logging.WARNING, "thinkswitch"):
        run_context.prepare(make_preset({**sets, **asked}), tmp_path / "run")
    assert [record.message for record in caplog.records if "may overflow in float16" in record.message]
    assert len(caplog.records) == 1


# ---- the date

DATED = {
    "llama 3": "Today Date: {{ strftime_now('%d %b %Y') }}",
    "in a variable": "{% set now = strftime_now('%Y-%m-%d') %}{{ now }}",
    "if there is a clock": "{% if strftime_now is defined %}{{ strftime_now('%A, %B %d') }}{% endif %}",
    "date_string": "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% endif %}{{ date_string }}",
    "day of the week": "{{ strftime_now('%A') }}",
    "week": "{{ strftime_now('%Y, week %W') }}",
}
FORMATS = ["%d %b %Y", "%Y-%m-%d", "%A, %B %d", "%d %b %Y", "%A", "%Y, week %W"]


def date_templates(folders: list[Path], text: str) -> None:
    for folder in folders:
        path = folder / "chat_template.jinja"
        path.write_text(text + path.read_text("utf-8"), "utf-8")


@pytest.mark.parametrize(("kind", "form"), zip(DATED, FORMATS, strict=True))
def test_the_date_in_a_template_is_the_one_that_is_set(copied, kind, form):
    """sglang 3296: the prompt of one problem was another one after midnight."""
    date_templates(copied, DATED[kind])
    preset = Preset(instruct=str(copied[0]), thinking=str(copied[1]))
    for date in ("2024-07-26", "2026-11-29"):
        shown = datetime.fromisoformat(date).strftime(form)
        for side in open_pair_of(preset, date=date).checkpoints:
            assert f"{shown}<|im_start|>user" in side.render("?")
    today = open_pair_of(preset)
    assert any("its chat template writes the date; a run keeps" in odd for odd in report_of(today).odd)


def test_a_date_does_not_show_among_what_a_side_is_asked_with():
    assert str(Prompting(date="2026-11-29")) == ""


def test_a_run_that_is_resumed_on_another_day_keeps_its_date(copied, tmp_path, monkeypatch):
    date_templates(copied, "Today is {{ strftime_now('%Y-%m-%d') }}. ")
    seen = []

    def watch(pair: Pair, *args):
        seen.append(pair.instruct.render("?")[:21])

    monkeypatch.setattr(run_context, "check_targets", lambda preset, pair: watch(pair))
    sets = dict(train_set=str(TINY / "train.jsonl"), held_out_set=str(TINY / "held_out.jsonl"))
    preset = make_preset({**sets, "instruct": str(copied[0]), "thinking": str(copied[1]), "held_out": 2})
    monkeypatch.setattr(run_context, "today", lambda: "2026-11-29")
    begun = loop.run(preset, tmp_path / "run")
    next(begun)
    begun.close()
    monkeypatch.setattr(run_context, "today", lambda: "2026-11-30")
    next(loop.resume(tmp_path / "run"))
    assert seen == ["Today is 2026-11-29. "] * 2
    info = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert info["origin"] == {"commits": {}, "date": "2026-11-29"}


DAMAGED = [None, "x", 3, [], {}, {"commits": {}}, {"date": ""}, {"commits": 3, "date": "2026-13-01"}]


@pytest.mark.parametrize("origin", DAMAGED, ids=str)
def test_an_origin_that_is_missing_or_damaged_begins_now(tmp_path, monkeypatch, origin):
    monkeypatch.setattr(run_context, "today", lambda: "2026-12-01")
    info = {"pid": 1, "started": 0, "heartbeat": 0, "ended": 1, "origin": origin}
    (tmp_path / "run.json").write_text(json.dumps(info), "utf-8")
    _, found = run_context.open_pair_of_run(load_preset("tiny"), tmp_path)
    assert found == {"commits": {}, "date": "2026-12-01"}
