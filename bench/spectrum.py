"""(a) Points of the spectrum as one batch, against one materialised model after the other.

    python bench/spectrum.py [--repeats 3]

Same prompt, greedy, the same number of tokens. The others decode by `model.generate`; that their models are
made beforehand and not counted favours them. Last line: JSON.
"""

import torch
from common import TINY, arguments, dtype_name, endless, parameters, random_pair, report, seconds

from thinkswitch import rounds
from thinkswitch.generate import Row, generate
from thinkswitch.sampler import Sampling
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

PROMPT = "Tom has 7 + 5 - 3 + 8 - 2 coins. Ann has 9 to 12 coins. Does Tom have more?"


def measure(args, pair, points: int, new_tokens: int, dtype=torch.float32) -> dict:
    state = rounds.start(pair)
    ids = tuple(pair.instruct.prompt_ids(PROMPT))
    sampling = Sampling(max_new_tokens=new_tokens)
    ts = [i / (points - 1) for i in range(points)]
    rows = [Row(ids, sampling, recipe=state.point(t)) for t in ts]
    ours = one_batch(args, pair, rows, dtype)
    theirs = sum(materialised(args, pair, row, dtype) for row in rows)
    tokens = points * new_tokens
    return {
        "parameters": parameters(pair),
        "dtype": dtype_name(dtype),
        "points": points,
        "new_tokens": new_tokens,
        "one_batch_tokens_per_s": tokens / ours,
        "sequential_tokens_per_s": tokens / theirs,
        "ratio": theirs / ours,
    }


def one_batch(args, pair, rows: list[Row], dtype) -> float:
    """Seconds for all rows at once on the live blend."""
    blend = Blend(pair, device=args.device, dtype=dtype)

    def work() -> None:
        list(generate(blend, pair.instruct.tokenizer, rows, set(), stream=False))

    return seconds(work, args.repeats)


def materialised(args, pair, row: Row, dtype) -> float:
    """Seconds for one row on a model of its own."""
    model = materialise(pair, [], row.recipe, args.device, dtype)
    endless(model)
    prompt = torch.tensor([row.ids], device=args.device)

    def work() -> None:
        model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=row.sampling.max_new_tokens,
        )

    return seconds(work, args.repeats)


def main() -> None:
    args = arguments(__doc__.splitlines()[0])
    tiny = open_pair(str(TINY / "instruct"), str(TINY / "thinking"))
    rows = [measure(args, tiny, points, 64) for points in (3, 11)]
    new_tokens = 8 if args.quick else 16
    many_points_dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    with random_pair("33M" if args.quick else "0.3B") as big:
        rows.append(measure(args, big, 3, new_tokens, torch.bfloat16))
        rows.append(measure(args, big, 3, new_tokens, torch.float32))
        rows.append(measure(args, big, 11, new_tokens, many_points_dtype))
    report(args, "spectrum", rows)


if __name__ == "__main__":
    main()
