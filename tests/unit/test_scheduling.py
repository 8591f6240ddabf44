"""Turns on the one model, background tasks, and what one page has asked for last."""

import threading
import time

import pytest

from conftest import wait
from thinkswitch.errors import UserError
from ui import scheduling
from ui.scheduling import BackgroundTask, FairLock
from ui.sessions import Session


def queued(lane, *works):
    """Threads that have entered the lane's line in this order while the caller holds it."""
    threads = []
    for work in works:
        ahead = len(lane._line)
        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()
        wait(lambda: len(lane._line) == ahead + 1)
    return threads


def test_a_lane_is_first_come_first_served():
    lane, order, inside = FairLock(), [], []

    def work(name):
        def go():
            with lane.turn():
                inside.append(name)
                assert inside == [name]
                order.append(name)
                time.sleep(0.01)
                inside.remove(name)

        return go

    with lane.turn():
        threads = queued(lane, *map(work, range(6)))
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == list(range(6))
    with lane.turn():  # and it is free again
        pass


def test_pass_on_goes_round(monkeypatch):
    """Three decodes whose steps last a turn: each gets every third one, and who ends leaves the round."""
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    lane, steps = FairLock(), []

    def work(name, n):
        def go():
            with lane.turn():
                for _ in range(n):
                    steps.append(name)
                    lane.pass_on()

        return go

    with lane.turn():
        threads = queued(lane, work("a", 3), work("b", 1), work("c", 2))
    for thread in threads:
        thread.join(10)
    assert "".join(steps) == "abcaca"


def test_quick_steps_are_many_a_turn(monkeypatch):
    """A question's steps of 2 ms beside a sweep's of 100 ms: one for one, the question would take fifty times as long."""
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.05)
    lane, steps = FairLock(), []

    def work(name, n, seconds):
        def go():
            with lane.turn():
                for _ in range(n):
                    steps.append(name)
                    time.sleep(seconds)
                    lane.pass_on()

        return go

    with lane.turn():
        threads = queued(lane, work("q", 20, 0.005), work("s", 4, 0.06))
    for thread in threads:
        thread.join(10)
    assert "".join(steps).index("s") >= 5 and steps[-2:] == ["s", "s"] and len(steps) == 24


def test_pass_on_alone_costs_no_turn():
    lane = FairLock()
    with lane.turn():
        for _ in range(1000):
            lane.pass_on()
        assert len(lane._line) == 1


def test_an_exception_in_a_turn_gives_the_model_back():
    lane, reached = FairLock(), threading.Event()
    with pytest.raises(ZeroDivisionError):
        with lane.turn():
            [thread] = queued(lane, lambda: (lane._enter(), reached.set(), lane._leave()))
            1 / 0
    assert reached.wait(10)
    thread.join(10)
    assert not lane._line


def test_a_newer_wish_ends_an_older_one_of_its_name_only():
    visitor = Session()
    first, other = visitor.wish("blend"), visitor.wish("ends")
    assert not first() and not other()
    second = visitor.wish("blend")
    assert first() and not second() and not other()
    assert not Session().wish("blend")() and first()
    stops = visitor.stops
    visitor.stop()
    assert visitor.stops == stops + 1 and not second()  # a stop is visible, a newer wish is silent


def test_a_task_tells_how_far_it_is_and_what_came_of_it():
    step = threading.Event()

    def work(cancelled):
        yield "write", 1, 4
        step.wait(10)
        yield "verify", 4, 4
        return "folder"

    task = BackgroundTask("export", work)
    wait(lambda: task.done == 1)
    assert (task.stage, task.total, task.ended, task.result) == ("write", 4, False, None)
    step.set()
    wait(lambda: task.ended)
    assert (task.stage, task.done, task.result, task.error) == ("verify", 4, "folder", None)


@pytest.mark.parametrize(
    "error, says",
    [
        (UserError("the disk is full; mend that"), "the disk is full; mend that"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_a_task_that_fails_says_why(error, says, begun, capsys):
    """Before or after its first step. A traceback is for the console, where the error is ours."""

    def work(cancelled):
        if begun:
            yield "write", 1, 2
        raise error
        yield

    task = BackgroundTask("export", work)
    wait(lambda: task.ended)
    assert task.error == says and task.result is None
    assert ("Traceback" in capsys.readouterr().err) is isinstance(error, KeyError)


def test_cancel_closes_the_generator_so_it_can_clean_up():
    """At once, and not only when nobody holds it any more."""
    heard, cleaned, held = [], threading.Event(), []

    def work(cancelled):
        try:
            for n in range(10**6):
                heard.append(cancelled())
                yield "write", n, 10**6
                time.sleep(0.002)
        finally:
            cleaned.set()

    def begin(cancelled):
        held.append(work(cancelled))
        return held[0]

    task = BackgroundTask("export", begin)
    wait(lambda: task.done > 2)
    task.cancel()
    wait(lambda: task.ended)
    assert (
        cleaned.is_set() and task.error == "export was stopped" and task.result is None and heard[0] is False
    )
    assert len(heard) < 10**4
