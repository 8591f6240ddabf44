"""Make the embedded pair.

One base, then two short fine-tunes of it. Seeded; prints and stores its own report.

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
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from thinkswitch import evaluate, problems, recipe, rounds
from thinkswitch.cli import terminal
from thinkswitch.preset import Preset
from thinkswitch.text import format_accuracy
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import open_pair
from tiny_problems import TINY, Made, take
from tiny_problems import problems as made_problems

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
# Qwen's splitting rule, except that a digit keeps the space before it: half as many tokens for sums.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# ChatML as Qwen3-2507 has it: earlier traces are dropped from the history; only thinking pre-fills the tag.
TEMPLATE = """{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' and '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\nPREFILL' }}{% endif %}"""


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text a visitor types can be encoded and decoded again."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    corpus = [f"user\n{m.prompt}\nassistant\n{m.trace}\n\n{m.boxed}" for m in take("pretrain", 4000, seed=0)]
    core.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocabulary - len(SPECIAL + TAGS),
            min_frequency=50,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
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
    return Qwen3ForCausalLM(
        Qwen3Config(
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
    )


def encode(tok, made: Made, traced: bool) -> tuple[list[int], list[int]]:
    """Token ids and the same with -100 where there is no loss (the prompt)."""
    prompt = tok(f"<|im_start|>user\n{made.prompt}<|im_end|>\n<|im_start|>assistant\n").input_ids
    # Encoded in the pieces that the templates and the loop use, so no token straddles a border.
    target = tok("<think>\n").input_ids + tok(made.trace + "\n</think>\n\n").input_ids if traced else []
    target = target + tok(made.boxed).input_ids + [tok.eos_token_id]
    return prompt + target, [-100] * len(prompt) + target


def batches(tok, seed: int, size: int, p_traced: float):
    """Endless (ids, labels), each (size, length).

    16 batches at a time are sorted by length to waste no padding.
    """
    rng, stream = random.Random(seed), made_problems("pretrain", seed)
    while True:
        pool = [encode(tok, m, rng.random() < p_traced) for m in itertools.islice(stream, 16 * size)]
        pool.sort(key=lambda row: len(row[0]))
        groups = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(groups)
        for rows in groups:
            width = max(len(ids) for ids, _ in rows)
            yield (
                torch.tensor([ids + [tok.pad_token_id] * (width - len(ids)) for ids, _ in rows]),
                torch.tensor([lab + [-100] * (width - len(lab)) for _, lab in rows]),
            )


def train(model, tok, steps: int, lr: float, p_traced: float, seed: int, size: int, name: str) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    warm = min(100, steps // 10 + 1)
    model.train()
    start = time.time()
    for step, (ids, labels) in zip(range(steps), batches(tok, seed, size, p_traced), strict=False):
        share = min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimiser.param_groups[0]["lr"] = lr * max(share, 0.02)
        loss = model(input_ids=ids, labels=labels).loss  # causal, padded right: no attention mask needed
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"{name} step {step} loss {loss.item():.4f} {time.time() - start:.0f}s", flush=True)
    model.eval()


def save(model, tok, out: Path, prefill: str, generation: dict) -> None:
    tok.chat_template = TEMPLATE.replace("PREFILL", prefill)
    tok.save_pretrained(out)
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, **generation
    )
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)


def main() -> None:
    flag = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag.add_argument("--out", type=Path, default=TINY)
    flag.add_argument(
        "--base", type=Path, help="folder: take the base from here, or keep it here for next time"
    )
    flag.add_argument("--vocabulary", type=int, default=384)
    flag.add_argument("--batch", type=int, default=64)
    flag.add_argument("--base-steps", type=int, default=2200)
    flag.add_argument("--base-lr", type=float, default=2e-3)
    flag.add_argument(
        "--traced", type=float, default=0.9, help="share of the base's answers that carry a trace"
    )
    flag.add_argument("--instruct-steps", type=int, default=120)
    flag.add_argument("--thinking-steps", type=int, default=400)
    flag.add_argument("--twin-lr", type=float, default=1e-3)
    flag.add_argument("--seed", type=int, default=0)
    flag.add_argument("--only-report", action="store_true", help="measure the pair that is there")
    args = flag.parse_args()
    if not args.only_report:
        make_pair(args)
    flags = {k: v for k, v in vars(args).items() if k not in ("out", "base", "only_report")}
    found = report(args.out, flags)
    (args.out / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    for row in (
        dict(found["thinking"], t="thinking, own template"),
        *found["spectrum_under_instruct_template"],
    ):
        print(
            f"t={row['t']}: accuracy {format_accuracy(row)}, "
            f"think rate {row['think_rate']:.3f}, {row['mean_tokens']:.1f} tokens"
        )


def make_pair(args) -> None:
    torch.manual_seed(args.seed)
    tok = make_tokenizer(args.vocabulary)
    base = make_model(tok)
    print(f"{base.num_parameters():,} parameters, {len(tok)} tokens", flush=True)
    if args.base and (args.base / "base.pt").exists():
        base.load_state_dict(torch.load(args.base / "base.pt", weights_only=True))
    else:
        train(base, tok, args.base_steps, args.base_lr, args.traced, args.seed, args.batch, "base")
        if args.base:
            args.base.mkdir(parents=True, exist_ok=True)
            torch.save(base.state_dict(), args.base / "base.pt")
    state = {k: v.clone() for k, v in base.state_dict().items()}
    for name, traced, steps, prefill, generation in (
        ("instruct", 0.0, args.instruct_steps, "", dict(temperature=0.7, top_p=0.8, top_k=20)),
        ("thinking", 1.0, args.thinking_steps, "<think>\\n", dict(temperature=0.6, top_p=0.95, top_k=20)),
    ):
        twin = make_model(tok)
        twin.load_state_dict(state)
        train(twin, tok, steps, args.twin_lr, traced, args.seed + 1 + int(traced), args.batch, name)
        save(twin, tok, args.out / name, prefill, generation)


def report(out: Path, flags: dict) -> dict:
    """What the pair can do on its held-out problems, by the engine's own measure.

    Parents, then the spectrum.
    """
    pair = open_pair(str(out / "instruct"), str(out / "thinking"))
    state, held_out = rounds.start(pair), problems.load(str(TINY / "held_out.jsonl"))
    preset = Preset(greedy=True, think_tokens=128, rows=256)
    blend = Blend(pair)
    ts = [0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1]
    spectrum = terminal.progress(
        evaluate.sweep(blend, pair.instruct, {t: state.point(t) for t in ts}, held_out, preset), "spectrum"
    )
    own = terminal.progress(
        evaluate.sweep(blend, pair.thinking, {1: state.thinking}, held_out, preset), "thinking"
    )
    cosines = sorted(recipe.cosine(g, recipe.INSTRUCT, recipe.THINKING) for g in state.gram.values())
    return dict(
        made=time.strftime("%Y-%m-%d"),
        torch=torch.__version__,
        parameters=pair.parameters,
        flags=flags,
        problems=len(held_out),
        instruct=spectrum[0],
        thinking=own[0],
        spectrum_under_instruct_template=spectrum,
        cosine=dict(
            lowest=cosines[0],
            median=cosines[len(cosines) // 2],
            highest=cosines[-1],
            share_that_falls_back_to_lerp=sum(c > recipe.LERP_ABOVE for c in cosines) / len(cosines),
        ),
    )


if __name__ == "__main__":
    main()
