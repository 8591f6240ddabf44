"""What a click in Compare asks for. Its answer comes through the session's screen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from markupsafe import Markup

from thinkswitch.errors import UserError
from ui.compare import trace_curve
from ui.compare.answer_text import empty_card
from ui.compare.answering import EndColumns, answer, answer_when_loaded, start
from ui.compare.conversation import Exchange, exchange_shown
from ui.compare.question import (
    BEFORE_AND_AFTER,
    RENDERED_POINTS,
    Batch,
    Question,
    all_columns,
    blend_alone,
    check,
    columns_of,
    spectrum,
)
from ui.sessions import Session
from ui.studio import Studio
from ui.widgets import html

NEW_CONVERSATION = "A new conversation: write a prompt, or click on an example."
SHORT = 256  # answers of at most so many tokens are decoded without being asked for


@dataclass(frozen=True)
class Click:
    """A click of a page, and what the page shows when it comes."""

    session_hash: str
    number: int  # in the order of the page's clicks
    frames: int  # how many frames of a rendered spectrum the browser has
    question: Question
    follow_up: str = ""  # what the box below the answers holds


@dataclass(frozen=True)
class Handlers:
    """What a click asks for."""

    studio: Studio

    def session(self, click: Click) -> Session:
        """The session, whose screen forgets rendered frames that the browser has forgotten."""
        session = self.studio.sessions.get(click.session_hash)
        if not click.frames and session.shows("frames"):
            session.write(None, {"frames": []})
        return session

    def asked(self, click: Click) -> Question:
        """The click's question, in the conversation that the page is in."""
        return replace(click.question, exchanges=self.earlier(click))

    def earlier(self, click: Click) -> tuple[Exchange, ...]:
        """The conversation of the view that is shown; the other one has its own columns, and its own."""
        return self.session(click).exchanges.get(click.question.view, ())

    def answer(self, click: Click, batch: Batch) -> None:
        answer(self.studio, click.session_hash, click.number, self.asked(click), batch)

    def all_columns(self, click: Click) -> None:
        self.answer(click, all_columns(click.question))
        self.curve(click)

    def spectrum(self, click: Click) -> None:
        self.answer(click, spectrum(click.question))

    def setting_changed(self, click: Click) -> None:
        if self.studio.preset.think_tokens <= SHORT:
            self.all_columns(click)
        else:
            status = html.quiet("Press Run to see it with these settings.")
            self.session(click).write(None, {"status": status})
            self.curve(click)

    def slider_released(self, click: Click) -> None:
        """Decode only the blend where the end columns stand, and nothing where the spectrum is rendered."""
        question = self.asked(click)
        session = self.session(click)
        columns: EndColumns | None = session.end_columns
        frames = session.shows("frames")
        if columns is None or not columns.of(self.studio.loaded):
            self.all_columns(click)
        elif frames and columns.rendered and question.same_but_for_t(columns.question):
            nearest = min(frames, key=lambda frame: abs(frame["t"] - question.t))
            session.write(None, {"blend": nearest, "status": rendered_line(question.t)})
        elif question.same_end_columns(columns.question):
            self.answer(click, blend_alone(question))
        else:
            self.all_columns(click)

    def schedule_changed(self, click: Click) -> None:
        """The ends are the checkpoints themselves; the blend and the curve follow the schedule."""
        if self.session(click).end_columns is None:  # nothing is answered yet
            self.curve(click)
        elif self.studio.preset.think_tokens <= SHORT:
            self.slider_released(click)
            self.curve(click)
        else:
            self.setting_changed(click)

    def greet(self, click: Click) -> None:
        """The page opens with answers, where they cost nothing."""
        answer_when_loaded(self.studio, click.session_hash, click.number, self.asked(click), SHORT)
        self.curve(click)

    def stop(self, click: Click) -> None:
        self.session(click).stop(click.number)

    # ---- the curve

    def curve(self, click: Click) -> None:
        """Draw the curve of the first view in a thread of its own."""
        question = self.asked(click)
        if question.view == BEFORE_AND_AFTER:
            return
        request = self.session(click).supersede(click.number, "trace_chart")
        start(trace_curve.draw, self.studio, request, question)

    # ---- conversation

    def follow_up(self, click: Click) -> Question | None:
        """Ask the follow-up question; returns it as the page's new question, None where it is refused."""
        session = self.session(click)
        try:
            if not click.follow_up.strip():
                raise UserError("the follow-up question is empty; write one")
            loaded = self.studio.ready()
            shown = session.asked or click.question
            exchange = exchange_shown(session, shown.prompt, columns_of(click.question))
            exchanges = (*self.earlier(click), exchange)
            question = replace(click.question, prompt=click.follow_up, exchanges=exchanges)
            check(self.studio, loaded, question)
        except UserError as error:
            session.warn(self.studio.public(str(error)))
            session.write(None, {})
            return None
        session.exchanges[question.view] = exchanges
        self.all_columns(replace(click, question=question))
        return question

    def example(self, click: Click) -> None:
        """A prompt of its own begins a new conversation."""
        self.session(click).exchanges.pop(click.question.view, None)
        self.all_columns(click)

    def new_conversation(self, click: Click) -> None:
        """Forget the earlier turns and what is shown."""
        session = self.session(click)
        session.exchanges.pop(click.question.view, None)
        session.end_columns = None
        batch = all_columns(click.question)
        request = session.supersede(click.number, *batch.columns, "trace_chart")
        cards = {column: empty_card(column, batch.points[row], "") for column, row in batch.columns.items()}
        request.finish(**cards, trace_chart="", status=html.quiet(NEW_CONVERSATION))


def rendered_line(t: float) -> Markup:
    points = len(RENDERED_POINTS)
    return html.quiet(f"Rendered: the nearest of {points} points is shown. Run decodes t = {t:g} itself.")
