"""(f) A distil step: ours against TRL's SFTTrainer on the same examples with the same settings.

    python bench/distil.py [--trl PATH/python] [--size 0.5B] [--four-bit]
                           [--prompt 100-200] [--answer 100-300] [--steps 4]

Seconds, peak memory, losses. A random checkpoint with Qwen3's 151 936 words. Each side is a process of its
own; --trl names a python that has trl (1.16.0 here) if this one has not. Both: LoRA on all linear layers,
loss on answers only, no packing, float32 on a CPU; on a card bfloat16, NF4 and gradient checkpointing.
`step_s` is the median after the first step. Memory is the peak while training; `before` is what the model and
the libraries take. As it comes, TRL keeps the adapter in bfloat16 on NF4, and on a CPU computes the prompt's
logits, too. On Linux glibc keeps freed memory: MALLOC_MMAP_THRESHOLD_=1000000 in front of the command shows
what is in use, for some time. Last line: JSON.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
import torch
from common import SIZES, arguments, forget_peak, parameters, peak_rss, random_pair, report

from thinkswitch import recipe
from thinkswitch.distil import Example, batches, train_adapter
from thinkswitch.preset import Preset
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair, open_pair

SEED = 1
AGREE_WITHIN = 1e-3  # relative, of the first loss
FLAGS: dict[str, dict] = {
    "size": {"choices": SIZES, "default": "0.5B"},
    "prompt": {"default": "100-200", "help": "tokens of a prompt, from-to"},
    "answer": {"default": "100-300", "help": "tokens of an answer, from-to"},
    "steps": {"type": int, "default": 4},
    "batch": {"type": int, "default": 2},
    "micro": {"type": int, "default": 1},
    "four_bit": {"action": "store_true", "help": "NF4 on a CPU, too"},
    "trl": {"default": sys.executable, "help": "a python that has trl"},
    "side": {"choices": ("ours", "trl"), "help": "(the script calls itself)"},
    "folder": {"help": "(the same)"},
}


def make_examples(args) -> list[Example]:
    rng = random.Random(0)
    words = SIZES[args.size].vocabulary
    return [
        Example(random_words(rng, words, args.prompt), random_words(rng, words, args.answer))
        for _ in range(args.steps * args.batch)
    ]


def random_words(rng: random.Random, words: int, span: str) -> tuple[int, ...]:
    """Token ids, as many as `span` ("from-to") allows."""
    shortest, longest = map(int, span.split("-"))
    return tuple(rng.randrange(words) for _ in range(rng.randint(shortest, longest)))


def settings(args) -> Preset:
    return Preset(epochs=1, batch=args.batch, micro_batch=args.micro, warmup=0)


class Laps:
    """Seconds of each step, on the wall and of this process's processors.

    What else the machine does disturbs the latter less.
    """

    def __init__(self):
        self.wall = time.perf_counter()
        self.cpu = time.process_time()

    def lap(self) -> dict:
        wall = time.perf_counter()
        cpu = time.process_time()
        took = {"seconds": wall - self.wall, "cpu_seconds": cpu - self.cpu}
        self.wall = wall
        self.cpu = cpu
        return took


# ---- one side, in a process of its own


def train_ours(args, model, pair: Pair, folder: Path) -> list[dict]:
    laps = Laps()
    steps = train_adapter(model, make_examples(args), settings(args), SEED, folder)
    return [laps.lap() | {"loss": step.loss} for step in steps]


def train_trl(args, model, pair: Pair, folder: Path) -> list[dict]:
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig

    disable_progress_bars()
    preset = settings(args)
    lora = LoraConfig(
        r=preset.lora_rank,
        lora_alpha=preset.lora_alpha,
        lora_dropout=preset.lora_dropout,
        task_type="CAUSAL_LM",
        target_modules=preset.lora_targets,
    )
    steps: list[dict] = []
    trainer = sft_trainer()(
        model=model,
        args=trl_config(args, preset, folder),
        train_dataset=Dataset.from_list(trl_rows(make_examples(args), preset)),
        processing_class=pair.instruct.tokenizer,
        peft_config=lora,
        callbacks=[clock(steps)],
    )
    trainer.train()
    return steps


def sft_trainer() -> type:
    """TRL's trainer; importing it takes 0.1 GB, and `import trl` alone does not do it."""
    from trl import SFTTrainer

    return SFTTrainer


def trl_rows(examples: list[Example], preset: Preset) -> list[dict]:
    """The examples in the order of our steps."""
    rows = []
    for group in batches(examples, preset, SEED):
        for example in (examples[i] for i in group):
            mask = [0] * len(example.prompt) + [1] * len(example.answer)
            rows.append({"input_ids": example.prompt + example.answer, "completion_mask": mask})
    return rows


