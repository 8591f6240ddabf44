"""A request of Compare while it is answered, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from thinkswitch import problems
from thinkswitch.errors import UserError
from ui.compare import answer_text
from ui.compare.conversation import earlier_turns
from ui.compare.question import Batch, Question, all_columns, columns_of, rows_of
from ui.decoding import DecodeUpdate, Waiting
from ui.pair_loader import LOOK_SECONDS
from ui.sessions import PageRequest
from ui.studio import Studio
from ui.widgets import html, rich_text
from ui.widgets.components import Answer, EarlierTurn

if TYPE_CHECKING:
    from thinkswitch.generate import Chunk
    from ui.pair_loader import Loaded

PAIR_CHANGED = "The pair was changed meanwhile; press Run again."
GROWTH = 0.02  # rendering 6,000 characters takes 25 ms, too much for every message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EndColumns:
    """What instruct and thinking show, or are about to show. It must not keep an old pair in memory."""

    question: Question
    loaded: weakref.ReferenceType[Loaded]
    rendered: bool = False  # the whole spectrum has been decoded

    def of(self, loaded: Loaded | None) -> bool:
        return loaded is not None and self.loaded() is loaded


def answer(
    studio: Studio, session_hash: str, click: int, question: Question, batch: Batch
) -> threading.Thread | None:
    """Decode a batch for the columns that show its points.

    A newer request of the page ends this one silently, Stop ends it visibly.
    """
    session = studio.sessions.get(session_hash)
    try:
        loaded = studio.ready()
    except UserError as error:  # nothing is superseded: the answers that open the page still come
        session.warn(studio.public(str(error)))
        session.write(None, {"status": html.error(studio.public(str(error)))})
        return None
    request = session.supersede(click, *batch.columns)
    session.asked = question
    answering = Answering(studio, request, loaded, question, batch, session_hash)
    answering.claim_end_columns()  # now: the next click may come before the thread has begun
    return start(answering.run)


def answer_when_loaded(
    studio: Studio, session_hash: str, click: int, question: Question, short: int
) -> threading.Thread:
    """Answer when the pair is there, unless its answers may be longer than `short` tokens."""
    batch = all_columns(question)
    request = studio.sessions.get(session_hash).supersede(click, *batch.columns)

    def wait_and_answer() -> None:
        loader = studio.loader
        while loader.loaded is None and not loader.failed and not request.given_up():
            request.write(status=html.quiet(f"{loader.status} …"))
            time.sleep(LOOK_SECONDS)
        loaded = loader.loaded
        if request.given_up():
            request.finish()
        elif loaded is None:
            request.finish(status=html.error(studio.public(loader.status)))
        elif question.prompt.strip() and loaded.preset.think_tokens <= short:
            request.session.asked = question
            answering = Answering(studio, request, loaded, question, batch, session_hash)
            answering.claim_end_columns()
            answering.run()
        else:
            request.finish(status="")

    return start(wait_and_answer)


def start(work: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


@dataclass
class Answering:
    """One request, from its rows to its last words on the page."""

    studio: Studio
    request: PageRequest
    loaded: Loaded
    question: Question
    batch: Batch
    session_hash: str
    began: float = field(default_factory=time.monotonic)
    seen: DecodeUpdate = field(default_factory=DecodeUpdate)  # all updates as one
    rendered_rows: dict[int, tuple[bool, int, str]] = field(default_factory=dict)  # finished, length, HTML

    @property
    def pair_changed(self) -> bool:
        return self.studio.loaded is not self.loaded

    def run(self) -> None:
        try:
            self.decode()
        except UserError as error:
            sentence = self.studio.public(str(error))
            if not self.request.superseded():
                self.request.session.warn(sentence)
            self.fail(html.error(sentence))
        except Exception as error:
            logger.exception("a decode failed")
            self.fail(html.error(f"{type(error).__name__}: {self.studio.public(str(error))}"))
        finally:
            if not self.request.finished:
                self.request.finish()

    def decode(self) -> None:
        with ExitStack() as stack:
            for round_ in {point.round for point in self.batch.points}:
                stack.enter_context(self.studio.using(self.loaded, round_))
            rows = rows_of(self.studio, self.loaded, self.question, self.batch)
            self.request.working = True
            self.request.write(**self.cards(), status=html.quiet("Reading the prompt …"))
            given_up = self.request.given_up
            for update in self.studio.decode(self.loaded, rows, given_up, self.session_hash):
                if isinstance(update, Waiting):
                    self.show_waiting(update.ahead)
                elif not self.pair_changed:
                    self.show_progress(update)
        self.conclude()

    # ---- what the page shows

    def show_waiting(self, ahead: int) -> None:
        if ahead:
            self.request.write(status=html.quiet(f"{ahead} ahead of you …"))
        self.began = time.monotonic()  # time in the queue says nothing about the model's speed

    def show_progress(self, update: DecodeUpdate) -> None:
        self.seen.merge(update)
        self.request.has_words = True
        done = sum(bool(chunk.finish) for chunk in self.seen.chunks.values())
        count = len(self.batch.points)
        if done < count:
            frames: dict = {"frames": []} if self.fills_ends else {}  # another question's would mislead
            status = answer_text.progress_line(self.question, count, done)
            self.request.write(**self.cards(), **frames, status=status)

    def conclude(self) -> None:
        if self.pair_changed and not self.request.stopped():
            self.fail(html.error(PAIR_CHANGED))
            return
        stopped = any(chunk.finish == "cancel" for chunk in self.seen.chunks.values())
        changes: dict = {**self.cards()}
        if stopped:
            self.forget_end_columns()
        if self.fills_ends:  # the frames are those of another question, or new ones
            rendered = self.batch.frames > 0 and not stopped
            changes["frames"] = self.frames() if rendered else []
            if rendered:
                self.claim_end_columns(rendered=True)
        seconds = time.monotonic() - self.began
        same = self.loaded.pair.same_weights and not self.trained
        status = answer_text.result_line(self.question, len(self.batch.points), seconds, stopped, same)
        self.request.finish(**changes, status=status)

    def fail(self, message: str) -> None:
        self.forget_end_columns()
        cards = {} if self.seen.chunks else self.refused_cards()  # another prompt's answers would mislead
        self.request.finish(**cards, status=message)

    @property
    def fills_ends(self) -> bool:
        """Whether instruct and thinking of the first view are decoded."""
        return "instruct" in self.batch.columns

    @property
    def trained(self) -> bool:
        """Whether a round after round 0 is shown."""
        keys = [self.studio.round_key(point.round) for point in self.batch.points]
        return any(key is not None and key[1] > 0 for key in keys)

    def claim_end_columns(self, rendered: bool = False) -> None:
        if self.fills_ends and not self.request.superseded():
            columns = EndColumns(self.question, weakref.ref(self.loaded), rendered)
            self.request.session.end_columns = columns

    def forget_end_columns(self) -> None:
        """Columns that are not whole are decoded again when the slider moves."""
        columns: EndColumns | None = self.request.session.end_columns
        if columns is not None and columns.question is self.question:
            self.request.session.end_columns = None

    def cards(self) -> dict[str, Answer]:
        return {column: self.card(row, column) for column, row in self.batch.columns.items()}

    @cached_property
    def turns(self) -> dict[str, list[EarlierTurn]]:
        """The conversation so far, of each column."""
        exchanges = self.question.exchanges
        return {column: earlier_turns(exchanges, column) for column in columns_of(self.question)}

    def empty_card(self, row: int, column: str, hint: str = "…") -> Answer:
        """A column before its first token."""
        card = answer_text.empty_card(column, self.batch.points[row], hint)
        return {**card, "turns": self.turns[column]}

    def refused_cards(self) -> dict[str, Answer]:
        """Columns of a question that was not answered."""
        return {column: self.empty_card(row, column, "") for column, row in self.batch.columns.items()}

    def card(self, row: int, column: str) -> Answer:
        problem = self.studio.loader.problems.get(problems.Problem(self.question.prompt).key)
        chunk = self.seen.chunks.get(row)
        if chunk is None:
            return self.empty_card(row, column)
        cost = answer_text.Cost(
            tokens=chunk.tokens,
            trace_tokens=self.seen.trace_tokens.get(row, 0),
            seconds=(self.seen.latest[row].at if chunk.finish else time.monotonic()) - self.began,
            speed=self.seen.speed(row),
        )
        shown = answer_text.answer_shown(chunk, cost, problem, self.rendered(row, chunk))
        return {**self.empty_card(row, column), **shown}

    def rendered(self, row: int, chunk: Chunk) -> str:
        """The answer as HTML. A long one is rendered anew when it has grown by 2 %, and when it has ended."""
        finished, length = bool(chunk.finish), len(chunk.answer)
        was_finished, old_length, rendered = self.rendered_rows.get(row, (False, 0, ""))
        if not was_finished and (finished or length > old_length * (1 + GROWTH)):
            rendered = rich_text.render(chunk.answer, finished)
            self.rendered_rows[row] = (finished, length, rendered)
        return rendered

    def frames(self) -> list[dict]:
        points = enumerate(self.batch.points[: self.batch.frames])
        return [{**self.card(row, self.batch.column_of(row)), "t": point.t} for row, point in points]
