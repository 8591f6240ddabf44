"""(g) The whole loop at Qwen3-4B's size in 8 GB of a CUDA card, stage by stage.

Speed, and memory next to what `memory_plan` says.

    # on any card of 8 GB or more that nobody else uses; 16 GB of disk, 12 GB of memory
    python bench/card8.py [--think-tokens 16384]
    # 33 M and short: shows that the script runs, and nothing about a card
    python bench/card8.py --device cpu --quick

Random weights never stop, so every length is exact, and what is learnt means nothing. As
presets/qwen3_4b_aime.yaml: NF4, one trace at a time, 15 examples. The plan is made for the lengths that are
run. Measured: what the allocator reserved, plus CUDA's context; on a CPU the process's peak (which the read
checkpoint, mapped, is part of). Last line: JSON.
"""

import gc
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from common import arguments, forget_peak, parameters, peak_rss, random_pair, report

from thinkswitch import memory_plan, rounds
from thinkswitch.distil import Example, train_adapter
from thinkswitch.evaluate import sampling
from thinkswitch.generate import Row, generate
from thinkswitch.preset import Preset
from thinkswitch.weights.adapter import load_adapter
from thinkswitch.weights.device import resolve_device
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise

CAP = 8e9
EXAMPLES, PROMPT = 15, 200  # of an example's tokens, a fifth is prompt


class Bench:
    """The stages' table, and the cap."""

    def __init__(self, args, pair, preset: Preset):
        self.card, self.pair, self.preset, self.rows = args.device == "cuda", pair, preset, []
        if self.card:
            torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")  # context and cuBLAS
            torch.cuda.set_per_process_memory_fraction((CAP - self.context()) / torch.cuda.mem_get_info()[1])

    def context(self) -> int:
        """What is taken on the card, but not by torch's allocator, which the cap is for."""
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()

    def stage(self, name: str, phase: str | None, work, **changed) -> dict:
        """Run `work`, which returns figures of its own.

        `phase` is the plan's, for a preset `changed` to what is run.
        """
        gc.collect()
        forget_peak()
        if self.card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        try:
            found = work()
        except torch.OutOfMemoryError:
            found = dict(out_of_memory=True)
        took = time.perf_counter() - began
        measured = torch.cuda.max_memory_reserved() + self.context() if self.card else peak_rss()
        planned = {
            p.name: p.needs for p in memory_plan.plan_memory(self.pair, replace(self.preset, **changed))
        }.get(phase)
        self.rows.append(
            dict(
                stage=name,
                planned_gb=planned and planned / 1e9,
                measured_gb=measured / 1e9,
                allocated_gb=torch.cuda.max_memory_allocated() / 1e9 if self.card else None,
                fits=measured <= CAP and "out_of_memory" not in found,
                seconds=took,
                **{k: v for k, v in found.items() if k != "round"},
            )
        )
        return found


def random_words(pair, count: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(pair.config.vocab_size), k=count))


def decode(model, pair, role: str, preset: Preset, tokens: int, points=(None,)) -> dict:
    """One row for each of `points`, of exactly `tokens` tokens."""
    prompt = random_words(pair, PROMPT, 0)
    rows = [
        Row(prompt, replace(sampling(preset, role), max_new_tokens=tokens), recipe=point) for point in points
    ]
    began = time.perf_counter()
    made = sum(c.tokens for c in generate(model, pair.instruct.tokenizer, rows, set(), stream=False))
    return dict(tokens=made, tokens_per_s=made / (time.perf_counter() - began))


def run(bench: Bench, short: int, folder: Path) -> None:
    pair, preset, where = bench.pair, bench.preset, resolve_device(bench.preset)
    start = rounds.start(pair)

    def think() -> dict:
        return decode(
            materialise(pair, [], start.thinking, **where), pair, "thinking", preset, preset.think_tokens
        )

    def learn() -> dict:
        words = [random_words(pair, preset.max_length, seed) for seed in range(EXAMPLES)]
        examples = [Example(w[: len(w) // 5], w[len(w) // 5 :]) for w in words]
        steps = list(
            train_adapter(materialise(pair, [], start.instruct, **where), examples, preset, 1, folder)
        )
        return dict(
            steps=len(steps),
            tokens_per_s=statistics.median(s.tokens_per_s for s in steps),
            first_loss=steps[0].loss,
            last_loss=steps[-1].loss,
        )

    def measure(role: str) -> dict:
        return decode(
            materialise(pair, after.adapters, getattr(after, role), **where), pair, role, preset, short
        )

    def compare() -> dict:
        return decode(
            Blend(pair, after.adapters, **where),
            pair,
            "instruct",
            preset,
            short,
            [after.point(t) for t in (0, 0.5, 1)],
        )

    bench.stage("think", "think", think)
    if "out_of_memory" in bench.stage("distil", "distil", learn):
        return  # nothing to rebuild from
    adapter = load_adapter(folder / "adapter")
    after = bench.stage(
        "rebuild",
        None,
        lambda: dict(round=rounds.rebuild(pair, start, adapter, preset.t, preset.anchor, preset.schedule)),
    )["round"]
    for role in ("instruct", "thinking"):
        bench.stage(
            f"measure {role}", "measure", lambda: measure(role), think_tokens=short, instruct_tokens=short
        )
    bench.stage("compare", "compare", compare, think_tokens=short)


def main() -> None:
    args = arguments(__doc__.splitlines()[0], think_tokens=dict(type=int, default=16384))
    if args.device != "cuda" and not args.quick:
        raise SystemExit(
            "this bench needs a CUDA card, and none was found; --device cpu --quick only shows that it runs"
        )
    if args.device == "cuda" and torch.cuda.mem_get_info()[1] < CAP:
        raise SystemExit("this bench caps a card at 8 GB, and this one has less")
    size, think, short, length = (
        ("33M", 128, 32, 128) if args.quick else ("4B", args.think_tokens, 1000, 1000)
    )
    preset = Preset(
        name="card8",
        rows=1,
        think_tokens=think,
        instruct_tokens=think,
        max_length=length,
        epochs=1,
        four_bit=True,
        device=args.device,
    )
    with random_pair(size) as pair, tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, pair, preset)
        run(bench, short, Path(folder))
        report(args, f"card8 {parameters(pair)}", bench.rows)


if __name__ == "__main__":
    main()
