"""float32 against bf16 on a CPU, and two checkpoints against instruct + adapter.

    python bench/precision.py --size 135M --threads 1

Tokens a second: reading a prompt and decoding after it with 1, 4, 16 and 48 rows; LoRA steps; and decoding in
Compare's three columns (t = 0, 0.5, 1 in one batch), there also the weights in memory. All variants of a line
take turns, and the median counts. Random weights: speed does not depend on them. Lines appear as they are
measured, which takes minutes. Last line: JSON.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from common import arguments, dtype_name, in_turns, line, parameters, print_json, random_pair
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from thinkswitch import distil, rounds
from thinkswitch.generate import Row, generate
from thinkswitch.preset import Preset
from thinkswitch.sampler import Sampling
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair, open_pair

PROMPT = "Tom has 7 apples. He buys 5 bags with 6 apples each. How many apples does Tom have now?"
ANSWER = "Tom has 5 * 6 = 30, 7 + 30 = 37 apples. The answer is 37. "
ROWS = (1, 4, 16, 48)
DTYPES = (torch.float32, torch.bfloat16)


def decode_figures(args, pair: Pair) -> Iterator[dict]:
    models = {
        dtype: materialise(pair, [], rounds.start(pair).instruct, args.device, dtype) for dtype in DTYPES
    }
    ids = tuple(pair.instruct.prompt_ids(PROMPT))
    for count in ROWS:
        times = decode_seconds(
            args, models, pair, [Row(ids, Sampling(1.0, top_k=20), seed) for seed in range(count)]
        )
        for part, tokens in (("prompt", len(ids)), ("decode", args.tokens)):
            seconds = {dtype: times[dtype, part] for dtype in DTYPES}
            yield {"what": f"{part}, {count} rows of {tokens}", **speeds(seconds, count * tokens)}


def decode_seconds(args, models: dict, pair: Pair, rows: list[Row]) -> dict:
    """Seconds by (model's key, prompt | decode): a prompt and its first token; the tokens after it."""
    lengths = {"prompt": 1, "both": 1 + args.tokens}
    works = {}
    for key, model in models.items():
        for part, length in lengths.items():
            limited = [replace(r, sampling=replace(r.sampling, max_new_tokens=length)) for r in rows]
            works[key, part] = decoding(model, pair, limited)
    times = medians(args, works)
    for key in models:
        times[key, "decode"] = times.pop((key, "both")) - times[key, "prompt"]
    return times


def decoding(model, pair: Pair, rows: list[Row]) -> Callable[[], object]:
    def work() -> None:
        list(generate(model, pair.instruct.tokenizer, rows, set(), stream=False))

    return work


def training_figures(args, pair: Pair) -> dict:
    preset = Preset(micro_batch=args.answers, lora_rank=16)
    examples = [distil.make_example(pair.instruct, PROMPT, ANSWER * 2)] * args.answers
    works = {}
    for dtype in DTYPES:
        model = materialise(pair, [], rounds.start(pair).instruct, args.device, dtype)
        works[dtype] = training(distil.add_lora(model, preset), model, examples)
    tokens = sum(map(len, examples))
    what = f"LoRA, {args.answers} answers of {len(examples[0])}"
    return {"what": what, **speeds(medians(args, works), tokens)}


def training(wrapped, model, examples: list[distil.Example]) -> Callable[[], object]:
    weights = [weight for weight in wrapped.parameters() if weight.requires_grad]

    def work() -> None:
        distil.accumulate_gradients(model, weights, examples, len(examples))
        for weight in weights:
            weight.grad = None

    return work


def compare_figures(args, pair: Pair, dtype: torch.dtype) -> dict:
    """Tokens a second in each column, and weights in memory, of both kinds of pair."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"two checkpoints": pair, "adapter": adapter_pair(pair, Path(folder))}
        blends = {name: Blend(kind, device=args.device, dtype=dtype) for name, kind in kinds.items()}
        seconds = {}
        for name, kind in kinds.items():
            start = rounds.start(kind)
            ids = tuple(kind.instruct.prompt_ids(PROMPT))
            rows = [Row(ids, Sampling(), recipe=start.point(t)) for t in (0, 0.5, 1)]
            seconds[name] = decode_seconds(args, {name: blends[name]}, kind, rows)[name, "decode"]
    return {
        "what": f"Compare, {dtype_name(dtype)}, a column",
        **{name: args.tokens / time for name, time in seconds.items()},
        "ratio": seconds["two checkpoints"] / seconds["adapter"],
        **{f"{name}, MB": blend.nbytes / 1e6 for name, blend in blends.items()},
    }


def adapter_pair(pair: Pair, folder: Path) -> Pair:
    """Its instruct checkpoint with a random adapter of rank 16 on all linear layers."""
    model = AutoModelForCausalLM.from_pretrained(pair.instruct.folder, dtype=torch.bfloat16)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return open_pair(str(pair.instruct.folder), str(folder))


def speeds(seconds: dict[torch.dtype, float], tokens: int) -> dict:
    table = {dtype_name(dtype): tokens / time for dtype, time in seconds.items()}
    return {**table, "ratio": seconds[torch.float32] / seconds[torch.bfloat16]}


def medians(args, works: dict) -> dict:
    """Seconds of each, after a turn that does not count."""
    in_turns(works, 1)
    return {name: statistics.median(times) for name, times in in_turns(works, args.repeats).items()}


def main() -> None:
    args = arguments(
        __doc__.splitlines()[0],
        size={"default": "135M", "help": "of the random pair"},
        tokens={"type": int, "default": 24, "help": "new tokens of a row"},
        answers={"type": int, "default": 8, "help": "answers of a LoRA step"},
    )
    with random_pair("33M" if args.quick else args.size) as pair:
        rows = []
        for row in figures(args, pair):
            rows.append({"parameters": parameters(pair), **row})
            print(line(rows[-1]), flush=True)
    print_json(args, "precision", rows)


def figures(args, pair: Pair) -> Iterator[dict]:
    yield from decode_figures(args, pair)
    yield training_figures(args, pair)
    for dtype in DTYPES:
        yield compare_figures(args, pair, dtype)


if __name__ == "__main__":
    main()
