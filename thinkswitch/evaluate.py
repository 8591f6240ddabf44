"""Scores: accuracy with its uncertainty, think rate, tokens; and whether two checkpoints really differ."""

import hashlib
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace

import torch

from thinkswitch.errors import UserError
from thinkswitch.generate import Chunk, Row, Sampling, generate
from thinkswitch.grading import final_answer, grade
from thinkswitch.preset import Preset
from thinkswitch.problems import Problem
from thinkswitch.recipe import Recipe
from thinkswitch.statistics import mcnemar, wilson
from thinkswitch.think_parser import OPEN
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import Pair


@dataclass(frozen=True)
class Score:
    """One response to one question. `thought`: the response closes a trace (as arXiv 2510.10977 counts it)."""

    question: int
    correct: bool
    thought: bool
    tokens: int
    said: str | None
    finish: str


@dataclass(frozen=True)
class Summary:
    n: int
    correct: int
    accuracy: float
    low: float  # Wilson 95 %
    high: float
    think_rate: float
    mean_tokens: float


def score(problem: Problem, question: int, chunk: Chunk) -> Score:
    return Score(question, grade(chunk.answer, problem.answer, problem.kind), chunk.state in ("closed", "doubled"), chunk.tokens,
                 final_answer(chunk.answer, problem.kind), chunk.finish)


def summarise(scores: list[Score]) -> Summary:
    n, correct = len(scores), sum(s.correct for s in scores)
    low, high = wilson(correct, n)
    return Summary(n, correct, correct / n, low, high, sum(s.thought for s in scores) / n, sum(s.tokens for s in scores) / n)


@dataclass(frozen=True)
class McNemar:
    gained: int  # wrong before, right after
    lost: int
    p: float  # exact two-sided McNemar


def compare_scores(before: list[Score], after: list[Score]) -> McNemar:
    """The same questions twice."""
    was = {s.question: s.correct for s in before}
    if was.keys() != {s.question for s in after}:
        raise ValueError("a paired comparison needs the same questions on both sides")
    gained = sum(s.correct and not was[s.question] for s in after)
    lost = sum(was[s.question] and not s.correct for s in after)
    return McNemar(gained, lost, mcnemar(gained, lost))


def seed_of(*parts) -> int:
    """A seed that depends on what it is for, and on nothing else."""
    return int.from_bytes(hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=7).digest(), "big")


def sampling(preset: Preset, role: str, greedy: bool = False) -> Sampling:
    """The sampling of `role` (instruct | thinking) that the preset states."""
    if role == "instruct":
        chosen = Sampling(preset.instruct_temperature, preset.instruct_top_p, preset.instruct_top_k, preset.instruct_tokens)
    else:
        chosen = Sampling(preset.think_temperature, preset.think_top_p, preset.think_top_k, preset.think_tokens)
    return Sampling(max_new_tokens=chosen.max_new_tokens) if greedy else chosen


def with_token_limit(settings: Sampling, tokens: int | None) -> Sampling:
    return settings if tokens is None else replace(settings, max_new_tokens=tokens)


def row(checkpoint: Checkpoint, prompt: str, settings: Sampling, seed: int, recipe: Recipe | None = None) -> Row:
    """A prompt under a checkpoint's chat template."""
    return Row(tuple(checkpoint.prompt_ids(prompt)), settings, seed, checkpoint.template_opens_think, recipe)


def question(pair: Pair, preset: Preset, prompt: str, t: float, point: Recipe, template: str = "auto",
             settings: Sampling | None = None, seed: int = 0) -> Row:
    """A prompt at a point of the spectrum. `auto`: the parents under their own template and sampling, blends under the
    preset's template with the thinking checkpoint's sampling."""
    role = "instruct" if t == 0 else "thinking" if t == 1 else preset.template
    checkpoint = getattr(pair, role if template == "auto" else template)
    return row(checkpoint, prompt, settings or sampling(preset, "instruct" if t == 0 else "thinking"), seed, point)


@torch.inference_mode()
def probability_of_think(blend: Blend, checkpoint: Checkpoint, prompt: str, points: list[Recipe]) -> list[float]:
    """The probability, point by point, that a response begins with <think>: one forward pass, temperature 1.

    Under a template that opens the trace itself this is the probability of a second one: ask another template.
    """
    ids = torch.tensor([checkpoint.prompt_ids(prompt)] * len(points), device=blend.device)
    blend.place(points)
    logits = blend(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()
    tag = checkpoint.tokenizer.encode(OPEN, add_special_tokens=False)[0]
    return logits.softmax(-1)[:, tag].tolist()


def sweep(blend, template: Checkpoint, points: dict[float, Recipe], problems: list[Problem], preset: Preset,
          cancelled: Callable[[], bool] = lambda: False) -> Generator[tuple[int, int], None, list[dict]]:
    """Score points of the spectrum on the same problems, all under one template, the points mixed in each batch.

    Yields (finished rows, all rows) as it goes; returns a list of {t, **Summary} in the order of t.
    """
    settings = sampling(preset, "thinking", preset.greedy)
    ts = sorted(points)
    rows = [row(template, p.prompt, settings, seed_of(preset.seed, "sweep", q), points[t])
            for t in ts for q, p in enumerate(problems)]
    scores: dict[float, list[Score]] = {t: [] for t in ts}
    for done, chunk in enumerate(generate(blend, template.tokenizer, rows, template.stop_token_ids, preset.rows, False, cancelled), 1):
        if chunk.finish == "cancel":
            raise UserError("the sweep was stopped")
        at, q = divmod(chunk.row, len(problems))
        scores[ts[at]].append(score(problems[q], q, chunk))
        yield done, len(rows)
    return [dict(t=t, **asdict(summarise(scores[t]))) for t in ts]


def flip(points: list[dict], key: str = "think_rate") -> float | None:
    """The t at which thinking becomes the rule (a half), between two points of a sweep; None where it never changes."""
    for before, after in zip(points, points[1:]):
        if before[key] < 0.5 <= after[key]:
            return before["t"] + (after["t"] - before["t"]) * (0.5 - before[key]) / (after[key] - before[key])
    return None


def broken_zone(points: list[dict]) -> list[float]:
    """The ts of a sweep whose accuracy lies below both ends', beyond chance: the whole 95 % interval does."""
    worse = min(points[0]["accuracy"], points[-1]["accuracy"])
    return [p["t"] for p in points if p["high"] < worse]
