"""(c) From moving the slider to the first new token.

    python bench/slider.py [--repeats 3] [--mergekit PATH/mergekit-yaml]

A random pair of 0.3 B, the same prompt and point for all: the live blend, a model materialised in memory, a
merged folder. The blend is loaded once, before; the others must make new weights for every t, which is what
moving the slider means for them. The folder is written from the materialised model and, with --mergekit, by
mergekit's command (0.1.5, in a venv of its own), as one would do today. Last line: JSON.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import torch
from common import arguments, dtype_name, parameters, random_pair, report, seconds
from transformers import AutoModelForCausalLM

from thinkswitch import rounds
from thinkswitch.generate import Row, generate
from thinkswitch.sampler import Sampling
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise

PROMPT = "Tom has 7 + 5 - 3 + 8 - 2 coins. Ann has 9 to 12 coins. Does Tom have more?"
T = 0.55


class Ways:
    """Ways to the first token at T; each returns its text, and finding the point is part of it."""

    def __init__(self, args, pair, dtype: torch.dtype, folder: Path):
        self.args = args
        self.pair = pair
        self.dtype = dtype
        self.folder = folder
        self.start = rounds.start(pair)
        self.ids = tuple(pair.instruct.prompt_ids(PROMPT))
        self.blend = Blend(pair, device=args.device, dtype=dtype)

    def first_token(self, model, point=None) -> str:
        row = Row(self.ids, Sampling(max_new_tokens=1), recipe=point)
        chunks = generate(model, self.pair.instruct.tokenizer, [row], set())
        return next(chunk.text for chunk in chunks if chunk.finish)

    def first_token_of_folder(self, folder: Path) -> str:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype)
        return self.first_token(model.to(self.args.device))

    def live(self) -> str:
        return self.first_token(self.blend, self.start.point(T))

    def in_memory(self) -> str:
        point = self.start.point(T)
        return self.first_token(materialise(self.pair, [], point, self.args.device, self.dtype))

    def by_folder(self) -> str:
        merged = materialise(self.pair, [], self.start.point(T), "cpu", torch.bfloat16)
        merged.save_pretrained(self.folder)
        del merged  # makes room for the model that is loaded
        return self.first_token_of_folder(self.folder)

    def by_mergekit(self) -> str:
        config = self.folder / "slerp.yml"
        config.write_text(mergekit_config(self.pair))
        merged = self.folder / "merged"
        subprocess.run([self.args.mergekit, config, merged, "--quiet"], check=True, capture_output=True)
        return self.first_token_of_folder(merged)


def mergekit_config(pair) -> str:
    """The same point for mergekit, as JSON, which is YAML, too."""
    instruct = str(pair.instruct.folder)
    thinking = str(pair.thinking.folder)
    layers = [0, pair.config.num_hidden_layers]
    sources = [{"model": side, "layer_range": layers} for side in (instruct, thinking)]
    config = {
        "slices": [{"sources": sources}],
        "merge_method": "slerp",
        "base_model": instruct,
        "parameters": {"t": T},
        "dtype": "bfloat16",
    }
    return json.dumps(config)


def measure(args, pair, dtype: torch.dtype, folder: Path) -> dict:
    ways = Ways(args, pair, dtype, folder)
    works = {"live": ways.live, "in_memory": ways.in_memory, "by_folder": ways.by_folder}
    if args.mergekit:
        works["by_mergekit"] = ways.by_mergekit
    times = {name: seconds(work, args.repeats) for name, work in works.items()}
    others = [name for name in times if name != "live"]
    return {
        "parameters": parameters(pair),
        "dtype": dtype_name(dtype),
        "prompt_tokens": len(ways.ids),
        **{f"{name}_s": times[name] for name in times},
        **{f"ratio_{name}": times[name] / times["live"] for name in others},
    }


def main() -> None:
    args = arguments(__doc__.splitlines()[0], mergekit="path of mergekit-yaml, to time it as well")
    dtypes = [torch.bfloat16] if args.device == "cuda" else [torch.float32, torch.bfloat16]
    size = "33M" if args.quick else "0.3B"
    with random_pair(size) as pair, tempfile.TemporaryDirectory() as folder:
        report(args, "slider", [measure(args, pair, dtype, Path(folder)) for dtype in dtypes])


if __name__ == "__main__":
    main()