def trl_config(args, preset: Preset, folder: Path):
    """Our settings in TRL's words."""
    from trl import SFTConfig

    on_card = args.device != "cpu"
    return SFTConfig(
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
        bf16=on_card,
        use_cpu=not on_card,
        gradient_checkpointing=on_card,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def clock(steps: list[dict]):
    """A callback of transformers' trainer that appends a lap and the loss of every step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.laps = Laps()

        def on_log(self, args, state, control, logs, **_):
            if "loss" in logs:  # after every step; the last line of the log is a summary
                steps.append(self.laps.lap() | {"loss": float(logs["loss"])})

    return Clock()


def run_side(args) -> None:
    """Train, and print a last line for the parent."""
    on_card = args.device != "cpu"
    pair = open_pair(f"{args.folder}/instruct", f"{args.folder}/thinking")
    point = recipe.instruct_point(pair.names, 0)
    dtype = torch.bfloat16 if on_card else torch.float32
    model = materialise(pair, [], point, args.device, dtype, on_card or args.four_bit)
    train = train_ours
    if args.side == "trl":
        train = train_trl
        sft_trainer()  # what its import takes belongs to `before`
    forget_peak()
    before = psutil.Process().memory_info().rss
    if on_card:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with tempfile.TemporaryDirectory() as folder:
        steps = train(args, model, pair, Path(folder))
    peak = torch.cuda.max_memory_allocated() if on_card else peak_rss()
    print(json.dumps({"steps": steps, "before": before, "peak": peak}))


# ---- both sides


def call(args, side: str, folder: Path) -> dict:
    python = args.trl if side == "trl" else sys.executable
    command = [python, __file__, *sys.argv[1:], "--side", side, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the {side} side failed")
    return json.loads(done.stdout.splitlines()[-1])


def available_sides(args) -> list[str]:
    if subprocess.run([args.trl, "-c", "import trl"], capture_output=True).returncode:
        print("trl is not installed here, so its side is left out; name a Python that has it: --trl PATH")
        return ["ours"]
    return ["ours", "trl"]


def run_in_turns(args, sides: list[str], folder: Path) -> dict[str, list[dict]]:
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(args.repeats):
        for side in sides:
            runs[side].append(call(args, side, folder))
    return runs


def summary(runs: list[dict]) -> dict:
    steps = [step for run in runs for step in run["steps"]]
    later = [step for run in runs for step in run["steps"][1:]]
    return {
        "step_s": median(step["seconds"] for step in later),
        "step_cpu_s": median(step["cpu_seconds"] for step in later),
        "steps_s": [round(step["seconds"], 2) for step in steps],
        "losses": [step["loss"] for step in runs[0]["steps"]],
        "before_gb": median(run["before"] for run in runs) / 1e9,
        "peak_gb": median(run["peak"] for run in runs) / 1e9,
    }


def comparison(ours: dict, trl: dict) -> dict:
    losses = zip(ours["losses"], trl["losses"], strict=False)
    apart = [abs(mine - its) / mine for mine, its in losses]
    return {
        "trl_over_ours_time": trl["step_s"] / ours["step_s"],
        "trl_over_ours_cpu": trl["step_cpu_s"] / ours["step_cpu_s"],
        "trl_over_ours_peak": trl["peak_gb"] / ours["peak_gb"],
        "first_loss_agrees": apart[0] < AGREE_WITHIN,
        "first_loss_apart": apart[0],
        "worst_loss_apart": max(apart),
    }


def print_agreement(compared: dict) -> None:
    verdict = "agrees" if compared["first_loss_agrees"] else "DIFFERS"
    print(
        f"first loss {verdict}: {compared['first_loss_apart']:.1e} apart (relative, at most 1e-3), "
        f"of all steps {compared['worst_loss_apart']:.1e} at most"
    )


def run_sides(args) -> None:
    sides = available_sides(args)
    with random_pair(args.size) as pair:
        size = parameters(pair)
        runs = run_in_turns(args, sides, pair.instruct.folder.parent)
    common = {"parameters": size, "four_bit": args.four_bit or args.device != "cpu"}
    rows = [{**common, "side": side, **summary(runs[side])} for side in sides]
    if "trl" in sides:
        rows.append(comparison(*rows))
        print_agreement(rows[-1])
    report(args, "distil", rows)


def main() -> None:
    args = arguments(__doc__.splitlines()[0], repeats=1, **FLAGS)
    if args.quick:
        args.size = "33M"
    if args.batch % args.micro:
        raise SystemExit(f"--batch {args.batch} must be a multiple of --micro {args.micro}")
    if args.side:
        run_side(args)
    else:
        run_sides(args)


if __name__ == "__main__":
    main()
