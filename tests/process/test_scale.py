"""At real size (--slow): the embedded pair grown to 0.3 B parameters, so that what it says can be checked.

Padding with zeros changes no function: norms and scales are corrected, heads and rotary pairs find their
places, added layers add nothing. So the whole loop truly works at this size, in NF4, and does not only run.
"""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from conftest import ROOT, TINY, cli, python, wait
from thinkswitch import memory_plan, recipe, rounds, runs
from thinkswitch.generate import Row, generate
from thinkswitch.preset import load_preset
from thinkswitch.sampler import Sampling
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.offload import LARGE_BYTES
from thinkswitch.weights.pair import open_pair

pytestmark = pytest.mark.slow
LINUX = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux says what memory peaked at"
)
SIZE = dict(
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=20,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=50_000,
)


def grown_config(old: Qwen3Config, size: dict) -> Qwen3Config:
    return Qwen3Config(
        **size,
        tie_word_embeddings=True,
        rope_theta=old.rope_parameters["rope_theta"],
        max_position_embeddings=40_960,
        dtype="bfloat16",
        rms_norm_eps=old.rms_norm_eps * old.hidden_size / size["hidden_size"],
        architectures=["Qwen3ForCausalLM"],
        bos_token_id=None,
        eos_token_id=old.eos_token_id,
        pad_token_id=old.pad_token_id,
    )


