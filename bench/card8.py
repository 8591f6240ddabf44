"""(g) The whole loop at Qwen3-4B's size in 8 GB of a CUDA card, stage by stage.

    # on any card of 8 GB or more that nobody else uses; 16 GB of disk, 12 GB of memory
    python bench/card8.py [--think-tokens 16384]
    # 33 M and short: shows that the script runs, and nothing about a card
    python bench/card8.py --device cpu --quick

Speed, and memory next to what `memory_plan` says. Random weights never stop, so every length is exact, and
what is learnt means nothing. As presets/qwen3_4b_aime.yaml: NF4, one trace at a time, 15 examples. The plan
is made for the lengths that are run. Measured: what the allocator reserved, plus CUDA's context; on a CPU the
process's peak (which the read checkpoint, mapped, is part of). Last line: JSON.
"""

import gc
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from common import arguments, forget_peak, parameters, peak_rss, random_pair, report

from thinkswitch import rounds
from thinkswitch.distil import Example, train_adapter
from thinkswitch.evaluate import sampling
from thinkswitch.generate import Row, generate
from thinkswitch.memory_plan import plan_memory
from thinkswitch.preset import Preset
from thinkswitch.recipe import Recipe
from thinkswitch.weights.adapter import Adapter, load_adapter
from thinkswitch.weights.device import resolve_device
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair

CAP = 8e9
EXAMPLES = 15
PROMPT = 200  # tokens
SHORT = 1000  # tokens of an answer that is measured or compared, and of an example


class Table:
    """Runs stages under the cap, and keeps a row of figures about each."""

    def __init__(self, on_card: bool, pair: Pair, preset: Preset):
        self.on_card = on_card
        self.pair = pair
        self.preset = preset
        self.rows: list[dict] = []
        if on_card:
            torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")  # loads the context and cuBLAS
            total = torch.cuda.mem_get_info()[1]
            torch.cuda.set_per_process_memory_fraction((CAP - self.context()) / total)

    def context(self) -> int:
        """What is taken on the card, but not by torch's allocator, which the cap is for."""
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()

    def run(self, name: str, phase: str | None, stage: Callable[[], dict], **changed) -> bool:
        """Run a stage, which returns figures of its own. False where memory ran out.

        `phase` is the plan's, for the preset with what the stage has `changed`.
        """
        self.forget_peak()
        began = time.perf_counter()
        try:
            figures = stage()
        except torch.OutOfMemoryError:
            figures = {"out_of_memory": True}
        took = time.perf_counter() - began
        measured = self.peak()
        enough = "out_of_memory" not in figures
        row = {
            "stage": name,
            "planned_gb": self.planned_gb(phase, changed),
            "measured_gb": measured / 1e9,
            "allocated_gb": torch.cuda.max_memory_allocated() / 1e9 if self.on_card else None,
            "fits": enough and measured <= CAP,
            "seconds": took,
        }
        self.rows.append(row | figures)
        return enough

    def forget_peak(self) -> None:
        gc.collect()
        forget_peak()
        if self.on_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        return torch.cuda.max_memory_reserved() + self.context() if self.on_card else peak_rss()

    def planned_gb(self, phase: str | None, changed: dict) -> float | None:
        """None for a stage that the plan does not know."""
        for planned in plan_memory(self.pair, replace(self.preset, **changed)):
            if planned.name == phase:
                return planned.needs / 1e9
        return None


