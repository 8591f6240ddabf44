"""The curve of Compare: coarse, then fine; after the answers; never of another prompt or pair."""

import dataclasses
import itertools

import pytest

from thinkswitch.errors import UserError
from ui.compare import question, trace_curve
from ui.compare.clicks import Click, Handlers
from ui.compare.question import (
    COLUMNS,
)
from unit.compare.helpers import ASK, grow, last_screen


def test_a_long_prompt_is_refused_before_the_strip_is_asked(page):
    """The columns refused 4000 characters; the strip took them 21 times, while everybody waited for 17 s."""
    long = dataclasses.replace(ASK, prompt="7 + " * 2000 + "1")
    too_long = r"the prompt is too long: .* room for 1024"
    with pytest.raises(UserError, match=too_long):
        question.check(page, page.loaded, long)
    request = page.sessions.get("s").supersede(1, "trace_chart")
    with pytest.raises(UserError, match=too_long):
        list(trace_curve.growing(page, request, long))
    for field, value in (("top_k", -1), ("limit", -5), ("seed", -2)):
        with pytest.raises(UserError, match=f"must be at least 0, it is {value}"):
            question.check(page, page.loaded, dataclasses.replace(ASK, **{field: value}))


def test_the_curve_comes_coarse_then_fine_where_it_bends(page):
    """All of 21 points were computed before any was shown, beside the answers that somebody waited for."""
    drawn = grow(page)
    ts, opens = drawn[0]
    assert ts == [0, 0.25, 0.5, 0.75, 1] and opens[0] < 0.01 and opens[-1] > 0.99
    ts, opens = drawn[-1]
    pairs = list(itertools.pairwise(zip(ts, opens, strict=True)))
    assert len(ts) < 21 and ts == sorted(set(ts))
    assert all(abs(q - p) <= trace_curve.BEND or b - a < 0.051 for (a, p), (b, q) in pairs)
    assert len(grow(page)) == 1  # known by now


def test_the_curve_waits_for_the_answers(page, monkeypatch):
    """It took turns with the columns: half of the model's time, while somebody waited for words."""
    session = page.sessions.get("s")
    answers = session.supersede(1, *COLUMNS)
    told = []
    probabilities = trace_curve.probabilities

    def noting(*args):
        told.append((answers.has_words, answers.finished))
        return probabilities(*args)

    monkeypatch.setattr(trace_curve, "probabilities", noting)
    looks = itertools.count()

    def sleep(seconds):
        if next(looks) == 2:
            answers.has_words = True
        elif next(looks) > 4:
            answers.finish()

    monkeypatch.setattr(trace_curve.time, "sleep", sleep)
    grow(page, request=session.supersede(2, "trace_chart"))
    coarse, fine = told[:2], told[2:]
    assert coarse == [(True, False)] * 2 and fine and set(fine) == {(True, True)}


def test_the_curve_gives_up_when_superseded(page):
    session = page.sessions.get("s")
    first = session.supersede(1, "trace_chart")
    session.supersede(2, "trace_chart")
    assert grow(page, request=first) == []


def test_m1_a_refused_prompt_takes_the_curve_and_the_answers_of_the_one_before_away(page):
    """Answers, marks and the curve of the former prompt stayed under the new one."""
    handlers = Handlers(page)
    handlers.all_columns(Click("s", 1, 0, ASK))
    before = last_screen(page)
    assert before.parts["trace_chart"] and before.parts["thinking"]["answer"]
    handlers.all_columns(Click("s", 2, 0, dataclasses.replace(ASK, prompt=" ")))
    after = last_screen(page)
    assert after.parts["trace_chart"] == ""
    for column in COLUMNS:
        assert not after.parts[column].get("answer") and not after.parts[column].get("foot")


def test_a_chart_of_the_old_pair_gives_up(page, monkeypatch):
    """It held the old pair in memory, turn by turn, while the new one was measured against what is free."""
    turns = []
    turn = page.turn
    monkeypatch.setattr(page, "turn", lambda: turns.append(1) or turn())
    pair = page.loaded
    request = page.sessions.get("s").supersede(1, "trace_chart")
    probabilities = trace_curve.probabilities

    def replacing(*args):
        monkeypatch.setattr(page.loader, "loaded", dataclasses.replace(pair))
        return probabilities(*args)

    monkeypatch.setattr(trace_curve, "probabilities", replacing)
    assert list(trace_curve.growing(page, request, ASK)) == [trace_curve.NO_CURVE]
    assert len(turns) == 1 and pair.rounds.pinned() == set()


def test_the_curve_of_another_prompt_is_taken_away_at_once(page):
    """It stood under the new prompt until the first words were there."""
    grow(page)
    request = page.sessions.get("s").supersede(2, "trace_chart")
    other = dataclasses.replace(ASK, prompt="What is 2 + 3 + 4?")
    assert next(trace_curve.growing(page, request, other)) == trace_curve.NO_CURVE
