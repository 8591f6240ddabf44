"""(b) Labels of very uneven length.

The compacting loop against `model.generate` and transformers' continuous batching.

    python bench/labels.py [--size 33M] [--repeats 3]

33M: 32 prompts; answers end after 10 to 600 tokens, log-normal around 60, as traces do. Larger sizes: 8
prompts, 4 to 48 tokens, around 15 (some 5 minutes at 0.6B on one core). Random weights; all sides make the
same tokens (checked), taking turns; only useful ones count. A ratio comes with its lowest and highest turn:
above 1, ours is faster. Last line: JSON.
"""

import math
import random
from statistics import median

import torch
from common import SIZES, arguments, endless, in_turns, parameters, random_pair, report
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation import ContinuousBatchingConfig

from thinkswitch import rounds
from thinkswitch.generate import Row, Sampling, generate
from thinkswitch.weights.materialise import materialise

PAGE = 32  # tokens of a page of continuous batching's cache


class PerRow(StoppingCriteria):
    """Row i is finished after limits[i] tokens."""

    def __init__(self, limits, prompt: int):
        self.limits, self.prompt = torch.tensor(limits), prompt

    def __call__(self, ids, scores, **_):
        return (ids.shape[1] - self.prompt >= self.limits).to(ids.device)


class Numbers:
    """In place of a tokenizer where tokens are compared.

    A random model says words that the tokenizer does not know.
    """

    pad_token_id = 0

    def decode(self, ids: list[int]) -> str:
        return "".join(f"{i} " for i in ids)


def paging(device: str, prompts, limits) -> ContinuousBatchingConfig:
    """On a CPU the defaults take most of the memory for the cache, and most of the time to clear it.

    On a card they are meant for it.
    """
    if device != "cpu":
        return ContinuousBatchingConfig(max_memory_percent=0.5)
    blocks = sum(
        math.ceil((len(p) + n) / PAGE) + 1 for p, n in zip(prompts, limits, strict=False)
    )  # room for all at once: nobody waits
    return ContinuousBatchingConfig(
        num_blocks=blocks,
        page_size=PAGE,
        max_batch_tokens=max(256, max(map(len, prompts))),
        use_async_batching=False,
    )


def main() -> None:
    args = arguments(__doc__.splitlines()[0], size=dict(choices=SIZES, default="33M"))
    count, middle, least, long = (32, 60, 10, 600) if args.size == "33M" else (8, 15, 4, 48)
    if args.quick:
        count, long = 8, 40
    rng = random.Random(0)
    limits = [min(long, max(least, round(rng.lognormvariate(math.log(middle), 1)))) for _ in range(count)]
    long, useful = max(limits), sum(limits)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    with random_pair(args.size) as pair:
        model = materialise(pair, [], rounds.start(pair).thinking, args.device, dtype)
        endless(model)
        prompts = [pair.instruct.prompt_ids(f"What is {i} + {i + 1}?") for i in range(count)]
        rows = [Row(tuple(p), Sampling(max_new_tokens=n)) for p, n in zip(prompts, limits, strict=False)]
        batch = pair.instruct.tokenizer.pad(
            [{"input_ids": p} for p in prompts], return_tensors="pt", padding_side="left"
        ).to(args.device)
        width, pages = batch["input_ids"].shape[1], paging(args.device, prompts, limits)

        def compacting(tokenizer=pair.instruct.tokenizer) -> dict[int, str]:
            return {c.row: c.text for c in generate(model, tokenizer, rows, set(), stream=False)}

        def plain_generate() -> torch.Tensor:
            return model.generate(
                **batch,
                do_sample=False,
                max_new_tokens=long,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([PerRow(limits, width)]),
            )

        def continuous_batching() -> list[list[int]]:
            # generate_batch has one limit for all; the manager under it has one for each
            greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=long)
            said = {}
            with model.continuous_batching_context_manager(
                greedy,
                continuous_batching_config=pages,
                persistent_manager=args.device != "cpu",
                warmup=args.device != "cpu",
            ) as manager:
                asked = [
                    manager.add_request(p, max_new_tokens=n) for p, n in zip(prompts, limits, strict=False)
                ]
                while len(said) < count:
                    reply = manager.get_result(timeout=1)
                    if reply and reply.is_finished():
                        said[reply.request_id] = reply.generated_tokens
                    elif not reply and not manager.is_running():
                        raise SystemExit("continuous batching has ended before its time")
            return [said[request] for request in asked]

        texts, whole, paged = compacting(Numbers()), plain_generate(), continuous_batching()
        ours = [[int(t) for t in texts[i].split()] for i in range(count)]
        others = dict(
            generate=[row[width : width + n].tolist() for row, n in zip(whole, limits, strict=False)],
            continuous=paged,
        )
        same = {
            name: sum(a == b for a, b in zip(ours, theirs, strict=False)) for name, theirs in others.items()
        }
        assert [len(o) for o in ours] == limits
        assert dtype != torch.float32 or set(same.values()) == {count}, (
            f"rows of {count} with the same tokens: {same}"
        )  # bf16 has ties
        times = in_turns(
            dict(ours=compacting, generate=plain_generate, continuous=continuous_batching), args.repeats
        )
        ratios = {
            name: sorted(b / a for a, b in zip(times["ours"], times[name], strict=False)) for name in others
        }
        report(
            args,
            "labels",
            [
                dict(
                    parameters=parameters(pair),
                    dtype=str(dtype).removeprefix("torch."),
                    rows=count,
                    longest=long,
                    useful_tokens=useful,
                    **{f"{name}_same_rows": n for name, n in same.items()},
                    **{f"{name}_tokens_per_s": useful / median(t) for name, t in times.items()},
                    **{f"{name}_over_ours": median(r) for name, r in ratios.items()},
                    **{f"{name}_over_ours_range": f"{r[0]:.2f}-{r[-1]:.2f}" for name, r in ratios.items()},
                )
            ],
        )


if __name__ == "__main__":
    main()
