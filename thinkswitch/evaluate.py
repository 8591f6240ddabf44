"""Scores: accuracy with its uncertainty, think rate and tokens, of a checkpoint or over the spectrum."""

import hashlib
import itertools
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace

import torch

from thinkswitch.errors import UserError
from thinkswitch.generate import Chunk, Row, generate
from thinkswitch.grading import final_answer, grade
from thinkswitch.preset import Preset
from thinkswitch.problems import Problem
from thinkswitch.recipe import Recipe
from thinkswitch.sampler import Sampling
from thinkswitch.statistics import mcnemar, wilson
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import Pair
from thinkswitch.weights.prompting import Conversation

ROUNDING = 1e-9  # of shares: 0.9 - 0.89 is a little more than 0.01

# ---- scores


@dataclass(frozen=True)
class Score:
    """One response to one question. The fields are the keys of scores.jsonl."""

    question: int  # index among the held-out problems
    correct: bool
    thought: bool  # the response closes a trace (as arXiv 2510.10977 counts it)
    tokens: int
    said: str | None  # the final answer; None where the response commits to none
    finish: str  # stop | length


@dataclass(frozen=True)
class Summary:
    """Scores of one checkpoint or point. Rates and accuracy are shares, 0..1."""

    n: int
    correct: int
    accuracy: float
    low: float  # of the 95 % interval (Wilson)
    high: float
    think_rate: float
    mean_tokens: float


@dataclass(frozen=True)
class McNemar:
    """A paired comparison of two checkpoints on the same questions."""

    gained: int  # wrong before, right after
    lost: int  # right before, wrong after
    p: float  # exact, two-sided


def score(problem: Problem, question: int, chunk: Chunk) -> Score:
    """The score of a row's last chunk."""
    assert chunk.finish is not None
    return Score(
        question=question,
        correct=grade(chunk.answer, problem.answer, problem.kind, problem.pattern, problem.tolerance),
        thought=chunk.state in ("closed", "doubled"),
        tokens=chunk.tokens,
        said=final_answer(chunk.answer, problem.kind, problem.pattern),
        finish=chunk.finish,
    )


def summarise(scores: list[Score]) -> Summary:
    """The summary of one score or more."""
    n = len(scores)
    correct = sum(s.correct for s in scores)
    low, high = wilson(correct, n)
    return Summary(
        n=n,
        correct=correct,
        accuracy=correct / n,
        low=low,
        high=high,
        think_rate=sum(s.thought for s in scores) / n,
        mean_tokens=sum(s.tokens for s in scores) / n,
    )


def compare_scores(before: list[Score], after: list[Score]) -> McNemar:
    """What changed between two scorings of the same questions, in any order. ValueError if they differ."""
    was_correct = {s.question: s.correct for s in before}
    if was_correct.keys() != {s.question for s in after}:
        raise ValueError("a paired comparison needs the same questions on both sides")
    gained = sum(s.correct and not was_correct[s.question] for s in after)
    lost = sum(was_correct[s.question] and not s.correct for s in after)
    return McNemar(gained, lost, mcnemar(gained, lost))


# ---- questions


def seed_of(*parts) -> int:
    """A seed that depends on its purpose alone: equal for equal `parts` in every process and version."""
    digest = hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def sampling(preset: Preset, role: str, greedy: bool = False) -> Sampling:
    """How the preset samples from a checkpoint; `role` is instruct | thinking."""
    prefix = "instruct" if role == "instruct" else "think"

    def setting(name: str):
        return getattr(preset, f"{prefix}_{name}")

    chosen = Sampling(
        temperature=setting("temperature"),
        top_p=setting("top_p"),
        top_k=setting("top_k"),
        max_new_tokens=setting("tokens"),
        min_p=setting("min_p"),
        repetition_penalty=setting("repetition_penalty"),
        presence_penalty=setting("presence_penalty"),
    )
    return make_greedy(chosen) if greedy else chosen


def make_greedy(settings: Sampling) -> Sampling:
    """The same without chance. Penalties stay, as in transformers: greedy answers need them most."""
    return replace(settings, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)


def with_token_limit(settings: Sampling, tokens: int | None) -> Sampling:
    """The same sampling with another limit of new tokens; None keeps its own."""
    return settings if tokens is None else replace(settings, max_new_tokens=tokens)


def row(
    checkpoint: Checkpoint,
    prompt: str,
    settings: Sampling,
    seed: int,
    recipe: Recipe | None = None,
    conversation: Conversation = Conversation(),
) -> Row:
    """A prompt under a checkpoint's chat template."""
    ids = tuple(checkpoint.prompt_ids(prompt, conversation))
    return Row(ids, settings, seed, checkpoint.template_opens_think, recipe, checkpoint.think_tags)


