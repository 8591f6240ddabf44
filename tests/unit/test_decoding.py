"""Decodes of many visitors on one model: who waits, and how often a page hears."""

import itertools
from contextlib import contextmanager

import pytest

from thinkswitch.generate import Chunk
from ui import decoding, scheduling
from ui.decoding import DecodeLine, Place, Waiting, read_in_turns


def place(given_up=False, session=None):
    return Place(lambda: given_up, session)


@contextmanager
def line_of(*places):
    line = DecodeLine()
    joined = [line.join(one) for one in places]
    for one in joined:
        one.__enter__()
    yield line
    for one in joined:
        one.__exit__(None, None, None)
    assert len(line) == 0


def test_what_was_given_up_is_not_counted_as_ahead():
    """One visitor pressed Run 150 times and was told that 34 were ahead of him: his own clicks."""
    mine = place()
    with line_of(place(), *[place(given_up=True) for _ in range(34)], place(), mine) as line:
        assert line.ahead(mine) == 2


def test_a_decode_waits_while_four_are_at_work(monkeypatch):
    monkeypatch.setattr(decoding, "LOOK_SECONDS", 0)
    working = [place() for _ in range(4)]
    mine, later = place(), place()
    with line_of(*working, mine, later) as line:
        assert list(line.wait(working[3])) == []
        assert next(line.wait(mine)) == Waiting(1) and next(line.wait(later)) == Waiting(2)
        working[0].given_up = lambda: True
        assert list(line.wait(mine)) == [] and next(line.wait(later)) == Waiting(1)
        later.given_up = lambda: True
        assert list(line.wait(later)) == []


def test_the_line_knows_whose_decodes_and_which_rounds_are_in_it(tmp_path):
    mine, theirs = place(session="me"), Place(lambda: False, "them", (tmp_path, 3))
    with line_of(mine, theirs, place(given_up=True, session="them")) as line:
        assert line.of_others("me") == 1 and line.of_others("them") == 1 and line.of_others(None) == 2
        assert line.rounds_in_use() == {(tmp_path, 3)}


def test_draining_does_not_wait_for_ever():
    """A page that has stalled holds its decode."""
    with line_of(place()) as line:
        line.drain(seconds=0.01)
    line.drain(seconds=1000)


# ---- news


@pytest.fixture
def clock(monkeypatch):
    """A clock that starts at 0, as on a machine just booted; returns a function that moves it."""
    now = [0.0]
    monkeypatch.setattr(decoding.time, "monotonic", lambda: now[0])

    def pass_by(seconds):
        now[0] += seconds

    return pass_by


@contextmanager
def free_turn():
    yield


def steps(clock, count, seconds):
    for n in range(1, count + 1):
        clock(seconds)
        yield Chunk(0, "", "x" * n, False, n, "stop" if n == count else None)


def tokens(news):
    return [one.chunks[0].tokens for one in news]


def test_the_first_news_come_at_once_and_the_last_are_whole(clock):
    """`0.0` stood for "never" on a clock that may start anywhere; a machine just booted showed nothing."""
    assert tokens(read_in_turns(steps(clock, 10, 0.01), free_turn)) == [6, 10]


def test_a_page_hears_seldom_enough_to_stay_alive(clock):
    """Every turn of 60 ms was a message; on two cores the browser was at work all the time."""
    heard = tokens(read_in_turns(steps(clock, 100, 0.01), free_turn))
    assert heard[0] == 6 and heard[-1] == 100
    apart = [(later - earlier) * 0.01 for earlier, later in itertools.pairwise(heard[:-1])]
    assert all(seconds >= decoding.NEWS_SECONDS for seconds in apart)
    assert len(heard) <= 1 + 1.0 / decoding.NEWS_SECONDS + 1


def test_wide_steps_are_a_turn_each(clock):
    heard = tokens(read_in_turns(steps(clock, 4, 10 * scheduling.TURN_SECONDS), free_turn))
    assert heard == [1, 2, 3, 4]


def test_news_say_when_a_row_ended_and_not_when_the_page_heard_of_it(clock):
    """The speed of a column was counted up to the next message: 19 tokens a second instead of 81."""

    def chunks():
        clock(0.03)
        yield Chunk(0, "", "5", False, 1, "stop")
        for n in range(1, 6):
            clock(0.03)
            yield Chunk(1, "t", "", True, n)

    ended = {}
    for news in read_in_turns(chunks(), free_turn):
        ended |= news.ended_at
    assert ended == {0: pytest.approx(0.03)}
