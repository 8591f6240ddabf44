"""A page of Compare on the shared pair."""

import pytest

from conftest import wait
from ui.compare import clicks as clicks_module
from ui.compare.clicks import Click, Handlers
from ui.compare.question import (
    COLUMNS,
    STAGES,
)
from ui.sessions import Sessions


@pytest.fixture
def page(studio):
    """The shared pair with pages of its own."""
    studio.sessions = Sessions()
    rounds = studio.loaded.rounds
    yield studio
    studio.sessions.get("s").supersede(None, *COLUMNS, *STAGES, "trace_chart")
    wait(lambda: not rounds.pinned())  # or a curve that is still drawn would use the pair in the next test


@pytest.fixture
def slow(monkeypatch):
    """Every step is a turn and a message."""
    monkeypatch.setattr("ui.decoding.UPDATE_SECONDS", 0)
    monkeypatch.setattr("ui.scheduling.TURN_SECONDS", 0)


@pytest.fixture
def clicks(page, monkeypatch):
    """`clicks(handler, click, ask, frames=0)`; `clicks.asked` are the points that were decoded for."""
    handlers = Handlers(page)

    def go(name, click, asked, frames=0):
        getattr(handlers, name)(Click("s", click, frames, asked))

    go.asked = []
    begin = clicks_module.answer

    def noting(*args):
        go.asked.append(args[-1])
        return begin(*args)

    monkeypatch.setattr(clicks_module, "answer", noting)
    return go
