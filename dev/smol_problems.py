"""The problems of `smol`: short word problems, made by code from a seed, so that anyone can make them again.

    python dev/smol_problems.py            writes presets/smol/{train,held_out}.jsonl

Two kinds, as in the paper (AIME: an integer; PubMedQA: yes/no/maybe), of two or three steps:

    Tom has 7 coins. He finds 5 coins. Then he gives 3 of them to Ann. How many coins does Tom have?
    Tom has 7 coins. He finds 5 coins. Ann has 6 to 12 coins. Does Tom have more coins than Ann?

A problem's own text decides, by a hash, which split it belongs to, so the twin's training, the loop's prompts
and the held-out problems can never share one.
"""

import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SMOL = Path(__file__).parents[1] / "presets" / "smol"
SIZES = {"train": 1200, "held_out": 400}
SPLITS = {"twin": range(10), "train": range(10, 16), "held_out": range(16, 20)}  # of hash % 20
MOST = 99  # no number is larger

PEOPLE = {  # a name: its pronoun
    "Ann": "she", "Ben": "he", "Eva": "she", "Jim": "he", "Kim": "she", "Leo": "he", "Mia": "she",
    "Tom": "he", "Zoe": "she", "Max": "he", "Lucy": "she", "Sam": "he", "Nina": "she", "Paul": "he",
    "Rosa": "she", "Omar": "he",
}  # fmt: skip
THINGS = [
    "coins",
    "cards",
    "books",
    "shells",
    "stamps",
    "apples",
    "pens",
    "eggs",
    "beads",
    "stones",
    "nuts",
    "toys",
]
ASK_INTEGER = 'End with "The answer is" and the number.'
ASK_CHOICE = 'End with "The answer is" and yes, no or maybe.'


@dataclass(frozen=True)
class Made:
    """A problem and how a thinking model answers it."""

    prompt: str
    trace: str  # terse: each step as an equation
    response: str  # shows its steps, ends with the answer
    answer: str
    kind: str  # integer | choice


@dataclass(frozen=True)
class Story:
    """A person's things and what happens to them."""

    name: str
    things: str
    sentences: tuple[str, ...]
    equations: tuple[str, ...]
    total: int


@dataclass(frozen=True)
class Event:
    """One step: how many there are after it, as a sentence and as an equation."""

    sentence: str
    equation: str
    total: int


# ---- events: each takes the random stream, the person and the number before, and is None where it cannot be


def gain(rng: random.Random, name: str, things: str, before: int) -> Event | None:
    n = rng.randint(2, 20)
    verb = rng.choice(["finds", "buys", "is given", "wins"])
    return Event(f"{{He}} {verb} {n} {things}.", f"{before} + {n} = {before + n}", before + n)


def lose(rng: random.Random, name: str, things: str, before: int) -> Event | None:
    if before < 4:
        return None
    n = rng.randint(2, min(20, before - 1))
    friend = rng.choice([other for other in PEOPLE if other != name])
    sentence = rng.choice(
        [
            f"{{He}} loses {n} {things}.",
            f"{{He}} gives {n} {things} to {friend}.",
            f"{{He}} sells {n} {things}.",
        ]
    )
    return Event(sentence, f"{before} - {n} = {before - n}", before - n)


def bags(rng: random.Random, name: str, things: str, before: int) -> Event | None:
    count, each = rng.randint(2, 5), rng.randint(2, 9)
    more = count * each
    sentence = f"{{He}} buys {count} bags with {each} {things} each."
    return Event(sentence, f"{count} * {each} = {more}, {before} + {more} = {before + more}", before + more)


def double(rng: random.Random, name: str, things: str, before: int) -> Event | None:
    factor, word = rng.choice([(2, "double"), (3, "triple")])
    sentence = f"Then {{he}} gets enough to {word} the number of {{his}} {things}."
    return Event(sentence, f"{before} * {factor} = {before * factor}", before * factor)


