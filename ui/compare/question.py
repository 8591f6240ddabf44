"""What a visitor asks in Compare: read from the page, checked, made into rows of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from thinkswitch.errors import UserError
from thinkswitch.recipe import Recipe, Schedule
from ui.compare.conversation import Exchange, conversation_of
from ui.compare.sampling_form import TEMPLATES
from ui.run_control import PAIR
from ui.studio import DEMO_PROMPT, DEMO_TOKENS, Studio

if TYPE_CHECKING:
    from thinkswitch.generate import Row
    from thinkswitch.sampler import Sampling
    from ui.pair_loader import Loaded

SLIDER, BEFORE_AND_AFTER = "Slider", "Before and after"  # the two views of the tab
COLUMNS = ("instruct", "blend", "thinking")  # of the first view
STAGES = ("before", "after", "after_thinking")  # columns of the second: instruct, instruct, thinking
RENDERED_POINTS = [i / 10 for i in range(11)]  # the points of the rendered spectrum
NO_LIMIT = 1 << 20


@dataclass(frozen=True)
class Point:
    """A round and a t: what a column shows."""

    round: str
    t: float
    scheduled: bool = False  # the schedule in force applies; never to the two checkpoints


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
    system: str = ""  # empty: that of the preset
    view: str = SLIDER
    stages: tuple[Point, ...] = ()  # the columns of the other view, before and after training
    exchanges: tuple[Exchange, ...] = ()  # earlier turns

    def same_but_for_t(self, other: Question) -> bool:
        return replace(self, t=0, stages=()) == replace(other, t=0, stages=())

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
        system=(values["system"] or "").strip(),
        view=values["view"] or SLIDER,
        stages=tuple(read_stage(values, stage) for stage in STAGES),
    )


def read_stage(values: dict[str, Any], stage: str) -> Point:
    t = float(values[f"{stage}_t"] or 0)
    scheduled = values["schedule"] != Schedule() and t not in (0, 1)
    return Point(values[f"{stage}_round"] or PAIR, t, scheduled)


def check(studio: Studio, loaded: Loaded, question: Question) -> None:
    """Refuse what no decode could answer, before work starts."""
    if not question.prompt.strip():
        raise UserError("the prompt is empty; write a question, or click on one of the examples")
    if question.template not in TEMPLATES:
        raise UserError(f"there is no chat template {question.template!r}")
    counts = {"top-k": question.top_k, "the longest answer": question.limit, "the seed": question.seed}
    for name, value in counts.items():
        if value < 0:
            raise UserError(f"{name} must be at least 0, it is {value}")
    if question.system:
        for side in (loaded.pair.instruct, loaded.pair.thinking):
            side.check_system(question.system)
    room = getattr(loaded.pair.config, "max_position_embeddings", NO_LIMIT)
    if studio.demo:
        room = min(room, DEMO_PROMPT)
    length = prompt_length(loaded, question)
    if length >= room:
        what = "conversation" if question.exchanges else "prompt"
        raise UserError(f"the {what} is too long: {length} tokens, and there is room for {room}")


def prompt_length(loaded: Loaded, question: Question) -> int:
    """Tokens of the prompt and all that comes before it, in the column where that is most."""
    lengths = []
    for column in columns_of(question):
        conversation = conversation_of(question.exchanges, column, question.system)
        lengths.append(len(loaded.pair.thinking.prompt_ids(question.prompt, conversation)))
    return max(lengths)


def columns_of(question: Question) -> tuple[str, ...]:
    """The columns of the view that is shown."""
    return STAGES if question.view == BEFORE_AND_AFTER else COLUMNS


@dataclass(frozen=True)
class Batch:
    """Points to be decoded together, and which of them each column shows."""

    points: list[Point]
    columns: dict[str, int]  # {column: index of its point}
    frames: int = 0  # how many of the first points are frames of the rendered spectrum

    def column_of(self, index: int) -> str:
        """The column whose conversation a point goes on from; points without a column have the blend's."""
        return next((column for column, shown in self.columns.items() if shown == index), "blend")


def blend_alone(question: Question) -> Batch:
    return Batch([blended(question, question.t)], {"blend": 0})


def all_columns(question: Question) -> Batch:
    """Every column of the view that is shown."""
    points = list(question.stages)
    if question.view != BEFORE_AND_AFTER:
        ends = [Point(question.round, t) for t in (0.0, 1.0)]
        points = [ends[0], blended(question, question.t), ends[1]]
    return Batch(points, {column: i for i, column in enumerate(columns_of(question))})


def blended(question: Question, t: float) -> Point:
    return Point(question.round, t, scheduled=question.schedule != Schedule())


def spectrum(question: Question) -> Batch:
    """The points of the rendered spectrum and both ends; the blend shows the one nearest to the slider."""
    frames = [blended(question, t) for t in RENDERED_POINTS]
    nearest = min(range(len(frames)), key=lambda i: abs(frames[i].t - question.t))
    points = list(frames)
    ends = {"instruct": 0, "thinking": len(points) - 1}
    if question.schedule != Schedule():  # under which the last frame need not be the thinking checkpoint
        ends["thinking"] = len(points)
        points.append(Point(question.round, 1.0))
    return Batch(points, {**ends, "blend": nearest}, len(frames))


def rows_of(studio: Studio, loaded: Loaded, question: Question, batch: Batch) -> list[Row]:
    """One row for each point. Their rounds are in use: see `Studio.using`."""
    from thinkswitch import evaluate

    check(studio, loaded, question)
    recipes = recipes_of(studio, loaded, question, batch.points)
    rows = []
    for i, (point, recipe) in enumerate(zip(batch.points, recipes, strict=True)):
        conversation = conversation_of(question.exchanges, batch.column_of(i), question.system)
        row = evaluate.question(
            loaded.pair,
            loaded.preset,
            question.prompt,
            point.t,
            recipe,
            template_at(loaded, question, point),
            sampling_at(studio, loaded, question, point.t),
            question.seed,
            conversation,
        )
        rows.append(row)
    return rows


def recipes_of(studio: Studio, loaded: Loaded, question: Question, points: list[Point]) -> list[Recipe]:
    """The points as recipes, in their order."""
    found: dict[Point, Recipe] = {}
    for round_, scheduled in dict.fromkeys((point.round, point.scheduled) for point in points):
        asked = [p for p in dict.fromkeys(points) if (p.round, p.scheduled) == (round_, scheduled)]
        schedule = question.schedule if scheduled else Schedule()
        recipes = studio.points(loaded, round_, [point.t for point in asked], schedule)
        found |= dict(zip(asked, recipes, strict=True))
    return [found[point] for point in points]


def template_at(loaded: Loaded, question: Question, point: Point) -> str:
    """instruct | thinking | auto. At t = 1 a schedule makes a blend, which auto would take for thinking."""
    return loaded.preset.template if question.template == "auto" and point.scheduled else question.template


def sampling_at(studio: Studio, loaded: Loaded, question: Question, t: float) -> Sampling:
    from thinkswitch import evaluate

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
    return replace(sampling, max_new_tokens=min(limits))
