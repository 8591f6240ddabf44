"""Decodes of many visitors on one model: who waits, and how often a page hears."""

import itertools
from contextlib import contextmanager

import pytest

from thinkswitch.generate import Chunk
from ui import decoding, scheduling
from ui.decoding import DecodeQueue, QueuedDecode, Waiting, read_in_turns


def queued(given_up=False, session=None):
    return QueuedDecode(lambda: given_up, session)


@contextmanager
def queue_of(*decodes):
    queue = DecodeQueue()
    joined = [queue.join(one) for one in decodes]
    for one in joined:
        one.__enter__()
    yield queue
    for one in joined:
        one.__exit__(None, None, None)
    assert len(queue) == 0


def test_what_was_given_up_is_not_counted_as_ahead():
    """One visitor pressed Run 150 times and was told that 34 were ahead of him: his own clicks."""
    mine = queued()
    with queue_of(queued(), *[queued(given_up=True) for _ in range(34)], queued(), mine) as queue:
        assert queue.ahead(mine) == 2


def test_a_decode_waits_while_four_are_at_work(monkeypatch):
    monkeypatch.setattr(decoding, "LOOK_SECONDS", 0)
    working = [queued() for _ in range(4)]
    mine, later = queued(), queued()
    with queue_of(*working, mine, later) as queue:
        assert list(queue.wait(working[3])) == []
        assert next(queue.wait(mine)) == Waiting(1) and next(queue.wait(later)) == Waiting(2)
        working[0].given_up = lambda: True
        assert list(queue.wait(mine)) == [] and next(queue.wait(later)) == Waiting(1)
        later.given_up = lambda: True
        assert list(queue.wait(later)) == []


def test_a_decode_that_waited_says_when_it_begins(monkeypatch):
    """Its speed was counted from when it was asked for: a visitor in the queue saw 2 tokens a second."""
    working = [queued() for _ in range(5)]
    mine = queued()
    steps = iter(range(5))

    def next_step(seconds):
        working[next(steps)].given_up = lambda: True

    monkeypatch.setattr(decoding.time, "sleep", next_step)
    with queue_of(*working, mine) as queue:
        assert list(queue.wait(mine)) == [Waiting(2), Waiting(1), Waiting(0)]


def test_the_queue_knows_whose_decodes_are_in_it():
    mine, theirs = queued(session="me"), queued(session="them")
    with queue_of(mine, theirs, queued(given_up=True, session="them")) as queue:
        assert queue.of_others("me") == 1 and queue.of_others("them") == 1 and queue.of_others(None) == 2


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
    assert tokens(read_in_turns(steps(clock, 10, 0.01), free_turn, decoding.UPDATE_SECONDS)) == [6, 10]


def test_a_page_hears_seldom_enough_to_stay_alive(clock):
    """Every turn of 60 ms was a message; on two cores the browser was at work all the time."""
    heard = tokens(read_in_turns(steps(clock, 100, 0.01), free_turn, decoding.UPDATE_SECONDS))
    assert heard[0] == 6 and heard[-1] == 100
    apart = [(later - earlier) * 0.01 for earlier, later in itertools.pairwise(heard[:-1])]
    assert all(seconds >= decoding.UPDATE_SECONDS for seconds in apart)
    assert len(heard) <= 1 + 1.0 / decoding.UPDATE_SECONDS + 1


def test_wide_steps_are_a_turn_each(clock):
    heard = tokens(
        read_in_turns(steps(clock, 4, 10 * scheduling.TURN_SECONDS), free_turn, decoding.UPDATE_SECONDS)
    )
    assert heard == [1, 2, 3, 4]


def test_speed_is_the_engines_and_not_that_of_messages(clock):
    """The speed of a column was counted from the click to the next message: 19 tokens a second for 81."""

    def chunks():
        clock(2.0)  # reading the prompt
        for n in range(1, 5):
            clock(0.03)
            yield Chunk(0, "", "5", False, n, "stop" if n == 4 else None)
        for n in range(1, 6):
            clock(0.03)
            yield Chunk(1, "t", "", n < 4, n)

    seen = decoding.DecodeUpdate()
    for news in read_in_turns(chunks(), free_turn, decoding.UPDATE_SECONDS):
        seen.merge(news)
    assert seen.latest[0].at - seen.first[0].at == pytest.approx(0.09)
    assert seen.speed(0) == pytest.approx(3 / 0.09)
    assert seen.trace_tokens == {1: 3}


def test_one_token_has_no_speed():
    update = decoding.DecodeUpdate()
    update.add(Chunk(0, "", "5", False, 1, "stop"))
    assert update.speed(0) is None
