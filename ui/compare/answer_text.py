"""What Compare says: the columns of answers, and the line above them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thinkswitch import grading, problems
from thinkswitch.recipe import Schedule
from ui.compare.question import BEFORE_AND_AFTER, STAGES, Point, Question
from ui.run_control import PAIR
from ui.widgets import html, theme
from ui.widgets.components import Answer

if TYPE_CHECKING:
    from thinkswitch.generate import Chunk

ENDINGS = {"length": ", cut off there", "cancel": ", stopped"}
SAME_WEIGHTS = (
    "both sides are the same weights until a round has trained them, so the slider moves nothing: only the "
    "template tells instruct and thinking apart"
)
ODD_TRACES = {"wrong close": " · closed by a wrong tag", "doubled": " · tags doubled"}


@dataclass(frozen=True)
class Cost:
    """What an answer takes, so far."""

    tokens: int
    trace_tokens: int
    seconds: float  # since it was asked for
    speed: float | None  # tokens a second, from the first token on


def empty_card(column: str, point: Point, hint: str = "…") -> Answer:
    """A column without an answer; `hint` stands in its place."""
    text = stage_title(point) if column in STAGES else title(point)
    return Answer(title=text, edge=theme.blend_colour(point.t), empty=hint)


def answer_shown(chunk: Chunk, cost: Cost, problem: problems.Problem | None, html_of_answer: str) -> Answer:
    """What a column shows of a row, below its title."""
    return {
        "trace": chunk.trace,
        "trace_title": "trace" + odd_trace(chunk),
        "thinking": chunk.thinking and not chunk.finish,
        "answer": chunk.answer,
        "html": html_of_answer,
        "mark": mark(chunk, problem),
        "foot": foot(chunk, cost),
        "tokens": cost.tokens,
        "trace_tokens": cost.trace_tokens,
        "empty": "no answer" if chunk.finish else "…",
    }


def foot(chunk: Chunk, cost: Cost) -> str:
    tokens = f"{cost.tokens:,} token{'' if cost.tokens == 1 else 's'}"
    trace = f", {cost.trace_tokens:,} of them trace" if cost.trace_tokens else ""
    ending = ENDINGS.get(chunk.finish or "", "")
    speed = f" · {cost.speed:,.0f} tokens/s" if cost.speed else ""
    return f"{tokens}{trace}{ending} · {cost.seconds:.2f} s{speed}"


def title(point: Point) -> str:
    if point.t == 0:
        return "instruct"
    is_thinking = point.t == 1 and not point.scheduled
    return "thinking" if is_thinking else f"blend · t = {point.t:g}"


def stage_title(point: Point) -> str:
    """The title of a column that compares rounds."""
    round_ = "round 0" if point.round == PAIR else point.round.rpartition(" · ")[2]
    return f"{title(point)} · {round_}"


def odd_trace(chunk: Chunk) -> str:
    if chunk.state == "open" and chunk.finish:
        return " · never closed"
    return ODD_TRACES.get(chunk.state, "")


def mark(chunk: Chunk, problem: problems.Problem | None) -> str:
    """Whether a finished answer to a held-out problem is right."""
    if problem is None or chunk.finish in (None, "cancel"):
        return ""
    right = grading.grade(chunk.answer, problem.answer, problem.kind, problem.pattern, problem.tolerance)
    return "✓" if right else "✗"


def progress_line(question: Question, rows: int, done: int) -> str:
    return html.quiet(f"{where(question)}: decoding {what(rows)}, {done} of {rows} done")


def result_line(
    question: Question, rows: int, seconds: float, stopped: bool, same_weights: bool = False
) -> str:
    outcome = "stopped after" if stopped else "in"
    note = f"; {SAME_WEIGHTS}" if same_weights else ""
    return html.quiet(f"{where(question)}: {what(rows)}, {outcome} {seconds:.2f} s{note}")


def where(question: Question) -> str:
    if question.view == BEFORE_AND_AFTER:
        return "Before and after"
    schedule = "" if question.schedule == Schedule() else ", with the schedule of Explore"
    return question.round + schedule


def what(rows: int) -> str:
    return "the blend" if rows == 1 else f"{rows} answers together"
