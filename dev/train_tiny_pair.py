"""Makes the embedded pair: one base, then two short fine-tunes of it. Seeded; stores and prints a report.

    python dev/train_tiny_pair.py [--out presets/tiny] [--base-steps 2500] ...

The base sees direct and traced answers mixed, so it can do both and prefers neither; the *instruct* twin then
sees direct answers only, the *thinking* twin traces only. Both stay close to the base (cosine above 0.98),
which is what makes a pair compatible. Loss on the assistant's tokens only.
"""

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from thinkswitch import evaluate, problems, recipe, rounds
from thinkswitch.cli import terminal
from thinkswitch.preset import Preset
from thinkswitch.recipe import Gram, Recipe
from thinkswitch.text import format_accuracy
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import open_pair
from tiny_problems import TINY, take
from tiny_problems import problems as made_problems

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
# Qwen's splitting rule, except that a digit keeps the space before it: half as many tokens for sums.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# ChatML as Qwen3-2507 has it: earlier traces are dropped from the history; only thinking pre-fills the tag.
TEMPLATE = (
    "{%- for message in messages %}\n"
    "{%- set content = message.content %}\n"
    "{%- if message.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}"
    "{% endif %}\n"
    "{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\nPREFILL' }}{% endif %}"
)
NO_LOSS = -100  # the label of tokens that transformers leaves out of the loss
SWEEP = (0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1)  # values of t


@dataclass(frozen=True)
class Training:
    """One of the three trainings."""

    name: str
    steps: int
    lr: float
    traced: float  # share of answers that carry a trace
    seed: int
    batch: int


# ---- tokenizer and model


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text a visitor types can be encoded and decoded again."""
    core = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    core.decoder = decoders.ByteLevel()
    corpus = [f"user\n{m.prompt}\nassistant\n{m.trace}\n\n{m.boxed}" for m in take("pretrain", 4000, seed=0)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL + TAGS),
        min_frequency=50,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(corpus, trainer)
    tok = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL[1:2],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tok.add_tokens(TAGS)  # not special, as in Qwen3: they survive skip_special_tokens
    return tok


def make_model(tok) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=len(tok),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_theta=1e6,
        bos_token_id=None,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


# ---- training


def encode(tok, made, traced: bool) -> tuple[list[int], list[int]]:
    """Token ids, and the same as labels: no loss on the prompt.

    Encoded in the pieces that the templates and the loop use, so no token straddles a border.
    """
    prompt = tok(f"<|im_start|>user\n{made.prompt}<|im_end|>\n<|im_start|>assistant\n").input_ids
    target = []
    if traced:
        target += tok("<think>\n").input_ids
        target += tok(made.trace + "\n</think>\n\n").input_ids
    target += tok(made.said(traced)).input_ids
    target.append(tok.eos_token_id)
    return prompt + target, [NO_LOSS] * len(prompt) + target


def batches(tok, training: Training, stream: Iterator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (ids, labels), each (batch, length), of the problems of `stream`.

    16 batches at a time are sorted by length to waste no padding.
    """
    rng = random.Random(training.seed)
    size = training.batch
    while True:
        made = itertools.islice(stream, 16 * size)
        pool = [encode(tok, problem, rng.random() < training.traced) for problem in made]
        pool.sort(key=lambda row: len(row[0]))
        groups = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(groups)
        for rows in groups:
            ids, labels = zip(*rows, strict=True)
            yield pad(ids, tok.pad_token_id), pad(labels, NO_LOSS)


def pad(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up, cosine decay, and never less than a fiftieth."""
    warm = min(100, training.steps // 10 + 1)
    decay = 0.5 + 0.5 * math.cos(math.pi * step / training.steps)
    return training.lr * max(min(1.0, (step + 1) / warm) * decay, 0.02)


def train(model, tok, training: Training, stream: Iterator, rate=learning_rate) -> None:
    """On the problems of `stream`; `rate` gives the learning rate of a step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.lr, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    start = time.time()
    steps = itertools.islice(batches(tok, training, stream), training.steps)
    for step, (ids, labels) in enumerate(steps):
        optimiser.param_groups[0]["lr"] = rate(step, training)
        loss = model(input_ids=ids, labels=labels).loss  # causal, padded right: no attention mask needed
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if step % 50 == 0 or step == training.steps - 1:
            took = time.time() - start
            print(f"{training.name} step {step} loss {loss.item():.4f} {took:.0f}s", flush=True)
    model.eval()


def save(model, tok, out: Path, prefill: str, generation: dict) -> None:
    tok.chat_template = TEMPLATE.replace("PREFILL", prefill)
    tok.save_pretrained(out)
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, **generation
    )
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # safetensors lets only the owner read


