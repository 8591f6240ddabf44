"""(f) A distil step: ours against TRL's SFTTrainer on the same examples with the same settings.

Seconds, peak memory, losses.

    python bench/distil.py [--trl PATH/python] [--size 0.5B] [--four-bit]
                           [--prompt 100-200] [--answer 100-300] [--steps 4]

A random checkpoint with Qwen3's 151 936 words. Each side is a process of its own; --trl names a python that
has trl (1.16.0 here) if this one has not. Both: LoRA on all linear layers, loss on answers only, no packing,
float32 on a CPU; on a card bfloat16, NF4 and gradient checkpointing. `step_s` is the median after the first
step. Memory is the peak while training; `before` is what the model and the libraries take. As it comes, TRL
keeps the adapter in bfloat16 on NF4, and on a CPU computes the prompt's logits, too. On Linux glibc keeps
freed memory: MALLOC_MMAP_THRESHOLD_=1000000 in front of the command shows what is in use, for some time. Last
line: JSON.
"""

import importlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from common import SIZES, arguments, forget_peak, parameters, peak_rss, random_pair, report

from thinkswitch import recipe
from thinkswitch.distil import Example, batches, train_adapter
from thinkswitch.preset import Preset
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

SEED = 1
FLAGS = dict(
    size=dict(choices=SIZES, default="0.5B"),
    prompt=dict(default="100-200", help="tokens of a prompt, from-to"),
    answer=dict(default="100-300", help="tokens of an answer, from-to"),
    steps=dict(type=int, default=4),
    batch=dict(type=int, default=2),
    micro=dict(type=int, default=1),
    four_bit=dict(action="store_true", help="NF4 on a CPU, too"),
    trl=dict(default=sys.executable, help="a python that has trl"),
    side=dict(choices=("ours", "trl"), help="(the script calls itself)"),
    folder=dict(help="(the same)"),
)


def examples(args) -> list[Example]:
    rng, words = random.Random(0), SIZES[args.size][-1]
    lengths = [tuple(map(int, span.split("-"))) for span in (args.prompt, args.answer)]
    return [
        Example(*(tuple(rng.randrange(words) for _ in range(rng.randint(*span))) for span in lengths))
        for _ in range(args.steps * args.batch)
    ]


def settings(args) -> Preset:
    return Preset(epochs=1, batch=args.batch, micro_batch=args.micro, warmup=0)


class Laps:
    """Seconds of each step.

    On the wall, and of this process's processors, which others on the machine disturb less.
    """

    def __init__(self):
        self.at = time.perf_counter(), time.process_time()

    def lap(self) -> dict:
        before, self.at = self.at, (time.perf_counter(), time.process_time())
        return dict(
            zip(
                ("seconds", "cpu_seconds"),
                (now - then for now, then in zip(self.at, before, strict=False)),
                strict=False,
            )
        )


def ours(args, model, pair, folder: Path) -> list[dict]:
    laps = Laps()
    return [
        dict(laps.lap(), loss=step.loss)
        for step in train_adapter(model, examples(args), settings(args), SEED, folder)
    ]


def trl(args, model, pair, folder: Path) -> list[dict]:
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    preset, data = settings(args), examples(args)
    order = [data[i] for group in batches(data, preset, SEED) for i in group]
    rows = [
        dict(input_ids=e.prompt + e.answer, completion_mask=[0] * len(e.prompt) + [1] * len(e.answer))
        for e in order
    ]
    card = args.device != "cpu"
    config = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=args.micro,
        gradient_accumulation_steps=args.batch // args.micro,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        completion_only_loss=True,
        max_length=None,
        packing=False,
        learning_rate=preset.learning_rate,
        lr_scheduler_type=preset.decay,
        warmup_steps=0,
        weight_decay=preset.weight_decay,
        max_grad_norm=preset.max_grad_norm,
        optim="adamw_torch",
        seed=SEED,
        bf16=card,
        use_cpu=not card,
        gradient_checkpointing=card,
        gradient_checkpointing_kwargs=dict(use_reentrant=False),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=preset.lora_rank,
        lora_alpha=preset.lora_alpha,
        lora_dropout=preset.lora_dropout,
        task_type="CAUSAL_LM",
        target_modules=preset.lora_targets,
    )
    steps = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.laps = Laps()

        def on_log(self, args, state, control, logs, **_):
            if "loss" in logs:  # after every step; the last line of the log is a summary
                steps.append(dict(self.laps.lap(), loss=float(logs["loss"])))

    SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=pair.instruct.tokenizer,
        peft_config=lora,
        callbacks=[Clock()],
    ).train()
    return steps


