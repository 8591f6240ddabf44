"""From what a visitor asks to rows of a batch, and from the chunks of a row to what a column shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from thinkswitch import grading, problems
from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from ui.run_control import PAIR
from ui.studio import DEMO_PROMPT, DEMO_TOKENS, Studio
from ui.widgets import charts, html, theme
from ui.widgets.components import Answer

if TYPE_CHECKING:
    from thinkswitch.generate import Chunk, Row
    from thinkswitch.weights.checkpoint import Checkpoint
    from ui.pair_loader import Loaded

RENDERED_POINTS = [i / 10 for i in range(11)]  # the points of the rendered spectrum
PROBABILITY_POINTS = [i / 20 for i in range(21)]  # the points of the probability strip
POINTS_A_TURN = 3  # a long prompt must not keep the other visitors waiting
TEMPLATES = ("auto", "instruct", "thinking")
NO_LIMIT = 1 << 20
ENDINGS = {"length": ", cut off there", "cancel": ", stopped"}
ODD_TRACES = {"wrong close": " · closed by a wrong tag", "doubled": " · tags doubled"}


@dataclass(frozen=True)
class Ask:
    """What a visitor asks, and how."""

    prompt: str
    t: float
    round: str
    template: str  # auto | instruct | thinking
    how: str  # as the preset has it | greedy | custom
    temperature: float
    top_p: float
    top_k: int
    limit: int
    seed: int
    schedule: Schedule

    def same_but_for_t(self, other: Ask) -> bool:
        return replace(self, t=0) == replace(other, t=0)

    def same_ends(self, other: Ask) -> bool:
        """Whether instruct and thinking would say the same again: only t and the schedule may differ."""
        return self.same_but_for_t(replace(other, schedule=self.schedule))


def read_ask(values: dict[str, Any]) -> Ask:
    """An Ask from the values of the components; an empty box counts as its neutral value."""
    return Ask(
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


def check(studio: Studio, loaded: Loaded, ask: Ask) -> None:
    """Refuse what no decode could answer, before work starts."""
    if not ask.prompt.strip():
        raise UserError("the prompt is empty; write a question, or click on one of the examples")
    if ask.template not in TEMPLATES:
        raise UserError(f"there is no chat template {ask.template!r}")
    counts = {"top-k": ask.top_k, "the most new tokens": ask.limit, "the seed": ask.seed}
    for name, value in counts.items():
        if value < 0:
            raise UserError(f"{name} must be at least 0, it is {value}")
    room = getattr(loaded.pair.config, "max_position_embeddings", NO_LIMIT)
    if studio.demo:
        room = min(room, DEMO_PROMPT)
    length = len(loaded.pair.thinking.prompt_ids(ask.prompt))
    if length >= room:
        raise UserError(f"the prompt is too long: {length} tokens, and there is room for {room}")


def rows_of(studio: Studio, loaded: Loaded, ask: Ask, ts: list[float]) -> list[Row]:
    """One row for each t."""
    from thinkswitch import evaluate
    from thinkswitch.generate import Sampling

    check(studio, loaded, ask)
    rows = []
    for t, point in zip(ts, studio.points(loaded, ask.round, ts, ask.schedule), strict=True):
        role = "instruct" if t == 0 else "thinking"
        sampling = evaluate.sampling(loaded.preset, role, ask.how == "greedy")
        limits = [sampling.max_new_tokens]
        if ask.limit:
            limits.append(ask.limit)
        if studio.demo:
            limits.append(DEMO_TOKENS)
        if ask.how == "custom":
            sampling = Sampling(ask.temperature, ask.top_p, ask.top_k)
        sampling = replace(sampling, max_new_tokens=min(limits))
        row = evaluate.question(
            loaded.pair, loaded.preset, ask.prompt, t, point, ask.template, sampling, ask.seed
        )
        rows.append(row)
    return rows


def card(t: float, chunk: Chunk | None, seconds: float, problem: problems.Problem | None) -> Answer:
    """What a column shows of a row; `chunk` is None before its first token."""
    shown = Answer(title=title(t), edge=theme.blend_colour(t))
    if chunk is None:
        return {**shown, "empty": "…"}
    speed = chunk.tokens / max(1e-3, seconds)
    ending = ENDINGS.get(chunk.finish or "", "")
    return {
        **shown,
        "trace": chunk.trace,
        "trace_title": "trace" + odd_trace(chunk),
        "thinking": chunk.thinking and not chunk.finish,
        "answer": chunk.answer,
        "mark": mark(chunk, problem),
        "foot": f"{chunk.tokens} tokens{ending} · {seconds:.2f} s · {speed:,.0f} tokens/s",
        "empty": "no answer" if chunk.finish else "…",
    }


def title(t: float) -> str:
    if t == 0:
        return "instruct"
    return "thinking" if t == 1 else f"blend · t = {t:g}"


def odd_trace(chunk: Chunk) -> str:
    if chunk.state == "open" and chunk.finish:
        return " · never closed"
    return ODD_TRACES.get(chunk.state, "")


def mark(chunk: Chunk, problem: problems.Problem | None) -> str:
    """Whether a finished answer to a held-out problem is right."""
    if problem is None or chunk.finish in (None, "cancel"):
        return ""
    return "✓" if grading.grade(chunk.answer, problem.answer, problem.kind) else "✗"


def progress_line(ask: Ask, rows: int, done: int) -> str:
    return html.quiet(f"{where(ask)}: decoding {what(rows)}, {done} of {rows} done")


def result_line(ask: Ask, rows: int, seconds: float, stopped: bool) -> str:
    outcome = "stopped after" if stopped else "in"
    return html.quiet(f"{where(ask)}: {what(rows)}, {outcome} {seconds:.2f} s")


def where(ask: Ask) -> str:
    schedule = "" if ask.schedule == Schedule() else ", with the schedule of Explore"
    return ask.round + schedule


def what(rows: int) -> str:
    return "the middle" if rows == 1 else f"{rows} points as one batch"


def probability_strip(studio: Studio, ask: Ask, superseded: Callable[[], bool]) -> str | None:
    """The chart of the strip, from one forward pass of the prompt at each point; None leaves the old one.

    `superseded` is asked between turns.
    """
    loaded = studio.loaded
    if loaded is None or not ask.prompt.strip():
        return None
    check(studio, loaded, ask)
    template = template_of(loaded, ask)
    opens = [1.0] * len(PROBABILITY_POINTS)
    if not template.template_opens_think:
        opens = probabilities(studio, loaded, ask, template, superseded)
    if superseded():
        return None
    return charts.probability(PROBABILITY_POINTS, opens, ask.t)


def template_of(loaded: Loaded, ask: Ask) -> Checkpoint:
    name = loaded.preset.template if ask.template == "auto" else ask.template
    return getattr(loaded.pair, name)


def probabilities(
    studio: Studio, loaded: Loaded, ask: Ask, template: Checkpoint, superseded: Callable[[], bool]
) -> list[float]:
    """The probability of opening a trace at PROBABILITY_POINTS, a few points in each turn."""
    from thinkswitch import evaluate

    recipes = studio.points(loaded, ask.round, PROBABILITY_POINTS, ask.schedule)
    opens: list[float] = []
    while len(opens) < len(recipes) and not superseded():
        some = recipes[len(opens) : len(opens) + POINTS_A_TURN]
        with studio.turn():
            opens += evaluate.probability_of_think(loaded.blend, template, ask.prompt, some)
    return opens
