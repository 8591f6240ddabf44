"""What the benchmarks share: their flags, random pairs of real size, clocks and the report."""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from thinkswitch.weights.device import NATIVE_BF16, silence_libraries
from thinkswitch.weights.pair import Pair, open_pair

ROOT = Path(__file__).parents[1]
TINY = ROOT / "presets" / "tiny"


@dataclass(frozen=True)
class Size:
    """The shape of a Qwen3 model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


SIZES = {  # in the proportions of Qwen3's small models
    "33M": Size(512, 1536, 8, 8, 4, 64, 16_000),
    "135M": Size(576, 1536, 30, 9, 3, 64, 49_152),  # SmolLM2's
    "0.3B": Size(1024, 3072, 20, 16, 8, 64, 50_000),
    "0.5B": Size(1024, 3072, 24, 16, 8, 128, 151_936),
    "0.6B": Size(1024, 3072, 28, 16, 8, 128, 151_936),
    "4B": Size(2560, 9728, 36, 32, 8, 128, 151_936),
}


def arguments(description: str, repeats: int = 3, **more: str | dict) -> argparse.Namespace:
    """The flags of every benchmark, and `more`: each by its help text, or by argparse's keywords."""
    flag = argparse.ArgumentParser(description=description)
    flag.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    flag.add_argument("--threads", type=int, default=torch.get_num_threads())
    flag.add_argument("--repeats", type=int, default=repeats)
    flag.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    for name, keywords in more.items():
        if isinstance(keywords, str):
            keywords = {"help": keywords}
        flag.add_argument(f"--{name.replace('_', '-')}", **keywords)
    args = flag.parse_args()
    torch.set_num_threads(args.threads)
    silence_libraries()
    return args


# ---- pairs


@contextmanager
def random_pair(size: str) -> Iterator[Pair]:
    """A pair of random Qwen3 checkpoints of `size`, in bf16 on the disk, removed afterwards."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        instruct = Path(folder) / "instruct"
        thinking = Path(folder) / "thinking"
        model = random_model(SIZES[size])
        save(model, instruct)
        move_weights(model)
        save(model, thinking)
        del model  # its memory is not the benchmark's
        yield open_pair(str(instruct), str(thinking))


def random_model(size: Size) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        tie_word_embeddings=True,
        rope_theta=1e6,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.set_default_dtype(torch.bfloat16)  # in float32 the 4 B model would take 16 GB
    model = Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model


@torch.no_grad()
def move_weights(model: torch.nn.Module) -> None:
    """Move every weight a little, as fine-tuning would."""
    for weight in model.parameters():
        spread = weight.float().std().nan_to_num(0) + 0.01
        weight.add_(torch.randn_like(weight) * 0.1 * spread)


def save(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Save `model` with the tokenizer of the embedded pair's checkpoint of the same name."""
    tokenizer = AutoTokenizer.from_pretrained(TINY / folder.name)
    with torch.no_grad():  # a logit of 0 is never the greatest
        embeddings = model.get_input_embeddings().weight
        embeddings[[tokenizer.eos_token_id, model.config.eos_token_id]] = 0  # no answer ends by itself
        embeddings[len(tokenizer) :] = 0  # and all of it is text, which comes as it is decoded
    model.save_pretrained(folder, max_shard_size="5GB")
    tokenizer.save_pretrained(folder)


def parameters(pair: Pair) -> str:
    return f"{pair.parameters / 1e6:.1f}M"


def endless(model) -> None:
    """Take away the stop token, so that each call of `model.generate` makes the same number of tokens."""
    model.generation_config.eos_token_id = None


# ---- time and memory


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time, after one run that does not count."""
    once(work)
    return statistics.median(once(work) for _ in range(repeats))


def once(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Wall times of each, taking turns, so that what else the machine does falls on all alike.

    The first run counts: let each run once before.
    """
    rounds = [{name: once(work) for name, work in works.items()} for _ in range(repeats)]
    return {name: [times[name] for times in rounds] for name in works}


def forget_peak() -> None:
    """From here on, `peak_rss` counts anew (Linux only)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss() -> int:
    """The most memory that this process had, in bytes.

    Linux' own figure comes first, because rusage includes what the parent had before exec.
    """
    with suppress(OSError):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(status["VmHWM"].split()[0])
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# ---- report


def machine(args: argparse.Namespace) -> dict:
    return {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else args.device,
        "threads": args.threads,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16": [name for name in NATIVE_BF16 if torch.cpu.get_capabilities().get(name)],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def report(args: argparse.Namespace, name: str, rows: list[dict]) -> None:
    """A table for people, then one JSON line for programs."""
    for row in rows:
        print(line(row))
    print_json(args, name, rows)


def line(row: dict) -> str:
    return "  ".join(f"{key}={shown(value)}" for key, value in row.items())


def print_json(args: argparse.Namespace, name: str, rows: list[dict]) -> None:
    print(json.dumps({"bench": name, **machine(args), "results": rows}))


def shown(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