def child(args) -> None:
    """One side, in a process of its own. Its last line is for the parent."""
    pair, card = open_pair(f"{args.folder}/instruct", f"{args.folder}/thinking"), args.device != "cpu"
    four_bit, dtype = card or args.four_bit, torch.bfloat16 if card else torch.float32
    model = materialise(pair, [], recipe.instruct_point(pair.names, 0), args.device, dtype, four_bit)
    if args.side == "trl":
        getattr(importlib.import_module("trl"), "SFTTrainer")  # noqa: B009, lazily imported: 0.1 GB of imports belongs to "before"
    forget_peak()
    before = psutil.Process().memory_info().rss
    if card:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with tempfile.TemporaryDirectory() as folder:
        steps = dict(ours=ours, trl=trl)[args.side](args, model, pair, Path(folder))
    print(
        json.dumps(
            dict(steps=steps, before=before, peak=torch.cuda.max_memory_allocated() if card else peak_rss())
        )
    )


def call(args, side: str, folder: Path) -> dict:
    python = args.trl if side == "trl" else sys.executable
    done = subprocess.run(
        [python, __file__, *sys.argv[1:], "--side", side, "--folder", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"the {side} side failed")
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, runs: list[dict]) -> dict:
    def later(key: str) -> float:
        return statistics.median(s[key] for run in runs for s in run["steps"][1:])

    return dict(
        side=name,
        step_s=later("seconds"),
        step_cpu_s=later("cpu_seconds"),
        steps_s=[round(s["seconds"], 2) for run in runs for s in run["steps"]],
        losses=[s["loss"] for s in runs[0]["steps"]],
        before_gb=statistics.median(run["before"] for run in runs) / 1e9,
        peak_gb=statistics.median(run["peak"] for run in runs) / 1e9,
    )


def main() -> None:
    args = arguments(__doc__.splitlines()[0], repeats=1, **FLAGS)
    if args.quick:
        args.size = "33M"
    if args.batch % args.micro:
        raise SystemExit(f"--batch {args.batch} must be a multiple of --micro {args.micro}")
    if args.side:
        return child(args)
    sides = ["ours", "trl"]
    if subprocess.run([args.trl, "-c", "import trl"], capture_output=True).returncode:
        print("trl is not installed here, so its side is left out; name a Python that has it: --trl PATH")
        sides.remove("trl")
    runs = {side: [] for side in sides}
    with random_pair(args.size) as pair:
        size = parameters(pair)
        for _ in range(args.repeats):  # taking turns
            for side in sides:
                runs[side].append(call(args, side, pair.instruct.folder.parent))
    rows = [
        dict(parameters=size, four_bit=args.four_bit or args.device != "cpu", **row(side, runs[side]))
        for side in sides
    ]
    if len(rows) == 2:
        a, b = rows
        apart = [abs(x - y) / x for x, y in zip(a["losses"], b["losses"], strict=False)]
        agrees = apart[0] < 1e-3
        print(
            f"first loss {'agrees' if agrees else 'DIFFERS'}: {apart[0]:.1e} apart (relative, at most 1e-3), "
            f"of all steps {max(apart):.1e} at most"
        )
        rows.append(
            dict(
                trl_over_ours_time=b["step_s"] / a["step_s"],
                trl_over_ours_cpu=b["step_cpu_s"] / a["step_cpu_s"],
                trl_over_ours_peak=b["peak_gb"] / a["peak_gb"],
                first_loss_agrees=agrees,
                first_loss_apart=apart[0],
                worst_loss_apart=max(apart),
            )
        )
    report(args, "distil", rows)
    return None


if __name__ == "__main__":
    main()
