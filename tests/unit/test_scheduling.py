"""Turns on the one model, and work in the background."""

import logging
import threading
import time

import pytest

from conftest import wait
from thinkswitch.errors import UserError
from ui import scheduling
from ui.scheduling import BackgroundTask, FairLock


def queued(lock, *works):
    """Threads that have entered the line in this order while the caller holds the lock."""
    threads = []
    for work in works:
        ahead = lock.in_line
        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()
        while lock.in_line == ahead:
            threading.Event().wait(0.002)
    return threads


def join(threads):
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def stepping(lock, name, steps, count, after_step=lambda: None):
    """Work that has a turn, notes each step, and lets others in between."""

    def go():
        with lock.turn():
            for _ in range(count):
                steps.append(name)
                after_step()
                lock.yield_turn()

    return go


def test_a_fair_lock_is_first_come_first_served():
    lock, order, inside = FairLock(), [], []

    def work(name):
        def go():
            with lock.turn():
                inside.append(name)
                assert inside == [name]
                order.append(name)
                time.sleep(0.01)
                inside.remove(name)

        return go

    with lock.turn():
        threads = queued(lock, *map(work, range(6)))
        assert order == []
    join(threads)
    assert order == list(range(6))
    with lock.turn():  # and it is free again
        pass


def test_turns_go_round(monkeypatch):
    """Three decodes whose steps last a turn each get every third one; what has ended leaves the round."""
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    lock, steps = FairLock(), []
    with lock.turn():
        threads = queued(
            lock, *(stepping(lock, name, steps, n) for name, n in (("a", 3), ("b", 1), ("c", 2)))
        )
    join(threads)
    assert "".join(steps) == "abcaca"


def test_a_turn_is_a_time_and_not_a_step(monkeypatch):
    """A question's quick steps beside a sweep's wide ones: one for one, the question would take for ever."""
    clock = [0]
    monkeypatch.setattr(scheduling.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 5)
    lock, steps = FairLock(), []

    def lasts(seconds):
        def after_step():
            clock[0] += seconds

        return after_step

    quick, wide = stepping(lock, "q", steps, 20, lasts(1)), stepping(lock, "s", steps, 4, lasts(10))
    with lock.turn():
        threads = queued(lock, quick, wide)
    join(threads)
    assert "".join(steps) == "qqqqqs" * 4


def test_yielding_alone_costs_no_turn():
    lock = FairLock()
    with lock.turn():
        for _ in range(1000):
            lock.yield_turn()
        assert lock.in_line == 1


def test_an_exception_in_a_turn_frees_the_lock():
    lock, reached = FairLock(), threading.Event()

    def next_one():
        with lock.turn():
            reached.set()

    with pytest.raises(ZeroDivisionError), lock.turn():
        threads = queued(lock, next_one)
        1 / 0  # noqa: B018
    assert reached.wait(10)
    join(threads)
    assert lock.in_line == 0


# ---- background tasks


def test_a_task_reports_its_progress_and_its_result():
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
        (UserError("the disk is full; free some"), "the disk is full; free some"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_a_task_that_fails_says_why(error, says, begun, caplog):
    """Before or after its first step. A traceback is for the log, where the error is ours."""

    def work(cancelled):
        if begun:
            yield "write", 1, 2
        raise error
        yield

    with caplog.at_level(logging.ERROR):
        task = BackgroundTask("export", work)
        wait(lambda: task.ended)
    assert task.error == says and task.result is None
    assert any(record.exc_info for record in caplog.records) is isinstance(error, KeyError)


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
    assert cleaned.is_set() and task.error == "the export was stopped" and task.result is None
    assert heard[0] is False and len(heard) < 10**4