def question(
    pair: Pair,
    preset: Preset,
    prompt: str,
    t: float,
    point: Recipe,
    template: str = "auto",
    settings: Sampling | None = None,
    seed: int = 0,
    conversation: Conversation = Conversation(),
) -> Row:
    """A prompt at a point of the spectrum.

    `template` is instruct | thinking | auto. With auto the ends use their own, blends the preset's.
    Without `settings`, t = 0 is sampled as the instruct checkpoint, everything else as the thinking one.
    """
    role = "instruct" if t == 0 else "thinking"
    if template == "auto":
        template = role if t in (0, 1) else preset.template
    checkpoint = pair.thinking if template == "thinking" else pair.instruct
    return row(checkpoint, prompt, settings or sampling(preset, role), seed, point, conversation)


# ---- the spectrum


@torch.inference_mode()
def probability_of_think(
    blend: Blend,
    checkpoint: Checkpoint,
    prompt: str,
    points: list[Recipe],
    conversation: Conversation = Conversation(),
) -> list[float]:
    """The probability, for each point, that a response begins with the tag that opens a trace.

    One forward pass, temperature 1. A tag of several tokens takes the product of their probabilities. Under a
    template that opens the trace itself this is the probability of a second one; use the other's.
    """
    first, last = checkpoint.opening_tokens
    asked = [*checkpoint.prompt_ids(prompt, conversation), *first]
    ids = torch.tensor([asked] * len(points), device=blend.device)
    blend.place(points)
    count = len(first) + 1
    logits = blend(input_ids=ids, use_cache=False, logits_to_keep=count).logits[:, -count:].float()
    p = logits.softmax(-1)
    found = p[:, -1, last].sum(-1)
    for position, token in enumerate(first):
        found = found * p[:, position, token]
    return found.tolist()


def sweep(
    blend: Blend,
    template: Checkpoint,
    points: dict[float, Recipe],
    problems: list[Problem],
    preset: Preset,
    cancelled: Callable[[], bool] = lambda: False,
    between_steps: Callable[[], None] = lambda: None,
    scores: dict[float, list[Score]] | None = None,
) -> Generator[tuple[int, int], None, list[dict]]:
    """Score points of the spectrum on the same problems under one template, all points in the same batches.

    Yields (finished rows, all rows); returns a list of {t, **Summary} in the order of t. `cancelled` and
    `between_steps` are those of `generate`, which also makes batches smaller when memory runs out. An empty
    `scores` is filled as answers come, see `so_far`.
    """
    settings = sampling(preset, "thinking", preset.greedy)
    ts = sorted(points)
    rows = []
    for t in ts:
        for number, problem in enumerate(problems):
            seed = seed_of(preset.seed, "sweep", number)
            rows.append(row(template, problem.prompt, settings, seed, points[t]))
    chunks = generate(
        blend,
        template.tokenizer,
        rows,
        template.stop_token_ids,
        preset.rows,
        stream=False,
        cancelled=cancelled,
        between_steps=between_steps,
    )
    scores = {} if scores is None else scores
    scores.update({t: [] for t in ts})
    for finished, chunk in enumerate(chunks, 1):
        if chunk.finish == "cancel":
            raise UserError("the sweep was stopped")
        position, number = divmod(chunk.row, len(problems))
        scores[ts[position]].append(score(problems[number], number, chunk))
        yield finished, len(rows)
    return table_of(scores)


def table_of(scores: dict[float, list[Score]]) -> list[dict]:
    """[{t, **Summary}] in the order of t."""
    return [dict(t=t, **asdict(summarise(scores[t]))) for t in sorted(scores)]


def so_far(scores: dict[float, list[Score]]) -> list[dict]:
    """The table of a sweep that is going on: of the problems that have been answered at every point.

    So its points are compared on the same problems, though some are ahead of others.
    """
    answered = [{score.question for score in of_point} for of_point in scores.values()]
    everywhere = set.intersection(*answered) if answered else set()
    if not everywhere:
        return []
    return table_of({t: [s for s in of_point if s.question in everywhere] for t, of_point in scores.items()})


def flip(points: list[dict], key: str = "think_rate") -> float | None:
    """The first t at which `key` rises to a half, between two points of a sweep; None if it never does."""
    for before, after in itertools.pairwise(points):
        if before[key] < 0.5 <= after[key]:
            share = (0.5 - before[key]) / (after[key] - before[key])
            return before["t"] + (after["t"] - before["t"]) * share
    return None


def cheapest_near_best(points: list[dict], within: float = 0.01) -> dict:
    """The point of a sweep with the fewest tokens among those whose accuracy is `within` of the best one."""
    best = max(point["accuracy"] for point in points)
    near = [point for point in points if point["accuracy"] >= best - within - ROUNDING]
    return min(near, key=lambda point: (point["mean_tokens"], -point["accuracy"], point["t"]))


def broken_zone(points: list[dict]) -> list[float]:
    """The ts of a sweep that are worse than both ends beyond chance: their whole 95 % interval lies below."""
    worse_end = min(points[0]["accuracy"], points[-1]["accuracy"])
    return [point["t"] for point in points if point["high"] < worse_end]