def make_pair(args) -> None:
    torch.manual_seed(args.seed)
    tok = make_tokenizer(args.vocabulary)
    base = make_model(tok)
    print(f"{base.num_parameters():,} parameters, {len(tok)} tokens", flush=True)
    train_base(args, base, tok)
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    seed = args.seed
    instruct = Training("instruct", args.instruct_steps, args.twin_lr, 0.0, seed + 1, args.batch)
    thinking = Training("thinking", args.thinking_steps, args.twin_lr, 1.0, seed + 2, args.batch)
    twin = make_twin(tok, state, instruct)
    save(twin, tok, args.out / "instruct", "", {"temperature": 0.7, "top_p": 0.8, "top_k": 20})
    twin = make_twin(tok, state, thinking)
    save(twin, tok, args.out / "thinking", "<think>\\n", {"temperature": 0.6, "top_p": 0.95, "top_k": 20})


def train_base(args, base, tok) -> None:
    """Train the base, or load the one that an earlier call kept in `args.base`."""
    if args.base and (args.base / "base.pt").exists():
        base.load_state_dict(torch.load(args.base / "base.pt", weights_only=True))
        return
    training = Training("base", args.base_steps, args.base_lr, args.traced, args.seed, args.batch)
    train(base, tok, training, made_problems("pretrain", training.seed))
    if args.base:
        args.base.mkdir(parents=True, exist_ok=True)
        torch.save(base.state_dict(), args.base / "base.pt")


def make_twin(tok, state: dict[str, torch.Tensor], training: Training) -> Qwen3ForCausalLM:
    """A fine-tune of the base, whose weights `state` holds."""
    twin = make_model(tok)
    twin.load_state_dict(state)
    train(twin, tok, training, made_problems("pretrain", training.seed))
    return twin


# ---- report


def report(out: Path, flags: dict) -> dict:
    """What the pair can do on its held-out problems, by the engine's own measure."""
    pair = open_pair(str(out / "instruct"), str(out / "thinking"))
    start = rounds.start(pair)
    held_out = problems.load(str(TINY / "held_out.jsonl"))
    preset = Preset(greedy=True, think_tokens=128, rows=256)
    blend = Blend(pair)

    def measure(name: str, checkpoint: Checkpoint, points: dict[float, Recipe]) -> list[dict]:
        return terminal.progress(evaluate.sweep(blend, checkpoint, points, held_out, preset), name)

    spectrum = measure("spectrum", pair.instruct, {t: start.point(t) for t in SWEEP})
    own_template = measure("thinking", pair.thinking, {1: start.thinking})
    return {
        "made": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "parameters": pair.parameters,
        "flags": flags,
        "problems": len(held_out),
        "instruct": spectrum[0],
        "thinking": own_template[0],
        "spectrum_under_instruct_template": spectrum,
        "cosine": cosine_figures(start.gram),
    }


def cosine_figures(gram: Gram) -> dict[str, float]:
    """Of the cosines between the two twins, one for each tensor."""
    cosines = sorted(recipe.cosine(products, recipe.INSTRUCT, recipe.THINKING) for products in gram.values())
    return {
        "lowest": cosines[0],
        "median": cosines[len(cosines) // 2],
        "highest": cosines[-1],
        "share_that_falls_back_to_lerp": sum(c > recipe.LERP_ABOVE for c in cosines) / len(cosines),
    }


def print_report(found: dict) -> None:
    thinking = {**found["thinking"], "t": "thinking, own template"}
    for row in (thinking, *found["spectrum_under_instruct_template"]):
        print(
            f"t={row['t']}: accuracy {format_accuracy(row)}, "
            f"think rate {row['think_rate']:.3f}, {row['mean_tokens']:.1f} tokens"
        )


def main() -> None:
    flag = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag.add_argument("--out", type=Path, default=TINY)
    base_help = "folder: take the base from here, or keep it here for next time"
    flag.add_argument("--base", type=Path, help=base_help)
    flag.add_argument("--vocabulary", type=int, default=384)
    flag.add_argument("--batch", type=int, default=64)
    flag.add_argument("--base-steps", type=int, default=2200)
    flag.add_argument("--base-lr", type=float, default=2e-3)
    traced_help = "share of the base's answers that carry a trace"
    flag.add_argument("--traced", type=float, default=0.9, help=traced_help)
    flag.add_argument("--instruct-steps", type=int, default=120)
    flag.add_argument("--thinking-steps", type=int, default=400)
    flag.add_argument("--twin-lr", type=float, default=1e-3)
    flag.add_argument("--seed", type=int, default=0)
    flag.add_argument("--only-report", action="store_true", help="measure the pair that is there")
    args = flag.parse_args()
    if not args.only_report:
        make_pair(args)
    made_with = {k: v for k, v in vars(args).items() if k not in ("out", "base", "only_report")}
    found = report(args.out, made_with)
    (args.out / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    print_report(found)


if __name__ == "__main__":
    main()
