"""Tiny real models, made on the spot. Nothing is downloaded."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

from thinkswitch.weights.device import silence_libraries

ROOT = Path(__file__).parents[1]
TINY = ROOT / "presets" / "tiny"
CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\nPREFILL{% endif %}")
FAMILIES = {
    "qwen3": (Qwen3Config, dict(head_dim=32)),
    "qwen2": (Qwen2Config, {}),  # biases on q, k, v
    "llama": (LlamaConfig, dict(attention_bias=True, mlp_bias=True)),
}

# Rows as the sets' cards describe them; every word is made up. LaTeX braces must survive the template.
SETS = {
    ("AI-MO/aimo-validation-aime", "train"): [
        dict(id=i, problem=f"Earlier year: find $\\frac{{{i}}}{{1}} + 1$ {{exactly}}.", solution=f"It is \\boxed{{{i + 1}}}.", answer=f"{i + 1:03}", url=f"https://example.org/{i}")
        for i in range(40)],
    ("MathArena/aime_2026", "train"): [dict(problem_idx=i, answer=2 * i, problem=f"This year: find $\\binom{{{i}}}{{1}} \\cdot 2$.") for i in range(1, 31)],
    ("qiaojin/PubMedQA", "pqa_labeled", "train"): [
        dict(pubid=i, question=f"Does substance {i} help?", long_answer="Hard to say.", final_decision=("yes", "no", "maybe")[i % 3],
             context=dict(contexts=[f"We gave {i} g {{daily}}.", "Nobody noticed."], labels=["METHODS", "RESULTS"], meshes=["Humans"],
                          reasoning_required_pred=["yes"], reasoning_free_pred=["no"])) for i in range(1, 50)],
    ("HuggingFaceH4/MATH-500", "test"): [
        dict(problem=f"What is $\\frac{{{i}}}{{2}}$?", solution="Halve it.", answer=f"\\frac{{{i}}}{{2}}", subject="Algebra", level=1, unique_id=f"test/{i}.json")
        for i in range(1, 98, 2)],
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)  # two threads beside another busy process stall in OpenMP barriers
    silence_libraries()


def byte_tokenizer(prefill: str = "") -> PreTrainedTokenizerFast:
    """Every byte is a token, and the tags are one each: 256 + 7 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|endoftext|>", eos_token="<|im_end|>",
                                  additional_special_tokens=["<|im_start|>"], clean_up_tokenization_spaces=False)
    tok.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    tok.chat_template = CHATML.replace("PREFILL", prefill)
    return tok


def save_pair(folder: Path, family: str = "qwen3", tied: bool = True, apart: float = 0.3, seed: int = 0,
              shard: str = "50GB", **changes) -> tuple[str, str]:
    """Two random checkpoints of one architecture; `apart` is their relative distance. Returns both folders."""
    tok = byte_tokenizer()
    kind, own = FAMILIES[family]
    config = kind(**{**dict(vocab_size=len(tok), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                            num_key_value_heads=1, initializer_range=0.2, max_position_embeddings=512, tie_word_embeddings=tied,
                            eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, bos_token_id=None), **own, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for role, prefill in (("instruct", ""), ("thinking", "<think>\n")):
        with torch.no_grad():
            for p in model.parameters():  # gains and biases too, or nothing would tell them apart
                p.add_(torch.randn_like(p) * (p.std().nan_to_num(0.0) + 0.1) * apart)
        model.save_pretrained(folder / role, max_shard_size=shard)
        byte_tokenizer(prefill).save_pretrained(folder / role)
    return str(folder / "instruct"), str(folder / "thinking")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """`folders("qwen3", tied=True)` -> the two folders of a random pair, made once."""
    made = {}

    def get(family="qwen3", tied=True):
        if (family, tied) not in made:
            made[family, tied] = save_pair(tmp_path_factory.mktemp(f"{family}-{tied}"), family, tied)
        return made[family, tied]

    return get


def random_adapter(pair, seed: int, rank: int = 4, size: float = 0.2):
    """An update of every linear layer, about `size` of the weight."""
    from thinkswitch.recipe import module_kind
    from thinkswitch.weights.adapter import Adapter
    g = torch.Generator().manual_seed(seed)
    low_rank = {}
    for name, entry in pair.instruct.entries.items():
        if len(entry.shape) == 2 and module_kind(name) in ("attention", "mlp"):
            out, width = entry.shape
            low_rank[name] = (torch.randn(rank, width, generator=g) * size / width**0.5, torch.randn(out, rank, generator=g) * size)
    return Adapter(low_rank)


def wait(until: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll until `until()` is true."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder of runs."""
    from thinkswitch import runs

    monkeypatch.setattr(runs, "ROOT", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def studio():
    """The page's shared state with the embedded pair, loaded as the page does it, but awaited."""
    from thinkswitch.errors import UserError
    from thinkswitch.preset import load_preset
    from ui.studio import Studio

    studio = Studio(load_preset("tiny"), "tiny")
    with pytest.raises(UserError, match="is not loaded yet"):
        studio.ready()
    studio.load(studio.preset, "tiny")
    wait(lambda: not studio.loading, 120)
    assert studio.status == "Ready" and studio.ready() is studio.loaded
    return studio


def cli(*args, cwd=ROOT, check: int | None = None, timeout=300, **kwargs) -> subprocess.CompletedProcess:
    """`python -m thinkswitch ...` as a user has it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-m", "thinkswitch", *(a if isinstance(a, bytes) else str(a) for a in args)], cwd=cwd, env=env, text=True,
                          capture_output=True, timeout=timeout, **kwargs)
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also what takes minutes: the whole loop on the embedded pair, and its controls")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; run with --slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))
