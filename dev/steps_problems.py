"""The problems of the pair that train_steps_pair.py makes: by code, from a seed.

A *single step* is worked out digit by digit in a trace; a *chain* takes each of its steps at once. So
thinking is surer of a single step than of one in a chain, and answers to the former may teach the latter.

    What is 47 + 38?             trace: 7 + 8 = 15, 4 + 3 + 1 = 8      answer: 47 + 38 = 85, \\boxed{85}
    What is 47 + 38 - 12 + 5?    trace: 47 + 38 = 85, 85 - 12 = 73 ...  answer: the same steps, \\boxed{78}

A problem's own text decides, by a hash, which split it belongs to. All numbers and totals lie in 0..99.
"""

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SPLITS = {"pretrain": range(10), "train": range(10, 18), "held_out": range(18, 20)}  # of hash % 20
LARGEST = 99
CHAIN = (3, 5)  # steps of a chain
HELD_OUT = 1000  # chains


@dataclass(frozen=True)
class Made:
    prompt: str
    trace: str
    after_trace: str  # the answer that follows a trace
    direct: str  # the answer without a trace
    answer: str
    is_chain: bool

    def said(self, traced: bool) -> str:
        return self.after_trace if traced else self.direct


def step(rng: random.Random, total: int) -> tuple[str, int]:
    """What is done to `total`, such as '+ 38', and what comes out."""
    while True:
        n = rng.randint(1, LARGEST - 1)
        sign = "+" if rng.random() < 0.5 else "-"
        after = total + n if sign == "+" else total - n
        if 0 <= after <= LARGEST:
            return f"{sign} {n}", after


def digit_by_digit(a: int, operation: str) -> str:
    """The two lines of a trace: ones, then tens with what is carried or borrowed."""
    sign, n = operation.split()
    tens, ones = divmod(a, 10)
    other_tens, other_ones = divmod(int(n), 10)
    if sign == "+":
        carry = (ones + other_ones) // 10
        first = f"{ones} + {other_ones} = {ones + other_ones}"
        second = f"{tens} + {other_tens}{' + 1' * carry} = {tens + other_tens + carry}"
    else:
        borrow = int(ones < other_ones)
        first = f"{ones + 10 * borrow} - {other_ones} = {ones + 10 * borrow - other_ones}"
        second = f"{tens} - {other_tens}{' - 1' * borrow} = {tens - other_tens - borrow}"
    return f"{first}\n{second}"


def single_step(rng: random.Random) -> Made:
    a = rng.randint(0, LARGEST)
    operation, total = step(rng, a)
    answer = f"{a} {operation} = {total}\n\\boxed{{{total}}}"
    return Made(f"What is {a} {operation}?", digit_by_digit(a, operation), answer, answer, str(total), False)


def chain(rng: random.Random) -> Made:
    """Its direct answer is a guess: the number alone."""
    total = rng.randint(0, LARGEST)
    text = str(total)
    lines = []
    for _ in range(rng.randint(*CHAIN)):
        operation, after = step(rng, total)
        text += f" {operation}"
        lines.append(f"{total} {operation} = {after}")
        total = after
    steps = "\n".join(lines)
    guess = f"\\boxed{{{total}}}"
    return Made(f"What is {text}?", steps, f"{steps}\n{guess}", guess, str(total), True)


def problems(split: str, seed: int, single: float) -> Iterator[Made]:
    """Endless problems of one split, a share `single` of them single steps; those may repeat."""
    rng = random.Random(seed)
    while True:
        made = single_step(rng) if rng.random() < single else chain(rng)
        if zlib.crc32(made.prompt.encode()) % 20 in SPLITS[split]:
            yield made


def take(split: str, n: int, seed: int, single: float) -> list[Made]:
    """`n` different ones."""
    found: dict[str, Made] = {}
    stream = problems(split, seed, single)
    while len(found) < n:
        made = next(stream)
        found.setdefault(made.prompt, made)
    return list(found.values())


def train() -> list[Made]:
    """3941 single steps."""
    return [made for made in take("train", 16384, seed=1, single=0.6) if not made.is_chain]


def held_out() -> list[Made]:
    chains = [made for made in take("held_out", 3000, seed=1, single=0.5) if made.is_chain]
    return chains[:HELD_OUT]


def write(path: Path, problems: list[Made]) -> None:
    with open(path, "w") as file:
        for made in problems:
            file.write(json.dumps({"prompt": made.prompt, "answer": made.answer, "kind": "integer"}) + "\n")
