"""The curve of Compare: the probability, over t, that an answer begins with a trace.

Each point is a forward pass of the prompt through weights of its own, so the answers go first: a few points
once their first words are there, then, when nothing else is asked, more where the curve bends.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thinkswitch.errors import UserError
from ui.compare import question as questions
from ui.compare.conversation import conversation_of
from ui.compare.question import Question
from ui.sessions import PageRequest
from ui.studio import Studio
from ui.widgets import charts

if TYPE_CHECKING:
    from thinkswitch.weights.checkpoint import Checkpoint
    from ui.pair_loader import Loaded

FINEST = 20  # points lie at multiples of 1 / FINEST
COARSE = range(0, FINEST + 1, 5)
BEND = 0.02  # where neighbours differ by more, points are put between them
POINTS_A_TURN = 3  # a long prompt must not keep the other visitors waiting
NO_CURVE = ""  # that of another prompt would mislead
LOOK_SECONDS = 0.05  # how often somebody who waits for the answers looks

Probabilities = dict[int, float]  # {multiple of 1 / FINEST: probability}


@dataclass
class Curve:
    """What is known of a question's curve. A page keeps its last one."""

    of: object  # what it depends on, see `depends_on`
    known: Probabilities = field(default_factory=dict)


def draw(studio: Studio, request: PageRequest, question: Question) -> None:
    """Write the curve onto the page, better and better; an empty one where the question is refused."""
    try:
        studio.loader.wait(request.superseded)  # a page may open before the pair is there
        for chart in growing(studio, request, question):
            request.write(trace_chart=chart)
    except UserError:  # the status line has said it
        request.write(trace_chart=NO_CURVE)
    finally:
        request.finish()


def growing(studio: Studio, request: PageRequest, question: Question) -> Iterator[str]:
    """The chart, whenever it is known at more points. It ends early when nobody waits for it any more."""
    loaded = studio.loaded
    if loaded is None:
        return
    questions.check(studio, loaded, question)

    def given_up() -> bool:
        return request.superseded() or studio.loaded is not loaded

    curve = curve_of(request, loaded, question)
    is_known = set(COARSE) <= curve.known.keys()
    yield chart(studio, curve.known, question) if is_known else NO_CURVE
    with studio.using(loaded, question.round):
        while missing := next_points(curve.known):
            coarse = curve.known.keys() < set(COARSE)
            wait_for_answers(request, given_up, first_words=coarse)
            some = missing[:POINTS_A_TURN]
            if given_up():
                return
            found = probabilities(studio, loaded, question, some)
            if given_up():  # the round's adapters may be gone
                return
            curve.known |= dict(zip(some, found, strict=True))
            if set(COARSE) <= curve.known.keys():
                yield chart(studio, curve.known, question)


def curve_of(request: PageRequest, loaded: Loaded, question: Question) -> Curve:
    """The page's last curve if it is this question's, else a new one."""
    of = depends_on(loaded, question)
    session = request.session
    if session.curve is None or session.curve.of != of:
        session.curve = Curve(of)
        if template_of(loaded, question).template_opens_think:
            session.curve.known = dict.fromkeys(range(FINEST + 1), 1.0)
    return session.curve


def depends_on(loaded: Loaded, question: Question) -> object:
    template = template_of(loaded, question).name
    said = (question.prompt, question.system, question.exchanges)
    return id(loaded), template, question.round, question.schedule, said


def next_points(known: Probabilities) -> list[int]:
    """The coarse points first, then the middles of gaps across which the curve changes."""
    coarse = [point for point in COARSE if point not in known]
    if coarse:
        return coarse
    points = sorted(known)
    gaps = itertools.pairwise(points)
    return [(a + b) // 2 for a, b in gaps if b - a > 1 and abs(known[b] - known[a]) > BEND]


def wait_for_answers(request: PageRequest, given_up: Callable[[], bool], first_words: bool) -> None:
    """Until the page's answers have begun, or have ended."""
    while not given_up():
        answers = request.session.unfinished(questions.COLUMNS)
        if first_words:
            answers = [answer for answer in answers if not answer.has_words]
        if not answers:
            return
        time.sleep(LOOK_SECONDS)


def probabilities(studio: Studio, loaded: Loaded, question: Question, points: list[int]) -> list[float]:
    from thinkswitch import evaluate

    at = [questions.blended(question, point / FINEST) for point in points]
    recipes = questions.recipes_of(studio, loaded, question, at)
    conversation = conversation_of(question.exchanges, "blend", question.system)
    template = template_of(loaded, question)
    with studio.turn():
        return evaluate.probability_of_think(loaded.blend, template, question.prompt, recipes, conversation)


def template_of(loaded: Loaded, question: Question) -> Checkpoint:
    name = loaded.preset.template if question.template == "auto" else question.template
    return getattr(loaded.pair, name)


def chart(studio: Studio, known: Probabilities, question: Question) -> str:
    points = sorted(known)
    opens = [known[i] for i in points]
    scores = studio.sweep_of(question.round, question.schedule) or []
    return charts.probability([i / FINEST for i in points], opens, question.t, scores)