def places(old: Qwen3Config, new: Qwen3Config) -> dict[str, tuple[torch.Tensor, ...]]:
    """Where the small weights of a module go in the large ones, along each dimension."""
    wider = new.head_dim // old.head_dim
    frequencies = (
        torch.arange(old.head_dim // 2) * wider
    )  # the rotary frequencies that the old ones are among
    dims = torch.cat([frequencies, frequencies + new.head_dim // 2])
    old_share = old.num_attention_heads // old.num_key_value_heads
    new_share = new.num_attention_heads // new.num_key_value_heads
    query_heads = [h // old_share * new_share + h % old_share for h in range(old.num_attention_heads)]
    queries = torch.cat([head * new.head_dim + dims for head in query_heads])
    keys = torch.cat([head * new.head_dim + dims for head in range(old.num_key_value_heads)])
    hidden = torch.arange(old.hidden_size)
    middle = torch.arange(old.intermediate_size)
    return {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "q_norm": (dims,),
        "k_norm": (dims,),
        "gate_proj": (middle, hidden),
        "up_proj": (middle, hidden),
        "down_proj": (hidden, middle),
        "embed_tokens": (torch.arange(old.vocab_size), hidden),
    }


def scale_of(module: str, old: Qwen3Config, new: Qwen3Config) -> float:
    if module == "q_norm":
        return 1.0
    if module == "k_norm":  # padding makes both norms larger, and the score is divided by sqrt(head_dim)
        return math.sqrt(old.head_dim / new.head_dim)
    return math.sqrt(old.hidden_size / new.hidden_size) if "norm" in module else 1.0


def grow(source: Path, out: Path, size: dict) -> None:
    """Write `source`, a small tied Qwen3, in a larger shape and in bf16; the tokens it says stay the same."""
    old, small = AutoConfig.from_pretrained(source), load_file(source / "model.safetensors")
    new = grown_config(old, size)
    where = places(old, new)
    every = new.num_hidden_layers // old.num_hidden_layers
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in AutoModelForCausalLM.from_config(new).named_parameters()}
    grown = {}
    for name, shape in shapes.items():
        module, layer = name.split(".")[-2], recipe.layer_of(name)
        from_name = name if layer is None else name.replace(f".{layer}.", f".{layer // every}.")
        grown[name] = torch.zeros(shape, dtype=torch.bfloat16)
        if layer is None or (layer % every == 0 and from_name in small):
            value = small[from_name].float() * scale_of(module, old, new)
            at = where.get(module, (torch.arange(old.hidden_size),))
            grown[name][at if len(at) == 1 else (at[0][:, None], at[1][None])] = value.bfloat16()
        elif module not in ("o_proj", "down_proj"):  # a layer that works, and adds nothing
            grown[name].normal_(0, 0.02, generator=torch.Generator().manual_seed(layer))
    out.mkdir(parents=True)
    save_file(grown, out / "model.safetensors", {"format": "pt"})
    new.save_pretrained(out)
    AutoTokenizer.from_pretrained(source).save_pretrained(out)
    (out / "generation_config.json").write_bytes((source / "generation_config.json").read_bytes())


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    """The preset of a grown pair."""
    folder = tmp_path_factory.mktemp("grown")
    for role in ("instruct", "thinking"):
        grow(TINY / role, folder / role, SIZE)
    tiny = load_preset("tiny")
    settings = dict(
        name="grown",
        instruct="instruct",
        thinking="thinking",
        train_set=tiny.train_set,
        held_out_set=tiny.held_out_set,
        greedy=True,
        think_tokens=96,
        instruct_tokens=16,
        prompts=8,
        held_out=8,
        rounds=1,
        rows=8,
        batch=4,
        micro_batch=2,
        epochs=2,
        lora_rank=16,
        learning_rate=1e-4,
        max_length=128,
        four_bit=True,
    )
    path = folder / "grown.yaml"
    path.write_text(json.dumps(settings), "utf-8")  # JSON is YAML, too
    return path


def spoken(pair, prompt: tuple[int, ...]) -> str:
    """What the thinking checkpoint of a pair writes, greedily."""
    model = materialise(pair, [], rounds.start(pair).thinking)
    rows = [Row(prompt, Sampling(max_new_tokens=96))]
    chunks = generate(model, pair.thinking.tokenizer, rows, pair.thinking.stop_token_ids)
    return next(chunk.text for chunk in chunks if chunk.finish)


def test_what_is_grown_says_what_the_small_one_says(grown):
    preset = load_preset(grown)
    big = open_pair(preset.instruct, preset.thinking)
    small = open_pair(str(TINY / "instruct"), str(TINY / "thinking"))
    assert big.parameters > 3e8
    prompt = tuple(small.thinking.prompt_ids("What is 7 + 5 - 3 + 8?"))
    said = spoken(small, prompt)
    assert spoken(big, prompt) == said and "17" in said


PEAK = r"""
import re, runpy, sys
sys.argv[0] = "thinkswitch"
try:
    runpy.run_module("thinkswitch", run_name="__main__")
finally:
    print("PEAK", re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""


def peak(*args) -> float:
    """Peak resident bytes of a command. `ru_maxrss` would also count our own peak, before exec."""
    return 1024 * float(re.findall(r"PEAK (\d+)", python("-c", PEAK, *args).stdout)[-1])


@LINUX
def test_the_whole_loop_works_in_four_bits_and_in_the_planned_memory(grown, tmp_path):
    used = peak("run", grown, "--out", tmp_path / "run")
    events = list(runs.read_lines(tmp_path / "run" / "events.jsonl"))
    measured = {(e["round"], e["checkpoint"]): e for e in runs.measured(events)}
    for number in (0, 1):
        thinking = measured[number, "thinking"]
        assert thinking["accuracy"] >= 0.7 and thinking["think_rate"] == 1
    assert next(e for e in events if e["phase"] == "strip")["kept"] >= 6
    losses = [e["loss"] for e in events if e["phase"] == "distil"]
    assert len(losses) == 4 and losses[-1] < losses[0]
    preset = runs.open_run(tmp_path / "run")
    pair = open_pair(preset.instruct, preset.thinking)

    def planned(four_bit: bool) -> float:
        phases = memory_plan.plan_memory(pair, dataclasses.replace(preset, four_bit=four_bit))
        return max(phase.needs for phase in phases if phase.name in memory_plan.LOOP)

    assert 0.4 * planned(True) < used < planned(True) < planned(False), (used / 1e9, planned(True) / 1e9)


@LINUX
def test_an_export_takes_the_planned_memory(grown, tmp_path):
    used = peak("export", grown, "--point", "0.5", "--out", tmp_path / "out")
    preset = load_preset(grown)
    pair = open_pair(preset.instruct, preset.thinking)
    planned = {phase.name: phase.needs for phase in memory_plan.plan_memory(pair, preset)}["export"]
    assert used < 1.2 * planned and 4 * pair.parameters > LARGE_BYTES


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kill_9_in_the_middle_of_an_export_leaves_nothing_that_looks_finished(grown, tmp_path):
    """And running again completes, and takes away what the killed one left."""
    out = tmp_path / "out"
    export = ["export", str(grown), "--point", "0.5", "--out", str(out), "--shard", "0.2"]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    child = subprocess.Popen([sys.executable, "-m", "thinkswitch", *export], cwd=ROOT, **quiet)

    def begun() -> bool:
        """Blocks are looked at, since the file has its full length from the start."""
        written = tmp_path.glob(".thinkswitch-export-*/new/*.safetensors")
        return any(file.stat().st_blocks > 20_000 for file in written)

    wait(lambda: child.poll() is not None or begun())
    assert child.poll() is None
    child.kill()
    child.wait()
    assert not out.exists()
    cli(*export, check=0)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert len(list(out.glob("*.safetensors"))) == 4
    assert open_pair(str(out), load_preset(grown).thinking).parameters > 3e8
