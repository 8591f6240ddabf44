"""At real size (--slow): the embedded pair blown up to 0.3 B parameters and 50 000 words, so that what it says can be checked.

Padding with zeros changes no function: norms and scales are corrected, heads and rotary pairs find their places, added layers add
nothing. So the whole loop truly works at this size, in NF4, and not only runs.
"""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from conftest import ROOT, TINY, cli
from thinkswitch import memory_plan, recipe, rounds, runs
from thinkswitch.generate import Row, Sampling, generate
from thinkswitch.preset import load_preset
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.offload import LARGE_BYTES
from thinkswitch.weights.pair import open_pair

pytestmark = pytest.mark.slow
SIZE = dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=20, num_attention_heads=16, num_key_value_heads=8, head_dim=128, vocab_size=50_000)


def grow(source: Path, out: Path, size: dict) -> None:
    """Write `source` (a small Qwen3, tied) in a larger shape: the same function of the same tokens, in bf16."""
    old, small = AutoConfig.from_pretrained(source), load_file(source / "model.safetensors")
    new = Qwen3Config(**size, tie_word_embeddings=True, rope_theta=old.rope_parameters["rope_theta"], max_position_embeddings=40_960, dtype="bfloat16",
                      rms_norm_eps=old.rms_norm_eps * old.hidden_size / size["hidden_size"], architectures=["Qwen3ForCausalLM"],
                      bos_token_id=None, eos_token_id=old.eos_token_id, pad_token_id=old.pad_token_id)
    wider, longer = new.head_dim // old.head_dim, math.sqrt(new.head_dim / old.head_dim)
    pairs = torch.arange(old.head_dim // 2) * wider  # the rotary frequencies that the old ones are among
    dims = torch.cat([pairs, pairs + new.head_dim // 2])
    share, room = old.num_attention_heads // old.num_key_value_heads, new.num_attention_heads // new.num_key_value_heads
    queries = torch.cat([(h // share * room + h % share) * new.head_dim + dims for h in range(old.num_attention_heads)])
    keys = torch.cat([h * new.head_dim + dims for h in range(old.num_key_value_heads)])
    hidden, middle = torch.arange(old.hidden_size), torch.arange(old.intermediate_size)
    where = dict(q_proj=(queries, hidden), k_proj=(keys, hidden), v_proj=(keys, hidden), o_proj=(hidden, queries), q_norm=(dims,), k_norm=(dims,),
                 gate_proj=(middle, hidden), up_proj=(middle, hidden), down_proj=(hidden, middle), embed_tokens=(torch.arange(old.vocab_size), hidden))
    scale = dict(q_norm=1.0, k_norm=1 / longer)  # the score is divided by sqrt(head_dim), which the query makes up for
    every = new.num_hidden_layers // old.num_hidden_layers
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in AutoModelForCausalLM.from_config(new).named_parameters()}
    grown = {}
    for name, shape in shapes.items():
        part, layer = name.split(".")[-2], recipe.layer_of(name)
        source_name = name if layer is None else name.replace(f".{layer}.", f".{layer // every}.")
        grown[name] = torch.zeros(shape, dtype=torch.bfloat16)
        if layer is None or (layer % every == 0 and source_name in small):
            value = small[source_name].float() * scale.get(part, math.sqrt(old.hidden_size / new.hidden_size) if "norm" in part else 1)
            at = where.get(part, (hidden,))
            grown[name][at if len(at) == 1 else (at[0][:, None], at[1][None])] = value.bfloat16()
        elif part not in ("o_proj", "down_proj"):  # a layer that works, and adds nothing
            grown[name].normal_(0, 0.02, generator=torch.Generator().manual_seed(layer))
    out.mkdir(parents=True)
    save_file(grown, out / "model.safetensors", {"format": "pt"})
    new.save_pretrained(out)
    AutoTokenizer.from_pretrained(source).save_pretrained(out)
    (out / "generation_config.json").write_text((source / "generation_config.json").read_text())


def grown_preset(folder: Path, size: dict = SIZE, **knobs) -> Path:
    for role in ("instruct", "thinking"):
        grow(TINY / role, folder / role, size)
    tiny = load_preset("tiny")
    path = folder / "grown.yaml"
    path.write_text(json.dumps(dict(name="grown", instruct="instruct", thinking="thinking", train_set=tiny.train_set, held_out_set=tiny.held_out_set,
                                    greedy=True, think_tokens=96, instruct_tokens=16, **knobs)))
    return path


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    return grown_preset(tmp_path_factory.mktemp("grown"), prompts=8, held_out=8, rounds=1, rows=8, batch=4, micro_batch=2, epochs=2, lora_rank=16,
                        learning_rate=1e-4, max_length=128, four_bit=True)


def test_what_is_grown_says_what_the_small_one_says(grown):
    preset = load_preset(grown)
    big, small = open_pair(preset.instruct, preset.thinking), open_pair(str(TINY / "instruct"), str(TINY / "thinking"))
    assert big.parameters > 3e8
    prompt = tuple(small.thinking.prompt_ids("What is 7 + 5 - 3 + 8?"))
    texts = []
    for pair in (small, big):
        model = materialise(pair, [], rounds.start(pair).thinking)
        [last] = [c for c in generate(model, pair.thinking.tokenizer, [Row(prompt, Sampling(max_new_tokens=96))], pair.thinking.stop_token_ids) if c.finish]
        texts.append(last.text)
    assert texts[0] == texts[1] and "17" in texts[0]


def peak(*args) -> float:
    """Peak resident bytes of a `python -m thinkswitch ...` that succeeds. (`ru_maxrss` would also count our own peak, before exec.)"""
    code = ("import re, runpy, sys; sys.argv[0] = 'thinkswitch'\ntry: runpy.run_module('thinkswitch', run_name='__main__')\n"
            "finally: print('PEAK', re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])")
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], cwd=ROOT, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return 1024 * float(re.findall(r"PEAK (\d+)", done.stdout)[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the largest memory a process had")
def test_the_whole_loop_works_in_four_bits_and_in_the_planned_memory(grown, tmp_path):
    used = peak("run", grown, "--out", tmp_path / "run")
    events = list(runs.read_lines(tmp_path / "run" / "events.jsonl"))
    measured = {(e["round"], e["checkpoint"]): e for e in runs.measured(events)}
    assert all(measured[number, "thinking"]["accuracy"] >= 0.7 and measured[number, "thinking"]["think_rate"] == 1 for number in (0, 1))
    assert next(e for e in events if e["phase"] == "strip")["kept"] >= 6
    losses = [e["loss"] for e in events if e["phase"] == "distil"]
    assert len(losses) == 4 and losses[-1] < losses[0]
    preset = runs.open_run(tmp_path / "run")
    pair = open_pair(preset.instruct, preset.thinking)
    planned, plain = (max(p.needs for p in memory_plan.plan_memory(pair, dataclasses.replace(preset, four_bit=bits)) if p.name in memory_plan.LOOP) for bits in (True, False))
    assert 0.4 * planned < used < planned < plain, (used / 1e9, planned / 1e9)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the largest memory a process had")
def test_an_export_takes_the_planned_memory(grown, tmp_path):
    used = peak("export", grown, "--point", "0.5", "--out", tmp_path / "out")
    preset = load_preset(grown)
    pair = open_pair(preset.instruct, preset.thinking)
    planned = {p.name: p.needs for p in memory_plan.plan_memory(pair, preset)}["export"]
    assert used < 1.2 * planned and 4 * pair.parameters > LARGE_BYTES


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kill_9_in_the_middle_of_an_export_leaves_nothing_that_looks_finished(grown, tmp_path):
    """And running again completes, and takes away what the killed one left."""
    command = [sys.executable, "-m", "thinkswitch", "export", str(grown), "--point", "0.5", "--out", str(tmp_path / "out"), "--shard", "0.2"]
    child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120  # blocks: the file has its full length from the start
    while not (begun := [f for f in tmp_path.glob(".thinkswitch-export-*/*.safetensors") if f.stat().st_blocks > 2e4]):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert begun and not (tmp_path / "out").exists()
    cli("export", grown, "--point", "0.5", "--out", tmp_path / "out", "--shard", "0.2", check=0)
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and len(list((tmp_path / "out").glob("*.safetensors"))) == 4
    assert open_pair(str(tmp_path / "out"), load_preset(grown).thinking).parameters > 3e8
