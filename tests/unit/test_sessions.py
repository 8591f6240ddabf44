"""What one page has asked for last, and who may end what is shared."""

import threading

import pytest

from conftest import wait
from thinkswitch.errors import UserError
from ui.sessions import Owners, Session, Sessions


def test_a_newer_request_supersedes_an_older_one_of_the_same_part_only():
    session = Session()
    first, other = session.supersede(1, "blend"), session.supersede(2, "ends")
    assert not first.superseded() and not other.superseded()
    second = session.supersede(3, "blend")
    assert first.superseded() and not second.superseded() and not other.superseded()
    assert not Session().supersede(1, "blend").superseded()  # another page's
    assert first.superseded()


def test_requests_are_ordered_by_click_and_not_by_arrival():
    """Eight clicks without pause: the seventh's thread started last, and its blend stayed on the page."""
    session = Session()
    requests = {number: session.supersede(number, "blend") for number in (2, 1, 5, 3, 8, 4, 7, 6)}
    assert [number for number, request in requests.items() if not request.superseded()] == [8]


def test_the_ends_keep_their_request_while_the_slider_moves_on():
    """Run decodes three columns; a move of the slider takes over the middle one."""
    session = Session()
    run = session.supersede(1, "ends", "blend")
    move = session.supersede(2, "blend")
    assert not run.superseded() and not run.owns("blend") and move.owns("blend")
    again = session.supersede(3, "ends", "blend")
    assert run.superseded() and move.superseded() and not again.superseded()
    late = session.supersede(2.5, "ends", "blend")
    assert late.superseded() and again.owns("ends") and again.owns("blend")


def test_stop_stops_what_was_asked_for_before_it():
    session = Session()
    before, after = session.supersede(1, "ends", "blend"), session.supersede(3, "blend")
    session.stop(2)
    assert before.stopped() and not after.stopped()
    assert not before.superseded()  # a stop is shown, a newer request is not
    late = session.supersede(2, "strip")  # clicked before Stop, arrived after it
    assert late.stopped()
    session.stop()
    assert after.stopped() and not session.supersede(4, "blend").stopped()


def test_a_request_without_a_click_comes_last():
    session = Session()
    clicked = session.supersede(7, "blend")
    assert session.supersede(None, "blend").owns("blend") and clicked.superseded()


# ---- the screen


PARTS = ("ends", "blend")


def test_a_screen_is_written_by_those_who_own_its_parts():
    session = Session()
    run = session.supersede(1, "ends", "blend")
    run.write(ends="a", blend="a", status="a")
    move = session.supersede(2, "blend")
    run.write(ends="b", blend="b", status="b")
    move.write(blend="c")
    run.write(blend="d")
    move.finish()
    run.finish()
    assert [screen.parts for screen in session.watch(PARTS)] == [{"ends": "b", "blend": "c", "status": "b"}]


def test_who_is_superseded_writes_nothing_any_more():
    session = Session()
    first, second = session.supersede(1, "blend"), session.supersede(2, "blend")
    second.finish(blend="second", status="second")
    first.write(blend="first", status="first")
    first.finish(blend="first", status="first")
    [screen] = session.watch(PARTS)
    assert screen.parts == {"blend": "second", "status": "second"}


def test_a_watcher_sees_changes_until_everything_has_finished():
    session = Session()
    run, move = session.supersede(1, "ends", "blend"), session.supersede(2, "blend")
    session.supersede(3, "strip")  # nobody watches for it
    run.working = move.working = True
    screens = session.watch(PARTS)
    assert next(screens).stoppable
    run.finish(ends="done")
    screen = next(screens)
    assert screen.stoppable and screen.parts == {"ends": "done"}
    move.finish(blend="done")
    screen = next(screens)
    assert not screen.stoppable and screen.parts == {"ends": "done", "blend": "done"}
    assert list(screens) == []


def test_a_watcher_waits_for_the_next_change():
    session = Session()
    request = session.supersede(1, "blend")
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(session.watch(PARTS)), daemon=True)
    thread.start()
    wait(lambda: len(seen) == 1)
    request.write(blend="half")
    wait(lambda: len(seen) == 2)
    request.finish(blend="whole")
    thread.join(60)
    assert [screen.parts.get("blend") for screen in seen] == [None, "half", "whole"]


def test_a_warning_is_shown_once():
    session = Session()
    session.warn("the prompt is empty")
    session.write(None, {"status": "the prompt is empty"})
    assert [screen.warned for screen in session.watch(PARTS)] == [True]
    assert session.take_warnings() == ["the prompt is empty"] and session.take_warnings() == []
    assert [screen.warned for screen in session.watch(PARTS)] == [False]


def test_a_page_that_closes_is_stopped_and_forgotten():
    sessions = Sessions()
    one, two = sessions.get("s1"), sessions.get("s2")
    asked, other = one.supersede(1, "ends"), two.supersede(1, "ends")
    assert sessions.get("s1") is one
    sessions.close("s1")
    sessions.close("never came")
    assert asked.stopped() and not other.stopped()
    assert one.supersede(2, "ends").stopped()  # what was still on its way
    assert sessions.get("s1") is not one


def test_in_a_demo_only_the_page_that_started_a_thing_may_end_it():
    """Any visitor could stop the loop, cancel others' exports and clear their sweeps."""
    owners = Owners(demo=True)
    owners.take("the export", "s1")
    owners.check("the export", "s1")
    owners.check("the sweep", "s2")  # nobody's
    with pytest.raises(UserError, match="another visitor started the export; only they can end it"):
        owners.check("the export", "s2")
    assert owners.others("s2") == {"the export"} and owners.others("s1") == set()
    owners.release("s1")  # the page was closed: what it left must not run for ever
    owners.check("the export", "s2")
    owners.take("the export", "s2")
    with pytest.raises(UserError):
        owners.check("the export", "s1")


def test_without_a_demo_everybody_may_end_everything():
    owners = Owners(demo=False)
    owners.take("the export", "s1")
    owners.check("the export", "s2")
