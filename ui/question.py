"""What a visitor asks in Compare: read from the page, checked, made into rows of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from ui.run_control import PAIR
from ui.studio import DEMO_PROMPT, DEMO_TOKENS, Studio
from ui.widgets import charts
from ui.widgets.sampling_form import TEMPLATES

if TYPE_CHECKING:
    from thinkswitch.generate import Row
    from thinkswitch.weights.checkpoint import Checkpoint
    from ui.pair_loader import Loaded

RENDERED_POINTS = [i / 10 for i in range(11)]  # the points of the rendered spectrum
PROBABILITY_POINTS = [i / 20 for i in range(21)]  # the points of the probability strip
POINTS_A_TURN = 3  # a long prompt must not keep the other visitors waiting
NO_LIMIT = 1 << 20


@dataclass(frozen=True)
class Question:
    """What a visitor asks, and how."""

    prompt: str
    t: float
    round: str
    template: str  # auto | instruct | thinking
    how: str  # preset default | greedy | custom
    temperature: float
    top_p: float
    top_k: int
    limit: int
    seed: int
    schedule: Schedule

    def same_but_for_t(self, other: Question) -> bool:
        return replace(self, t=0) == replace(other, t=0)

    def same_end_columns(self, other: Question) -> bool:
        """Whether instruct and thinking would say the same again: only t and the schedule may differ."""
        return self.same_but_for_t(replace(other, schedule=self.schedule))


def read_question(values: dict[str, Any]) -> Question:
    """A Question from the values of the components; an empty box counts as its neutral value."""
    return Question(
        prompt=values["prompt"] or "",
        t=float(values["t"] or 0),
        round=values["round"] or PAIR,
        template=values["template"],
        how=values["how"],
        temperature=float(values["temperature"] or 0),
        top_p=float(values["top_p"] or 1),
        top_k=int(values["top_k"] or 0),
        limit=int(values["limit"] or 0),
        seed=int(values["seed"] or 0),
        schedule=values["schedule"],
    )


def check(studio: Studio, loaded: Loaded, question: Question) -> None:
    """Refuse what no decode could answer, before work starts."""
    if not question.prompt.strip():
        raise UserError("the prompt is empty; write a question, or click on one of the examples")
    if question.template not in TEMPLATES:
        raise UserError(f"there is no chat template {question.template!r}")
    counts = {"top-k": question.top_k, "the most new tokens": question.limit, "the seed": question.seed}
    for name, value in counts.items():
        if value < 0:
            raise UserError(f"{name} must be at least 0, it is {value}")
    room = getattr(loaded.pair.config, "max_position_embeddings", NO_LIMIT)
    if studio.demo:
        room = min(room, DEMO_PROMPT)
    length = len(loaded.pair.thinking.prompt_ids(question.prompt))
    if length >= room:
        raise UserError(f"the prompt is too long: {length} tokens, and there is room for {room}")


def rows_of(studio: Studio, loaded: Loaded, question: Question, ts: list[float]) -> list[Row]:
    """One row for each t."""
    from thinkswitch import evaluate

    check(studio, loaded, question)
    rows = []
    for t, point in zip(ts, studio.points(loaded, question.round, ts, question.schedule), strict=True):
        role = "instruct" if t == 0 else "thinking"
        sampling = evaluate.sampling(loaded.preset, role, question.how == "greedy")
        limits = [sampling.max_new_tokens]
        if question.limit:
            limits.append(question.limit)
        if studio.demo:
            limits.append(DEMO_TOKENS)
        if question.how == "custom":
            # min_p and penalties are not asked for, so they stay the preset's
            sampling = replace(
                sampling, temperature=question.temperature, top_p=question.top_p, top_k=question.top_k
            )
        sampling = replace(sampling, max_new_tokens=min(limits))
        row = evaluate.question(
            loaded.pair, loaded.preset, question.prompt, t, point, question.template, sampling, question.seed
        )
        rows.append(row)
    return rows


def trace_chart(studio: Studio, question: Question, superseded: Callable[[], bool]) -> str | None:
    """The chart of the strip, from one forward pass of the prompt at each point; None leaves the old one.

    `superseded` is asked between turns.
    """
    loaded = studio.loaded
    if loaded is None or not question.prompt.strip():
        return None
    check(studio, loaded, question)

    def given_up() -> bool:
        return superseded() or studio.loaded is not loaded

    template = template_of(loaded, question)
    opens = [1.0] * len(PROBABILITY_POINTS)
    if not template.template_opens_think:
        opens = probabilities(studio, loaded, question, template, given_up)
    if given_up():
        return None
    return charts.probability(PROBABILITY_POINTS, opens, question.t)


def template_of(loaded: Loaded, question: Question) -> Checkpoint:
    name = loaded.preset.template if question.template == "auto" else question.template
    return getattr(loaded.pair, name)


def probabilities(
    studio: Studio, loaded: Loaded, question: Question, template: Checkpoint, given_up: Callable[[], bool]
) -> list[float]:
    """The probability of opening a trace at PROBABILITY_POINTS, a few points in each turn."""
    from thinkswitch import evaluate

    opens: list[float] = []
    with studio.using(loaded, question.round):
        recipes = studio.points(loaded, question.round, PROBABILITY_POINTS, question.schedule)
        while len(opens) < len(recipes) and not given_up():
            some = recipes[len(opens) : len(opens) + POINTS_A_TURN]
            with studio.turn():
                opens += evaluate.probability_of_think(loaded.blend, template, question.prompt, some)
    return opens
