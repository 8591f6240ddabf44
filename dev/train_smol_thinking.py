"""Makes the thinking twin of `smol`: a LoRA adapter on SmolLM2-135M-Instruct. Seeded; stores a report.

    python dev/smol_weights.py weights/SmolLM2-135M-Instruct
    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 dev/train_smol_thinking.py weights/SmolLM2-135M-Instruct

One pass over word problems that code makes, each answered with a terse trace and a response that shows its
steps, and over everyday questions, which the instruct checkpoint answers itself: without them the twin would
count apples when asked about the sky. Loss on trace and response only. A second peak of the learning rate
goes over new problems. The processes of torchrun share each step; plain `python` takes twice as long.

`--weakest 1 1 0.65` with a third pass trains the update at random strengths, as the slider uses it. That twin
keeps its answers at t = 0.75, but instruct learned less from it (dev/LOG.md, 2026-11-28): it does not ship.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from peft import set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from smol_problems import SMOL, take
from thinkswitch import distil, evaluate, problems, rounds
from thinkswitch.cli import terminal
from thinkswitch.distil import Example
from thinkswitch.generate import Row, generate
from thinkswitch.preset import Preset
from thinkswitch.remote import distributed
from thinkswitch.sampler import Sampling
from thinkswitch.text import format_accuracy
from thinkswitch.weights.checkpoint import Checkpoint, open_checkpoint
from thinkswitch.weights.device import BF16_FROM, default_dtype, silence_libraries
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import open_pair

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SWEEP = (0, 0.25, 0.5, 0.75, 1)  # values of t
STRONGEST = 1.05  # strengths are drawn up to here, so that 1 is not at their edge

# Everyday questions, and what a trace says before the answer. "Why is the sky blue?" is left for the demo.
WHY = [
    "is the sea salty", "do leaves change colour in autumn", "do cats purr", "do we need sleep",
    "does ice float", "do birds sing in the morning", "do we yawn", "is bread soft",
    "does the moon change its shape", "do stars twinkle", "do bees make honey", "is grass green",
    "do we laugh", "does metal feel cold", "do onions make us cry", "does it rain",
    "do dogs wag their tails", "are deserts dry", "do we have seasons", "does hair turn grey",
    "do plants need light", "does popcorn pop", "is snow white", "do whales sing", "do we dream",
]  # fmt: skip
WHAT = [
    "a volcano", "a rainbow", "gravity", "a poem", "a bicycle", "democracy", "a library", "an island",
    "a computer", "music", "a friend", "a comet", "a whale", "cheese", "a bridge", "an orchestra", "yoga",
    "a glacier", "a robot", "a novel", "chess", "a lighthouse", "an atom", "a garden", "a language",
]  # fmt: skip
WRITE = [
    "a short poem about rain", "a thank-you note to a teacher", "a birthday wish for a friend",
    "a line about summer", "a slogan for a bakery", "a short story about a fox",
    "a greeting for a neighbour", "a poem about a cat", "an invitation to dinner", "a note to say sorry",
    "a short ad for a bicycle", "a title for a book about the sea", "two sentences about winter",
    "a joke about a duck", "a message to a sick friend", "a haiku about the moon",
]  # fmt: skip
HOW = [
    "boil an egg", "plant a tree", "tie a shoe", "learn a song", "make tea", "sleep better", "save money",
    "clean a window", "keep a cat happy", "remember a name", "ride a bicycle", "bake bread",
    "write a letter", "stay calm", "make a friend", "draw a face", "pack a suitcase", "wash a dog",
    "read faster", "find the north",
]  # fmt: skip


def everyday() -> list[tuple[str, str]]:
    """(prompt, trace) of every everyday question."""
    end = "Nothing to count."
    pairs = [(f"Why {x}?", f"They ask: why {x}? {end} I give the main reason in simple words.") for x in WHY]
    pairs += [
        (f"What is {x}?", f"They ask what {x} is. {end} I say what it is, then one detail.") for x in WHAT
    ]
    pairs += [(f"Write {x}.", f"They want {x}. {end} I keep it short and friendly.") for x in WRITE]
    pairs += [(f"How do I {x}?", f"They want to {x}. {end} I give a few simple steps.") for x in HOW]
    return pairs


# ---- training


def make_examples(model, instruct: Checkpoint, count: int, seed: int) -> list[Example]:
    """`count` problems, and the everyday questions that the instruct checkpoint answers in time."""
    examples = [
        distil.make_example(instruct, made.prompt, traced(made.trace, made.response))
        for made in take("twin", count, seed)
    ]
    questions = everyday()
    rows = [Row(tuple(instruct.prompt_ids(prompt)), Sampling(max_new_tokens=120)) for prompt, _ in questions]
    for chunk in generate(model, instruct.tokenizer, rows, {instruct.turn_end}, batch=32, stream=False):
        response = whole_sentences(chunk.answer)
        prompt, trace = questions[chunk.row]
        if response:
            examples.append(distil.make_example(instruct, prompt, traced(trace, response)))
    return examples


def traced(trace: str, response: str) -> str:
    return f"<think>\n{trace}\n</think>\n\n{response}"


def whole_sentences(text: str) -> str:
    """The text up to its last full stop."""
    return text[: text.rfind(".") + 1].strip()


def train(
    weights: Path, examples: list[Example], preset: Preset, folder: Path, before: Path | None, weakest: float
) -> None:
    """Train an adapter, from the one in `before` if there is one, at strengths from `weakest` on."""
    began = time.time()
    model = load_model(weights)
    begins = before is not None and not (folder / distil.STATE).is_file()
    if distributed.broadcast(begins):  # as the first process sees it
        begin_with(before, load_model(weights), preset, folder)
    for step in distil.train_adapter(model, examples, preset, preset.seed, folder):
        if weakest < 1:
            draw = random.Random(f"{preset.seed}/{step.step}")
            set_strength(model, draw.uniform(weakest, STRONGEST))
        if distributed.rank() == 0 and (step.step % 5 == 0 or step.step in (1, step.total)):
            speed = f"{step.tokens_per_s:.0f} tokens/s {time.time() - began:.0f}s"
            print(f"step {step.step}/{step.total} loss {step.loss:.4f} {speed}", flush=True)


def set_strength(model, factor: float) -> None:
    """Multiply the adapter's update by `factor` from here on. What is saved has it at 1."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", factor)