def share(rng: random.Random, name: str, things: str, before: int) -> Event | None:
    ways = [n for n in (2, 3, 4, 5) if before % n == 0 and before > n]
    if not ways:
        return None
    n = rng.choice(ways)
    sentence = f"{{He}} shares all {things} equally among {n} people, {{him}}self included."
    return Event(sentence, f"{before} / {n} = {before // n}", before // n)


EVENTS: dict[Callable[..., Event | None], int] = {gain: 3, lose: 3, bags: 2, double: 1, share: 1}  # how often


# ---- problems


def make_story(rng: random.Random) -> Story:
    name, things = rng.choice(list(PEOPLE)), rng.choice(THINGS)
    total = rng.randint(3, 30)
    sentences, equations = [f"{name} has {total} {things}."], []
    steps = rng.randint(2, 3)
    while len(equations) < steps:
        (kind,) = rng.choices(list(EVENTS), list(EVENTS.values()))
        event = kind(rng, name, things, total)
        if event is None or event.total > MOST:
            continue
        sentences.append(with_pronouns(event.sentence, PEOPLE[name]))
        equations.append(event.equation)
        total = event.total
    return Story(name, things, tuple(sentences), tuple(equations), total)


def with_pronouns(sentence: str, subject: str) -> str:
    possessive, objective = ("her", "her") if subject == "she" else ("his", "him")
    return sentence.format(He=subject.capitalize(), he=subject, his=possessive, him=objective)


def integer_problem(rng: random.Random) -> Made:
    story = make_story(rng)
    question = f"How many {story.things} does {story.name} have now?"
    prompt = " ".join([*story.sentences, question, ASK_INTEGER])
    response = f"{in_words(story)} The answer is {story.total}."
    return Made(prompt, "; ".join(story.equations), response, str(story.total), "integer")


def choice_problem(rng: random.Random) -> Made:
    """Whether the total is above another person's, of whom only a range is known."""
    story = make_story(rng)
    other = rng.choice([name for name in PEOPLE if name != story.name])
    answer = rng.choice(["yes", "no", "maybe"])
    width = rng.randint(2, 9)
    lowest, highest = {  # where the range begins
        "yes": (max(1, story.total - 2 * width - 6), story.total - width - 1),
        "maybe": (max(1, story.total - width + 1), story.total - 1),
        "no": (story.total + 1, story.total + width + 6),
    }[answer]
    if lowest > highest:
        return choice_problem(rng)
    low = rng.randint(lowest, highest)
    high = low + width
    asked = f"{other} has {low} to {high} {story.things}."
    question = f"Does {story.name} have more {story.things} than {other} now?"
    prompt = " ".join([*story.sentences, asked, question, ASK_CHOICE])
    compared = {
        "yes": f"{story.total} > {high}",
        "no": f"{story.total} < {low}",
        "maybe": f"{low} < {story.total} < {high}",
    }[answer]
    reason = {
        "yes": f"{story.total} is more than {high}, the most {other} can have.",
        "no": f"{story.total} is less than {low}, the least {other} can have.",
        "maybe": f"{story.total} lies between {low} and {high}, so it depends on {other}.",
    }[answer]
    trace = "; ".join([*story.equations, f"{compared}: {answer}"])
    return Made(prompt, trace, f"{in_words(story)} {reason} The answer is {answer}.", answer, "choice")


def in_words(story: Story) -> str:
    """The steps as the answer shows them."""
    return f"{story.name} has {', then '.join(story.equations)} {story.things}."


def problems(split: str, seed: int = 0) -> Iterator[Made]:
    """Endless and without repetition, two integers to a choice."""
    rng = random.Random(f"smol {split} {seed}")
    seen = set()
    while True:
        made = choice_problem(rng) if rng.random() < 1 / 3 else integer_problem(rng)
        if made.prompt not in seen and zlib.crc32(made.prompt.encode()) % 20 in SPLITS[split]:
            seen.add(made.prompt)
            yield made


def take(split: str, count: int, seed: int = 0) -> list[Made]:
    stream = problems(split, seed)
    return [next(stream) for _ in range(count)]


def main() -> None:
    SMOL.mkdir(parents=True, exist_ok=True)
    for split, count in SIZES.items():
        rows = [{"prompt": m.prompt, "answer": m.answer, "kind": m.kind} for m in take(split, count)]
        path = SMOL / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{path.name}: {count} problems")


if __name__ == "__main__":
    main()
