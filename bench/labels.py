"""(b) Labels of very uneven length: our compacting loop, `model.generate`, transformers' continuous batching.

    python bench/labels.py [--size 33M] [--repeats 3]

33M: 32 prompts; answers end after 10 to 600 tokens, log-normal around 60, as traces do. Larger sizes: 8
prompts, 4 to 48 tokens, around 15 (some 5 minutes at 0.6B on one core). Random weights; all sides make the
same tokens (checked), taking turns; only useful ones count. A ratio comes with its lowest and highest turn:
above 1, ours is faster. Last line: JSON.
"""

import math
import random
from dataclasses import dataclass, replace
from statistics import median

import torch
from common import SIZES, arguments, dtype_name, endless, in_turns, parameters, random_pair, report
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation import ContinuousBatchingConfig

from thinkswitch import rounds
from thinkswitch.generate import Row, generate
from thinkswitch.sampler import Sampling
from thinkswitch.weights.materialise import materialise

PAGE = 32  # tokens of a page of continuous batching's cache


@dataclass(frozen=True)
class Answers:
    """How many answers, and how many tokens they have."""

    count: int
    middle: int
    shortest: int
    longest: int

    def lengths(self) -> list[int]:
        """Log-normal around the middle, the same in every run."""
        rng = random.Random(0)
        drawn = [round(rng.lognormvariate(math.log(self.middle), 1)) for _ in range(self.count)]
        return [min(self.longest, max(self.shortest, length)) for length in drawn]


SMALL_MODEL = Answers(count=32, middle=60, shortest=10, longest=600)
LARGE_MODEL = Answers(count=8, middle=15, shortest=4, longest=48)


class PerRow(StoppingCriteria):
    """Row i is finished after limits[i] tokens."""

    def __init__(self, limits: list[int], prompt: int):
        self.limits = torch.tensor(limits)
        self.prompt = prompt

    def __call__(self, ids, scores, **_):
        return (ids.shape[1] - self.prompt >= self.limits).to(ids.device)


class Numbers:
    """Writes token ids as numbers: a random model says words that its tokenizer does not know."""

    pad_token_id = 0

    def decode(self, ids: list[int]) -> str:
        return "".join(f"{i} " for i in ids)


def paging(device: str, prompts: list[list[int]], limits: list[int]) -> ContinuousBatchingConfig:
    """Continuous batching's cache: its defaults are meant for a card.

    On a CPU they take most of the memory, and most of the time to clear it.
    """
    if device != "cpu":
        return ContinuousBatchingConfig(max_memory_percent=0.5)
    lengths = [len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)]
    pages = [math.ceil(length / PAGE) + 1 for length in lengths]
    return ContinuousBatchingConfig(
        num_blocks=sum(pages),  # room for all at once: nobody waits
        page_size=PAGE,
        max_batch_tokens=max(256, *map(len, prompts)),
        use_async_batching=False,
    )


