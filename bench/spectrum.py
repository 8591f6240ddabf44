"""(a) Points of the spectrum as one batch, against one `model.generate` after the other on materialised
models.

    python bench/spectrum.py [--repeats 3]

Same prompt, greedy, the same number of tokens. The materialised models are made beforehand and not counted,
which favours them. Last line: JSON.
"""

import torch
from common import TINY, arguments, endless, parameters, random_pair, report, seconds

from thinkswitch import rounds
from thinkswitch.generate import Row, Sampling, generate
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

PROMPT = "Tom has 7 + 5 - 3 + 8 - 2 coins. Ann has 9 to 12 coins. Does Tom have more?"


def measure(args, pair, points: int, new_tokens: int, dtype=torch.float32) -> dict:
    state = rounds.start(pair)
    ts = [i / (points - 1) for i in range(points)]
    ids = tuple(pair.instruct.prompt_ids(PROMPT))
    rows = [Row(ids, Sampling(max_new_tokens=new_tokens), recipe=state.point(t)) for t in ts]
    blend = Blend(pair, device=args.device, dtype=dtype)
    ours = seconds(
        lambda: list(generate(blend, pair.instruct.tokenizer, rows, set(), stream=False)), args.repeats
    )
    del blend
    prompt = torch.tensor([ids], device=args.device)
    theirs = 0.0
    for row in rows:
        model = materialise(pair, [], row.recipe, args.device, dtype)
        endless(model)
        theirs += seconds(
            lambda: model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=new_tokens,
            ),
            args.repeats,
        )
        del model
    tokens = points * new_tokens
    return dict(
        parameters=parameters(pair),
        dtype=str(dtype).removeprefix("torch."),
        points=points,
        new_tokens=new_tokens,
        one_batch_tokens_per_s=tokens / ours,
        sequential_tokens_per_s=tokens / theirs,
        ratio=theirs / ours,
    )


def main() -> None:
    args = arguments(__doc__.splitlines()[0])
    tiny = open_pair(str(TINY / "instruct"), str(TINY / "thinking"))
    rows = [measure(args, tiny, points, 64) for points in (3, 11)]
    with random_pair("33M" if args.quick else "0.3B") as big:
        half = torch.bfloat16
        for points, dtype in (
            (3, half),
            (3, torch.float32),
            (11, half if args.device == "cuda" else torch.float32),
        ):
            rows.append(measure(args, big, points, 8 if args.quick else 16, dtype))
    report(args, "spectrum", rows)


if __name__ == "__main__":
    main()
