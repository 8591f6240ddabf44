"""How a request of Compare is answered: on the whole screen, stopped, refused, out of memory."""

import dataclasses
import threading

import pytest

from thinkswitch.errors import UserError
from ui.compare import answering
from ui.compare.question import (
    COLUMNS,
    RENDERED_POINTS,
    blend_alone,
    spectrum,
)
from ui.decoding import Waiting
from ui.sessions import Screen
from unit.compare.helpers import ASK, ask, at, run, shown, titles, watch


def no_memory(*args):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


def test_all_three_columns_are_answered(page, slow):
    ask(page, 1)
    screens = list(watch(page))
    last = screens[-1]
    assert titles(last) == ["instruct", "blend · t = 0.5", "thinking"]
    assert "\\boxed{7}" in last.parts["thinking"]["answer"] and last.parts["thinking"]["trace"]
    assert " in " in last.parts["status"] and last.parts["frames"] == []
    assert len(screens) > 10 and not last.stoppable and screens[5].stoppable


def test_every_screen_holds_all_of_the_page(page, slow):
    """A message may be lost, or come twice; the one after it mends that."""
    run(page, 1)
    ask(page, 2, at(0.8), blend_alone(at(0.8)))
    screens = list(watch(page))
    assert len(screens) > 5
    for screen in screens[1:]:
        assert titles(screen) == ["instruct", "blend · t = 0.8", "thinking"]


def test_one_point_changes_the_blend_alone(page):
    before = run(page, 1)
    after = run(page, 2, at(0.8), blend_alone(at(0.8)))
    assert titles(after) == ["instruct", "blend · t = 0.8", "thinking"]
    for column in ("instruct", "thinking"):
        assert after.parts[column] == before.parts[column]  # tokens and seconds, too


def test_a_rendered_spectrum_has_a_frame_for_every_point(page):
    screen = run(page, 1, at(0.32), spectrum(at(0.32)))
    assert [frame["t"] for frame in screen.parts["frames"]] == RENDERED_POINTS
    assert titles(screen) == ["instruct", "blend · t = 0.3", "thinking"]


def test_what_is_shown_last_is_what_was_clicked_last(page):
    """Eight clicks without pause arrive in any order."""
    run(page, 1)
    for click in (4, 2, 9, 3, 6, 8, 5, 7):
        ask(page, click, at(click / 10), blend_alone(at(click / 10)))
    assert titles(shown(page)) == ["instruct", "blend · t = 0.9", "thinking"]
    ask(page, 8, at(0.1))  # even the columns, where they are asked late
    assert titles(shown(page)) == ["instruct", "blend · t = 0.9", "thinking"]


def test_the_ends_go_on_while_the_slider_moves(page, slow):
    ask(page, 1)
    screens = watch(page)
    next(screens)
    ask(page, 2, at(0.8), blend_alone(at(0.8)))
    last = list(screens)[-1]
    assert titles(last) == ["instruct", "blend · t = 0.8", "thinking"] and not last.stoppable
    assert all("tokens/s" in last.parts[column]["foot"] for column in COLUMNS)


def test_run_twice_ends_the_first_one_silently(page, slow):
    first = ask(page, 1)
    second = ask(page, 2)
    first.join(60)
    second.join(60)
    last = shown(page)
    assert " in " in last.parts["status"] and not last.stoppable
    assert "stopped" not in "".join(last.parts[column]["foot"] for column in COLUMNS)


def test_stop_is_shown_and_the_ends_are_decoded_again(page, slow):
    ask(page, 1)
    screens = watch(page)
    for screen in screens:
        if screen.stoppable:
            break
    assert page.sessions.get("s").end_columns.question == ASK
    page.sessions.get("s").stop(2)
    last = list(screens)[-1]
    assert "stopped after" in last.parts["status"] and not last.stoppable
    assert "stopped" in last.parts["thinking"]["foot"] and page.sessions.get("s").end_columns is None