class Contest:
    """One model, prompts with the lengths of their answers, and three ways to write these."""

    def __init__(self, args, pair, dtype: torch.dtype, limits: list[int]):
        self.model = materialise(pair, [], rounds.start(pair).thinking, args.device, dtype)
        endless(self.model)
        self.limits = limits
        self.tokenizer = pair.instruct.tokenizer
        self.prompts = [pair.instruct.prompt_ids(f"What is {i} + {i + 1}?") for i in range(len(limits))]
        requests = zip(self.prompts, limits, strict=True)
        self.rows = [Row(tuple(prompt), Sampling(max_new_tokens=limit)) for prompt, limit in requests]
        encoded = [{"input_ids": prompt} for prompt in self.prompts]
        batch = self.tokenizer.pad(encoded, return_tensors="pt", padding_side="left")
        self.batch = batch.to(args.device)
        self.width = self.batch["input_ids"].shape[1]
        self.on_card = args.device != "cpu"
        self.pages = paging(args.device, self.prompts, limits)

    def compacting(self) -> dict[int, str]:
        return self.texts(self.tokenizer)

    def texts(self, tokenizer) -> dict[int, str]:
        chunks = generate(self.model, tokenizer, self.rows, set(), stream=False)
        return {chunk.row: chunk.text for chunk in chunks}

    def plain_generate(self) -> torch.Tensor:
        return self.model.generate(
            **self.batch,
            do_sample=False,
            max_new_tokens=max(self.limits),
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([PerRow(self.limits, self.width)]),
        )

    def continuous_batching(self) -> list[list[int]]:
        """By the manager, which takes a limit for each request; `generate_batch` above it has one for all."""
        greedy = GenerationConfig(
            do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=max(self.limits)
        )
        said: dict[str, list[int]] = {}
        with self.model.continuous_batching_context_manager(
            greedy,
            continuous_batching_config=self.pages,
            persistent_manager=self.on_card,
            warmup=self.on_card,
        ) as manager:
            requests = zip(self.prompts, self.limits, strict=True)
            asked = [manager.add_request(prompt, max_new_tokens=limit) for prompt, limit in requests]
            while len(said) < len(asked):
                reply = manager.get_result(timeout=1)
                if reply and reply.is_finished():
                    said[reply.request_id] = reply.generated_tokens
                elif not reply and not manager.is_running():
                    raise SystemExit("continuous batching has ended before its time")
        return [said[request] for request in asked]

    def same_rows(self) -> dict[str, int]:
        """In how many rows each of the others makes our tokens. Runs every way once."""
        texts = self.texts(Numbers())
        ours = [[int(token) for token in texts[i].split()] for i in range(len(self.limits))]
        assert [len(row) for row in ours] == self.limits
        whole = self.plain_generate()[:, self.width :].tolist()
        theirs = {
            "generate": [row[:limit] for row, limit in zip(whole, self.limits, strict=True)],
            "continuous": self.continuous_batching(),
        }
        return {name: count_equal(ours, rows) for name, rows in theirs.items()}


def count_equal(ours: list[list[int]], theirs: list[list[int]]) -> int:
    return sum(a == b for a, b in zip(ours, theirs, strict=True))


def figures(times: dict[str, list[float]], useful: int) -> dict:
    """Tokens per second of every side, and how much longer than ours the others take."""
    ratios = {}
    for name in ("generate", "continuous"):
        ratios[name] = sorted(b / a for a, b in zip(times["ours"], times[name], strict=True))
    return {
        **{f"{name}_tokens_per_s": useful / median(took) for name, took in times.items()},
        **{f"{name}_over_ours": median(turns) for name, turns in ratios.items()},
        **{f"{name}_over_ours_range": f"{turns[0]:.2f}-{turns[-1]:.2f}" for name, turns in ratios.items()},
    }


def measure(args, pair, answers: Answers) -> dict:
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    limits = answers.lengths()
    contest = Contest(args, pair, dtype, limits)
    same = contest.same_rows()
    if dtype == torch.float32:  # in bf16 tokens tie
        assert set(same.values()) == {len(limits)}, f"rows of {len(limits)} with the same tokens: {same}"
    ways = {
        "ours": contest.compacting,
        "generate": contest.plain_generate,
        "continuous": contest.continuous_batching,
    }
    times = in_turns(ways, args.repeats)
    return {
        "parameters": parameters(pair),
        "dtype": dtype_name(dtype),
        "rows": len(limits),
        "longest": max(limits),
        "useful_tokens": sum(limits),
        **{f"{name}_same_rows": count for name, count in same.items()},
        **figures(times, sum(limits)),
    }


def main() -> None:
    args = arguments(__doc__.splitlines()[0], size={"choices": SIZES, "default": "33M"})
    answers = SMALL_MODEL if args.size == "33M" else LARGE_MODEL
    if args.quick:
        answers = replace(answers, count=8, longest=40)
    with random_pair(args.size) as pair:
        report(args, "labels", [measure(args, pair, answers)])


if __name__ == "__main__":
    main()
