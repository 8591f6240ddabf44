"""Shared by all tests: a fixed environment, tiny real models made on the spot, the command line as a child.

The environment is set before anything is imported, and children inherit it. Whatever differs between machines
(a GPU, a proxy, a locale, a terminal's width, a umask) must not change a result.
"""

import os

os.environ.update(
    {
        "CUDA_VISIBLE_DEVICES": "",  # `device: auto` is the CPU, on which results are the same to the byte
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "*",
        "no_proxy": "*",
        "PYTHONUTF8": "1",  # for children: UTF-8 whatever the locale
        "COLUMNS": "200",  # the width of argparse's and rich's output
        "NO_COLOR": "1",
    }
)
os.environ.pop("FORCE_COLOR", None)
os.environ.pop("HF_ENDPOINT", None)
os.environ.pop("HF_HOME", None)
os.environ.pop("HF_TOKEN", None)

import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_families import FAMILIES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from thinkswitch.weights.device import silence_libraries

ROOT = Path(__file__).parents[1]
TINY = ROOT / "presets" / "tiny"
os.umask(0o022)  # some tests look at mode bits
# It is ignored where a shell starts us with `&`, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# ---- pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run what takes minutes")
    parser.addoption("--mutations", type=int, help="damaged files of each kind; default 10, with --slow 100")
    parser.addoption("--mutation-seed", type=int, default=0, help="another seed damages them otherwise")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; run with --slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture(scope="session", autouse=True)
def quiet_and_quick():
    """One thread, and garbage collections that skip what is imported.

    Two threads next to another busy process stall in OpenMP barriers. The loop collects garbage whenever it
    lets go of a model; with a million objects of torch and transformers alive, each collection took 0.16 s.
    """
    import thinkswitch.loop  # noqa: F401 - imports everything that is large

    torch.set_num_threads(1)
    silence_libraries()
    gc.collect()
    gc.freeze()


# ---- models

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nPREFILL{% endif %}"
)
ONE_SHAPE_EACH = [(family, number % 2 == 0) for number, family in enumerate(FAMILIES)]  # (family, tied)


def chat_tokenizer(core: Tokenizer) -> PreTrainedTokenizerFast:
    """With the special tokens of ChatML."""
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )


def byte_tokenizer(prefill: str = "") -> PreTrainedTokenizerFast:
    """Every byte is a token, and the tags are one each: 256 + 7 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = chat_tokenizer(core)
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    tokenizer.chat_template = CHATML.replace("PREFILL", prefill)
    return tokenizer


def save_pair(
    folder: Path,
    family: str = "qwen3",
    tied: bool = True,
    apart: float = 0.3,
    seed: int = 0,
    shard: str = "50GB",
    **changes,
) -> tuple[str, str]:
    """Two random checkpoints of one architecture, `apart` in relative distance. Returns both folders."""
    tokenizer = byte_tokenizer()
    config_class, family_settings = FAMILIES[family]
    settings = dict(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    config = config_class(**{**settings, **family_settings, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for role, prefill in (("instruct", ""), ("thinking", "<think>\n")):
        with torch.no_grad():
            for p in model.parameters():  # gains and biases too, or nothing would tell the two apart
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


def pretend_gpu(monkeypatch, free: float, generation: int = 8) -> None:
    """A CUDA device of a generation (7: Turing, 8: Ampere) with so many bytes free; nothing runs on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=generation))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free), int(free)))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True, raising=False)


def random_adapter(pair, seed: int, rank: int = 4, size: float = 0.2):
    """An update of every linear layer, about `size` of the weight."""
    from thinkswitch.recipe import module_kind
    from thinkswitch.weights.adapter import Adapter

    generator = torch.Generator().manual_seed(seed)
    low_rank = {}
    for name, entry in pair.instruct.entries.items():
        if len(entry.shape) == 2 and module_kind(name) in ("attention", "mlp"):
            out, width = entry.shape
            a = torch.randn(rank, width, generator=generator) * size / width**0.5
            b = torch.randn(out, rank, generator=generator) * size
            low_rank[name] = (a, b)
    return Adapter(low_rank)


# ---- the page


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
    wait(lambda: not studio.loader.loading)
    assert studio.loader.status == "Ready" and studio.ready() is studio.loaded
    return studio


# ---- children


def python(*args, check: int | None = 0, cwd: Path = ROOT, timeout: float = 600, **kwargs):
    """A child Python with the product on its path, run to its end. `check`: its exit code; None: any."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        encoding="utf-8",
        capture_output=True,
        timeout=timeout,
        **kwargs,
    )
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


def cli(*args, check: int | None = None, **kwargs):
    """`python -m thinkswitch ...` as a user has it: a child, which imports torch for seconds.

    Most tests of the command line call `main` in process instead: tests/unit/test_cli.py.
    """
    return python("-m", "thinkswitch", *args, check=check, **kwargs)


def wait(until: Callable[[], object], seconds: float = 300.0) -> None:
    """Poll until `until()` is true. The limit is for a test that hangs, not for a machine that is slow."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, f"it did not come in {seconds:g} s"
        time.sleep(0.005)


# ---- data sets

# Rows as the sets' cards describe them; every word is made up. LaTeX braces must survive the template.
SETS = {
    ("AI-MO/aimo-validation-aime", "train"): [
        {
            "id": i,
            "problem": f"Earlier year: find $\\frac{{{i}}}{{1}} + 1$ {{exactly}}.",
            "solution": f"It is \\boxed{{{i + 1}}}.",
            "answer": f"{i + 1:03}",
            "url": f"https://example.org/{i}",
        }
        for i in range(40)
    ],
    ("MathArena/aime_2026", "train"): [
        {"problem_idx": i, "answer": 2 * i, "problem": f"This year: find $\\binom{{{i}}}{{1}} \\cdot 2$."}
        for i in range(1, 31)
    ],
    ("qiaojin/PubMedQA", "pqa_labeled", "train"): [
        {
            "pubid": i,
            "question": f"Does substance {i} help?",
            "long_answer": "Hard to say.",
            "final_decision": ("yes", "no", "maybe")[i % 3],
            "context": {
                "contexts": [f"We gave {i} g {{daily}}.", "Nobody noticed."],
                "labels": ["METHODS", "RESULTS"],
                "meshes": ["Humans"],
                "reasoning_required_pred": ["yes"],
                "reasoning_free_pred": ["no"],
            },
        }
        for i in range(1, 50)
    ],
    ("HuggingFaceH4/MATH-500", "test"): [
        {
            "problem": f"What is $\\frac{{{i}}}{{2}}$?",
            "solution": "Halve it.",
            "answer": f"\\frac{{{i}}}{{2}}",
            "subject": "Algebra",
            "level": 1,
            "unique_id": f"test/{i}.json",
        }
        for i in range(1, 98, 2)
    ],
}
