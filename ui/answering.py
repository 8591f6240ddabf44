"""A request of Compare while it is answered, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thinkswitch import problems
from thinkswitch.errors import UserError
from ui import answers
from ui.answers import Ask
from ui.decoding import News, Waiting
from ui.sessions import Request
from ui.studio import Studio
from ui.widgets import html
from ui.widgets.components import Answer

if TYPE_CHECKING:
    from thinkswitch.generate import Chunk
    from ui.pair_loader import Loaded

COLUMNS = ("instruct", "blend", "thinking")
PAIR_CHANGED = "The pair was changed meanwhile; press Run again."
LOADING_SECONDS = 0.3  # how often a request that waits for the pair looks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ends:
    """What the end columns show, or are about to show. It must not keep an old pair in memory."""

    ask: Ask
    loaded: weakref.ReferenceType[Loaded]
    rendered: bool = False  # the whole spectrum has been decoded

    def of(self, loaded: Loaded | None) -> bool:
        return loaded is not None and self.loaded() is loaded


def answer(
    studio: Studio, session_hash: str, click: int, ask: Ask, ts: list[float]
) -> threading.Thread | None:
    """Decode the points `ts` as one batch: one is the blend's, of several the first and last are the ends.

    A newer request of the page ends this one silently, Stop ends it visibly.
    """
    session = studio.sessions.get(session_hash)
    try:
        loaded = studio.ready()
    except UserError as error:  # nothing is superseded: the answers that open the page still come
        session.warn(studio.public(str(error)))
        session.write(None, {"status": html.error(studio.public(str(error)))})
        return None
    parts = ("blend",) if len(ts) == 1 else COLUMNS
    request = session.supersede(click, *parts)
    return start(Answering(studio, request, loaded, ask, ts, session_hash).run)


def answer_when_loaded(
    studio: Studio, session_hash: str, click: int, ask: Ask, short: int
) -> threading.Thread:
    """Answer when the pair is there, unless its answers may be longer than `short` tokens."""
    request = studio.sessions.get(session_hash).supersede(click, *COLUMNS)

    def wait_and_answer() -> None:
        loader = studio.loader
        while loader.loaded is None and not loader.failed and not request.superseded():
            request.write(status=html.quiet(f"{loader.status} …"))
            time.sleep(LOADING_SECONDS)
        loaded = loader.loaded
        if loaded is None:
            request.finish(status=html.error(studio.public(loader.status)))
        elif ask.prompt.strip() and loaded.preset.think_tokens <= short:
            Answering(studio, request, loaded, ask, [0.0, ask.t, 1.0], session_hash).run()
        else:
            request.finish(status="")

    return start(wait_and_answer)


def start(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@dataclass
class Answering:
    """One request, from its rows to its last words on the page."""

    studio: Studio
    request: Request
    loaded: Loaded
    ask: Ask
    ts: list[float]
    session_hash: str
    began: float = field(default_factory=time.monotonic)
    chunks: dict[int, Chunk] = field(default_factory=dict)  # the latest of each row
    seconds: dict[int, float] = field(default_factory=dict)  # of each row that has ended

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
        rows = answers.rows_of(self.studio, self.loaded, self.ask, self.ts)
        if len(self.ts) > 1 and not self.request.superseded():
            self.request.session.ends = Ends(self.ask, weakref.ref(self.loaded))
        self.request.working = True
        decode = self.studio.decode(self.loaded, rows, self.given_up, self.ask.round, self.session_hash)
        for news in decode:
            if isinstance(news, Waiting):
                self.request.write(status=html.quiet(f"{news.ahead} ahead of you …"))
            elif not self.pair_changed:
                self.show_progress(news)
        self.conclude()

    def given_up(self) -> bool:
        return self.request.superseded() or self.request.stopped()

    # ---- what the page shows

    def show_progress(self, news: News) -> None:
        self.chunks |= news.chunks
        self.seconds |= {row: ended - self.began for row, ended in news.ended_at.items()}
        done, count = len(self.seconds), len(self.ts)
        if done < count:
            film: dict = {"film": []} if count > 1 else {}  # frames of another question would mislead
            status = answers.progress_line(self.ask, count, done)
            self.request.write(**self.cards(), **film, status=status)

    def conclude(self) -> None:
        if self.pair_changed and not self.request.stopped():
            self.fail(html.error(PAIR_CHANGED))
            return
        stopped = any(chunk.finish == "cancel" for chunk in self.chunks.values())
        changes: dict = {**self.cards()}
        if stopped:
            self.forget_ends()
        if len(self.ts) > 1:  # the frames are those of another question, or new ones
            rendered = self.ts == answers.RENDERED_POINTS and not stopped
            changes["film"] = self.frames() if rendered else []
            if rendered and not self.request.superseded():
                self.request.session.ends = Ends(self.ask, weakref.ref(self.loaded), rendered=True)
        seconds = time.monotonic() - self.began
        status = answers.result_line(self.ask, len(self.ts), seconds, stopped)
        self.request.finish(**changes, status=status)

    def fail(self, message: str) -> None:
        self.forget_ends()
        self.request.finish(status=message)

    def forget_ends(self) -> None:
        """Columns that are not whole are decoded again when the slider moves."""
        ends: Ends | None = self.request.session.ends
        if ends is not None and ends.ask is self.ask:
            self.request.session.ends = None

    def cards(self) -> dict[str, Answer]:
        nearest = min(range(len(self.ts)), key=lambda i: abs(self.ts[i] - self.ask.t))
        if len(self.ts) == 1:
            return {"blend": self.card(nearest)}
        last = len(self.ts) - 1
        return {"instruct": self.card(0), "blend": self.card(nearest), "thinking": self.card(last)}

    def card(self, row: int) -> Answer:
        seconds = self.seconds.get(row, time.monotonic() - self.began)
        problem = self.studio.loader.problems.get(problems.Problem(self.ask.prompt).key)
        return answers.card(self.ts[row], self.chunks.get(row), seconds, problem)

    def frames(self) -> list[dict]:
        return [{**self.card(row), "t": t} for row, t in enumerate(self.ts)]
