"""What the benchmarks share: random pairs of real size, and honest clocks."""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from thinkswitch.weights.device import silence_libraries
from thinkswitch.weights.pair import Pair, open_pair

TINY = Path(__file__).parents[1] / "presets" / "tiny"
# hidden, intermediate, layers, heads, kv heads, head_dim, vocabulary: the proportions of Qwen3's small models
SIZES = {
    "33M": (512, 1536, 8, 8, 4, 64, 16_000),
    "0.3B": (1024, 3072, 20, 16, 8, 64, 50_000),
    "0.5B": (1024, 3072, 24, 16, 8, 128, 151_936),
    "0.6B": (1024, 3072, 28, 16, 8, 128, 151_936),
    "4B": (2560, 9728, 36, 32, 8, 128, 151_936),
}


def arguments(description: str, repeats: int = 3, **more: str | dict) -> argparse.Namespace:
    """The flags of every bench, and `more`: by their help, or by argparse's keywords."""
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


@contextmanager
def random_pair(size: str):
    """A pair of random Qwen3 checkpoints of `size`, bf16 on disk, gone afterwards."""
    hidden, intermediate, layers, heads, kv, head_dim, vocabulary = SIZES[size]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        torch.set_default_dtype(torch.bfloat16)  # 4 B in float32 would be 16 GB
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=vocabulary,
                hidden_size=hidden,
                intermediate_size=intermediate,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=kv,
                head_dim=head_dim,
                tie_word_embeddings=True,
                rope_theta=1e6,
                max_position_embeddings=4096,
                bos_token_id=None,
                eos_token_id=2,
                pad_token_id=0,
            )
        )
        torch.set_default_dtype(torch.float32)
        for role in ("instruct", "thinking"):
            if role == "thinking":
                with torch.no_grad():
                    for p in model.parameters():
                        p.add_(torch.randn_like(p) * 0.1 * (p.float().std().nan_to_num(0) + 0.01))
            model.save_pretrained(Path(folder) / role, max_shard_size="5GB")
            AutoTokenizer.from_pretrained(TINY / role).save_pretrained(Path(folder) / role)
        del model
        yield open_pair(f"{folder}/instruct", f"{folder}/thinking")


def seconds(work, repeats: int) -> float:
    """Median wall time, after one run that does not count."""
    once(work)
    return statistics.median(once(work) for _ in range(repeats))


def once(work) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(works: dict, repeats: int) -> dict[str, list[float]]:
    """Wall times of each, taking turns.

    What else the machine does then falls on all alike. They have run once before.
    """
    rounds = [{name: once(work) for name, work in works.items()} for _ in range(repeats)]
    return {name: [times[name] for times in rounds] for name in works}


def forget_peak() -> None:
    """From here on, `peak_rss` counts anew (Linux only)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss() -> int:
    """Most memory of this process in bytes.

    Rusage tells what its parent had before exec, too, so Linux' own figure comes first.
    """
    with suppress(OSError):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(status["VmHWM"].split()[0])
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def endless(model) -> None:
    """transformers' generate, without a stop token: every call makes the same number of tokens."""
    model.generation_config.eos_token_id = None


def machine(args) -> dict:
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else None
    return dict(
        device=gpu or args.device,
        threads=args.threads,
        cpu=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def report(args, name: str, rows: list[dict]) -> None:
    """A table for people, then one JSON line for programs."""
    for row in rows:
        print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()))
    print(json.dumps(dict(bench=name, **machine(args), results=rows)))


def parameters(pair: Pair) -> str:
    return f"{pair.parameters / 1e6:.1f}M"
