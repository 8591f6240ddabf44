"""The problems of the embedded pair: made by code from a seed, so that anyone can make them again.

    python dev/tiny_problems.py            writes presets/tiny/{train,held_out}.jsonl

Two kinds, as in the paper (AIME: an integer; PubMedQA: yes/no/maybe):

    What is 7 + 5 - 3?                                                   -> \\boxed{9}
    Tom has 7 + 5 - 3 coins. Ann has 6 to 12 coins. Does Tom have more?  -> \\boxed{maybe}

A problem's own text decides, by a hash, which split it belongs to, so the pair's pre-training, the loop's
prompts and the held-out problems can never share one.
"""

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TINY = Path(__file__).parents[1] / "presets" / "tiny"
NAMES = ["Ann", "Ben", "Eva", "Jim", "Kim", "Leo", "Mia", "Tom"]
THINGS = ["coins", "cards", "books", "shells", "stamps", "apples"]
SPLITS = {"pretrain": range(10), "train": range(10, 18), "held_out": range(18, 20)}  # of hash % 20
# Share of chains with one term more: the loop's domain lies a little beyond what the pair is used to.
LONGER = {"pretrain": 0.1, "train": 1.0, "held_out": 1.0}


@dataclass(frozen=True)
class Made:
    prompt: str
    trace: str
    answer: str
    kind: str  # integer | choice

    def said(self, traced: bool) -> str:
        """The answer; with a trace before it the same."""
        return self.boxed

    @property
    def boxed(self) -> str:
        return f"\\boxed{{{self.answer}}}"


def chain(rng: random.Random, terms: int) -> tuple[str, list[str], int]:
    """A sum such as '7 + 5 - 3', its running totals line by line, and its value. No total is below zero."""
    total = rng.randint(1, 9)
    text = str(total)
    lines = []
    for _ in range(terms - 1):
        n = rng.randint(1, 9)
        sign = "-" if n <= total and rng.random() < 0.5 else "+"
        after = total + n if sign == "+" else total - n
        text += f" {sign} {n}"
        lines.append(f"{total} {sign} {n} = {after}")
        total = after
    return text, lines, total


def terms(rng: random.Random, longer: float) -> int:
    """How many a chain has: 3 to 6, and with probability `longer` one more."""
    return rng.randint(3, 6) + (rng.random() < longer)


def integer(rng: random.Random, longer: float) -> Made:
    text, lines, total = chain(rng, terms(rng, longer))
    return Made(f"What is {text}?", "\n".join(lines), str(total), "integer")


def choice(rng: random.Random, longer: float) -> Made:
    answer = rng.choice(["yes", "no", "maybe"])
    low = -1
    while low < 0:
        text, lines, total = chain(rng, terms(rng, longer))
        low, high = bounds(rng, answer, total)
    a, b = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    prompt = f"{a} has {text} {thing}. {b} has {low} to {high} {thing}. Does {a} have more?"
    trace = "\n".join([*lines, verdict(answer, total, low, high)])
    return Made(prompt, trace, answer, "choice")


def bounds(rng: random.Random, answer: str, total: int) -> tuple[int, int]:
    """An interval close to `total` for which `answer` is right. The lower end may be below zero."""
    near = rng.randint(1, 3)
    far = rng.randint(1, 3)
    if answer == "maybe":
        return total - near, total + far
    if answer == "yes":
        return total - near - far, total - near
    return total + near, total + near + far


def verdict(answer: str, total: int, low: int, high: int) -> str:
    """The last line of a trace."""
    if answer == "maybe":
        return f"{low} < {total} < {high}"
    return f"{total} > {high}" if answer == "yes" else f"{total} < {low}"


def problems(split: str, seed: int) -> Iterator[Made]:
    """Endless problems of one split, half of each kind in turn, none twice."""
    rng = random.Random(seed)
    seen: set[str] = set()
    makers = [integer, choice]
    while True:
        made = makers[len(seen) % 2](rng, LONGER[split])
        in_split = zlib.crc32(made.prompt.encode()) % 20 in SPLITS[split]
        if in_split and made.prompt not in seen:
            seen.add(made.prompt)
            yield made


def take(split: str, n: int, seed: int) -> list[Made]:
    stream = problems(split, seed)
    return [next(stream) for _ in range(n)]


def main() -> None:
    for split, n in (("train", 16384), ("held_out", 1000)):
        with open(TINY / f"{split}.jsonl", "w") as file:
            for made in take(split, n, seed=1):
                problem = {"prompt": made.prompt, "answer": made.answer, "kind": made.kind}
                file.write(json.dumps(problem) + "\n")


if __name__ == "__main__":
    main()