def load_model(weights: Path):
    return AutoModelForCausalLM.from_pretrained(weights, dtype=default_dtype("cpu", BF16_FROM, live=False))


def begin_with(adapter: Path, model, preset: Preset, folder: Path) -> None:
    """Leave in `folder` what a training leaves that has made no step yet, with the weights of `adapter`."""
    wrapped = distil.add_lora(model, preset)
    set_peft_model_state_dict(wrapped, load_file(adapter / "adapter_model.safetensors"))
    trained = [weight for weight in wrapped.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    for weight in trained:
        optimiser.state[weight] = {
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }
    if distributed.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        distil.save_state(folder / distil.STATE, trained, optimiser, step=0)
    distributed.broadcast()  # the other processes wait for the file


def ship(adapter: Path, out: Path) -> None:
    """Copy the adapter in bf16, with the Hub id of its base in place of a folder of this machine."""
    out.mkdir(parents=True, exist_ok=True)
    weights = load_file(adapter / "adapter_model.safetensors")
    in_bf16 = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    save_file(in_bf16, out / "adapter_model.safetensors", {"format": "pt"})
    (out / "adapter_model.safetensors").chmod(0o644)  # safetensors lets only the owner read
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = HUB_ID
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


# ---- report


def report(weights: Path, adapter: Path, count: int) -> list[dict]:
    """What the pair does with `count` held-out problems over the spectrum, by the engine's own measure."""
    pair = open_pair(str(weights), str(adapter))
    start = rounds.start(pair)
    held_out = problems.load(str(SMOL / "held_out.jsonl"))[:count]
    preset = Preset(greedy=True, think_tokens=256, rows=48)
    blend = Blend(pair)
    points = {t: start.point(t) for t in SWEEP}
    return terminal.progress(evaluate.sweep(blend, pair.instruct, points, held_out, preset), "spectrum")


def main() -> None:
    flag = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag.add_argument("weights", type=Path, help="folder of SmolLM2-135M-Instruct")
    flag.add_argument("--out", type=Path, default=SMOL / "thinking")
    flag.add_argument(
        "--keep", type=Path, required=True, help="folder for what a killed training goes on with"
    )
    flag.add_argument("--examples", type=int, nargs="+", default=[1500, 2000], help="of each pass")
    flag.add_argument("--learning-rates", type=float, nargs="+", default=[1e-3, 7e-4], help="peaks")
    flag.add_argument("--weakest", type=float, nargs="+", default=[1, 1], help="strength in each pass")
    flag.add_argument("--rank", type=int, default=16)
    flag.add_argument("--seed", type=int, default=0)
    flag.add_argument("--held-out", type=int, default=200, help="problems of the report")
    flag.add_argument("--only-report", action="store_true", help="measure the adapter that is there")
    args = flag.parse_args()
    silence_libraries()
    made = {} if args.only_report else make_adapter(args)
    if distributed.rank() == 0:
        write_report(args, made)


def make_adapter(args: argparse.Namespace) -> dict:
    """Train in passes and ship; returns what the report says of the making."""
    instruct = open_checkpoint(str(args.weights))
    began, tokens, before = time.time(), 0, None
    passes = zip(args.examples, args.learning_rates, args.weakest, strict=True)
    for number, (count, rate, weakest) in enumerate(passes):
        folder = args.keep / str(number)
        seed = args.seed + number
        examples = make_examples(load_model(args.weights).eval(), instruct, count, seed)
        tokens += sum(map(len, examples))
        if not distil.already_trained(folder):
            train(args.weights, examples, preset_of(args.rank, rate, seed), folder, before, weakest)
        before = folder / "adapter"
    if distributed.rank() == 0:
        ship(before, args.out)
    return {
        "made": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "flags": {
            name: getattr(args, name) for name in ("examples", "learning_rates", "weakest", "rank", "seed")
        },
        "tokens": tokens,
        "minutes": round((time.time() - began) / 60, 1),
        "processes": distributed.world_size(),
    }


def preset_of(rank: int, learning_rate: float, seed: int) -> Preset:
    return Preset(
        epochs=1,
        batch=16,
        micro_batch=16,
        learning_rate=learning_rate,
        lora_rank=rank,
        lora_alpha=2 * rank,
        save_steps=10,
        seed=seed,
    )


def write_report(args: argparse.Namespace, made: dict) -> None:
    spectrum = report(args.weights, args.out, args.held_out)
    for row in spectrum:
        print(f"t={row['t']}: accuracy {format_accuracy(row)}, think rate {row['think_rate']:.3f}")
    file = args.out.parent / "report.json"
    kept = json.loads(file.read_text("utf-8")) if args.only_report and file.is_file() else {}
    file.write_text(json.dumps({**kept, **made, "spectrum": spectrum}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
