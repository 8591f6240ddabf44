"""(b) Labels of very uneven length: the compacting loop against `model.generate` on the same batch.

    python bench/labels.py [--repeats 3]

32 prompts on a random 33 M model; answers end after 10 to 600 tokens, log-normal around 60, as traces do. Both sides
make the same tokens; only useful ones count. Last line: JSON.
"""

import math
import random

import torch
from common import arguments, endless, parameters, random_pair, report, seconds
from transformers import StoppingCriteria, StoppingCriteriaList

from thinkswitch import recipe
from thinkswitch.generate import Row, Sampling, generate
from thinkswitch.materialise import materialise


class PerRow(StoppingCriteria):
    """Row i is finished after limits[i] tokens."""

    def __init__(self, limits, prompt: int):
        self.limits, self.prompt = torch.tensor(limits), prompt

    def __call__(self, ids, scores, **_):
        return (ids.shape[1] - self.prompt >= self.limits).to(ids.device)


def main() -> None:
    args = arguments(__doc__.splitlines()[0])
    rng, long = random.Random(0), 80 if args.quick else 600
    limits = [min(long, max(10, round(rng.lognormvariate(math.log(60), 1)))) for _ in range(32)]
    long = max(limits)
    with random_pair("33M") as pair:
        model = materialise(pair, [], recipe.start(pair).thinking, args.device, torch.float32)
        endless(model)
        prompts = [pair.instruct.prompt_ids(f"What is {i} + {i + 1}?") for i in range(32)]
        rows = [Row(tuple(p), Sampling(max_new_tokens=n)) for p, n in zip(prompts, limits)]
        batch = pair.instruct.tokenizer.pad([{"input_ids": p} for p in prompts], return_tensors="pt", padding_side="left").to(args.device)
        width = batch["input_ids"].shape[1]

        def ours():
            return {c.row: c.tokens for c in generate(model, pair.instruct.tokenizer, rows, set(), stream=False)}

        def theirs():
            return model.generate(**batch, do_sample=False, max_new_tokens=long, pad_token_id=0,
                                  stopping_criteria=StoppingCriteriaList([PerRow(limits, width)]))

        assert list(dict(sorted(ours().items())).values()) == limits and theirs().shape[1] == width + long
        a, b = seconds(ours, args.repeats), seconds(theirs, args.repeats)
        report(args, "labels", [dict(parameters=parameters(pair), rows=32, longest=long, useful_tokens=sum(limits), compacting_tokens_per_s=sum(limits) / a,
                                     generate_tokens_per_s=sum(limits) / b, ratio=b / a)])


if __name__ == "__main__":
    main()