def test_another_pair_is_named_as_the_reason(page, slow, monkeypatch):
    """ "stopped after 0.03 s", "0 tokens, 0 tokens/s" stood there, although nobody had pressed Stop."""
    ask(page, 1)
    screens = watch(page)
    for screen in screens:
        if screen.stoppable and "foot" in screen.parts.get("thinking", {}):
            break
    monkeypatch.setattr(page.loader, "loaded", dataclasses.replace(page.loaded))
    last = list(screens)[-1]
    assert "The pair was changed meanwhile; press Run again." in last.parts["status"] and not last.stoppable
    assert "stopped" not in last.parts["thinking"]["foot"]


def test_who_waits_hears_how_many_are_ahead(page, monkeypatch):
    go = threading.Event()

    def waiting(*args):
        yield Waiting(2)
        go.wait(60)

    monkeypatch.setattr(page, "decode", waiting)
    thread = ask(page, 1, batch=blend_alone(ASK))
    screens = watch(page)
    first = next(screen for screen in screens if screen.stoppable)
    assert "2 ahead of you" in first.parts["status"]
    go.set()
    thread.join(60)


@pytest.mark.parametrize(
    "error, says",
    [
        (UserError("a single row of up to 90 new tokens does not fit"), "a single row of up to 90"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_an_error_is_a_sentence_and_stop_is_released(page, monkeypatch, error, says):
    """Out of memory was a bare "Error", and Stop stayed bright."""

    def broken(*args):
        yield Waiting(1)
        raise error

    monkeypatch.setattr(page, "decode", broken)
    ask(page, 1)
    screens = list(watch(page))
    assert says in screens[-1].parts["status"] and not screens[-1].stoppable
    assert page.sessions.get("s").end_columns is None
    warned = page.sessions.get("s").take_warnings()
    assert warned == ([str(error)] if isinstance(error, UserError) else [])


def test_memory_that_runs_out_halves_the_batch(page, monkeypatch):
    """Three rows do not fit, one does: the columns are answered all the same."""
    whole = run(page, 1)
    place = page.loaded.blend.place
    monkeypatch.setattr(
        page.loaded.blend, "place", lambda recipes: place(recipes) if len(recipes) == 1 else no_memory()
    )
    halved = run(page, 2)
    for column in COLUMNS:
        assert halved.parts[column]["answer"] == whole.parts[column]["answer"]
    monkeypatch.setattr(page.loaded.blend, "place", no_memory)
    screen = run(page, 3)
    assert "does not fit into memory" in screen.parts["status"] and not screen.stoppable


def test_a_refused_prompt_is_a_sentence(page):
    ask(page, 1, dataclasses.replace(ASK, prompt=" "))
    last = shown(page)
    assert "the prompt is empty" in last.parts["status"] and not last.stoppable and last.warned
    [sentence] = page.sessions.get("s").take_warnings()
    assert "the prompt is empty" in sentence


def test_a_page_that_opens_before_the_pair_is_there_is_answered(page, monkeypatch):
    """Run says that the pair is not loaded yet; the answers that open the page come all the same."""
    loaded = page.loaded
    monkeypatch.setattr(answering, "LOOK_SECONDS", 0)
    monkeypatch.setattr(page.loader, "loaded", None)
    monkeypatch.setattr(page.loader, "status", "Reading <weights>")
    answering.answer_when_loaded(page, "s", 1, ASK, short=256)
    screens = watch(page)
    assert "Reading &lt;weights&gt; …" in next(screens).parts["status"]
    assert ask(page, 2) is None
    page.loader.loaded = loaded
    assert titles(list(screens)[-1]) == ["instruct", "blend · t = 0.5", "thinking"]
    answering.answer_when_loaded(page, "s", 3, at(0.1), short=5)  # longer answers wait for Run
    assert shown(page).parts["status"] == ""


def test_stop_can_be_pressed_before_the_first_token(page, monkeypatch):
    """A long prompt is read for seconds; Stop was dark until the first token."""
    read = threading.Event()

    def reading(*args):
        read.wait(60)
        yield from ()

    monkeypatch.setattr(page, "decode", reading)
    thread = ask(page, 1)
    assert next(screen for screen in watch(page) if screen.stoppable).parts["status"]
    read.set()
    thread.join(60)


def test_a_page_that_has_asked_for_nothing_is_told_something(page):
    """Gradio makes nulls of a generator that never yields."""
    assert list(watch(page)) == [Screen()]