class Loop:
    """The stages; each returns its figures."""

    def __init__(self, pair: Pair, preset: Preset, short: int, folder: Path):
        self.pair = pair
        self.preset = preset
        self.short = short
        self.folder = folder
        self.machine = resolve_device(preset, pair.parameters)
        self.start = rounds.start(pair)
        self.after = self.start  # until `rebuild`

    def think(self) -> dict:
        model = materialise(self.pair, [], self.start.thinking, **self.machine)
        return self.decode(model, "thinking", self.preset.think_tokens)

    def distil(self) -> dict:
        model = materialise(self.pair, [], self.start.instruct, **self.machine)
        steps = list(train_adapter(model, self.examples(), self.preset, 1, self.folder))
        return {
            "steps": len(steps),
            "tokens_per_s": median(step.tokens_per_s for step in steps),
            "first_loss": steps[0].loss,
            "last_loss": steps[-1].loss,
        }

    def rebuild(self, adapter: Adapter) -> dict:
        p = self.preset
        self.after = rounds.rebuild(self.pair, self.start, adapter, p.t, p.anchor, p.schedule)
        return {}

    def measure_instruct(self) -> dict:
        return self.measure("instruct", self.after.instruct)

    def measure_thinking(self) -> dict:
        return self.measure("thinking", self.after.thinking)

    def measure(self, role: str, recipe: Recipe) -> dict:
        model = materialise(self.pair, self.after.adapters, recipe, **self.machine)
        return self.decode(model, role, self.short)

    def compare(self) -> dict:
        blend = Blend(self.pair, self.after.adapters, **self.machine)
        points = [self.after.point(t) for t in (0, 0.5, 1)]
        return self.decode(blend, "instruct", self.short, points)

    def decode(self, model, role: str, tokens: int, points=(None,)) -> dict:
        """One row for each of `points`, of exactly `tokens` tokens."""
        prompt = self.random_words(PROMPT, 0)
        settings = replace(sampling(self.preset, role), max_new_tokens=tokens)
        rows = [Row(prompt, settings, recipe=point) for point in points]
        began = time.perf_counter()
        chunks = generate(model, self.pair.instruct.tokenizer, rows, set(), stream=False)
        made = sum(chunk.tokens for chunk in chunks)
        return {"tokens": made, "tokens_per_s": made / (time.perf_counter() - began)}

    def examples(self) -> list[Example]:
        """A fifth of their tokens is prompt."""
        length = self.preset.max_length
        words = [self.random_words(length, seed) for seed in range(EXAMPLES)]
        return [Example(ids[: length // 5], ids[length // 5 :]) for ids in words]

    def random_words(self, count: int, seed: int) -> tuple[int, ...]:
        return tuple(random.Random(seed).choices(range(self.pair.config.vocab_size), k=count))


def run_stages(table: Table, loop: Loop) -> None:
    table.run("think", "think", loop.think)
    if not table.run("distil", "distil", loop.distil):
        return  # nothing to rebuild from
    adapter = load_adapter(loop.folder / "adapter")
    table.run("rebuild", None, partial(loop.rebuild, adapter))
    short = {"think_tokens": loop.short, "instruct_tokens": loop.short}
    table.run("measure instruct", "measure", loop.measure_instruct, **short)
    table.run("measure thinking", "measure", loop.measure_thinking, **short)
    table.run("compare", "compare", loop.compare, think_tokens=loop.short)


def check_device(args) -> None:
    if args.device != "cuda" and not args.quick:
        raise SystemExit(
            "this bench needs a CUDA card, and none was found; --device cpu --quick only shows that it runs"
        )
    if args.device == "cuda" and torch.cuda.mem_get_info()[1] < CAP:
        raise SystemExit("this bench caps a card at 8 GB, and this one has less")


def make_preset(args) -> Preset:
    think_tokens = 128 if args.quick else args.think_tokens
    return Preset(
        name="card8",
        rows=1,
        think_tokens=think_tokens,
        instruct_tokens=think_tokens,
        max_length=128 if args.quick else SHORT,
        epochs=1,
        four_bit=True,
        device=args.device,
    )


def main() -> None:
    args = arguments(__doc__.splitlines()[0], think_tokens={"type": int, "default": 16384})
    check_device(args)
    preset = make_preset(args)
    size = "33M" if args.quick else "4B"
    short = 32 if args.quick else SHORT
    with random_pair(size) as pair, tempfile.TemporaryDirectory() as folder:
        table = Table(args.device == "cuda", pair, preset)
        run_stages(table, Loop(pair, preset, short, Path(folder)))
        report(args, f"card8 {parameters(pair)}", table.rows)


if __name__ == "__main__":
    main()
