"""The Compare tab: what a click asks, and what changes on the page."""

import dataclasses
import itertools
import json
import threading

import gradio as gr
import pytest

from conftest import wait
from thinkswitch.errors import UserError
from thinkswitch.generate import Sampling
from thinkswitch.preset import make_preset
from thinkswitch.recipe import Schedule
from ui.compare import answering, question, trace_curve
from ui.compare import clicks as clicks_module
from ui.compare import tab as compare
from ui.compare.clicks import Click, Handlers
from ui.compare.question import (
    BEFORE_AND_AFTER,
    COLUMNS,
    RENDERED_POINTS,
    STAGES,
    Point,
    Question,
    all_columns,
    blend_alone,
    read_question,
    spectrum,
)
from ui.decoding import Waiting
from ui.run_control import PAIR
from ui.sessions import Screen, Sessions

ASK = Question("What is 4 + 5 - 2?", 0.5, PAIR, "auto", "greedy", 0.6, 0.95, 20, 0, 0, Schedule())


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


def at(t):
    return dataclasses.replace(ASK, t=t)


def ask(page, click, asked=ASK, batch=None):
    """Begin to answer a click."""
    return answering.answer(page, "s", click, asked, batch or all_columns(asked))


def watch(page):
    return page.sessions.get("s").watch(COLUMNS)


def shown(page) -> Screen:
    """What is shown when all is done."""
    return list(watch(page))[-1]


def run(page, click, asked=ASK, batch=None) -> Screen:
    ask(page, click, asked, batch)
    return shown(page)


def titles(screen):
    return [screen.parts[column]["title"] for column in COLUMNS]


def no_memory(*args):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


# ---- asking


def test_an_ask_is_read_from_the_components_by_name():
    names = [field.name for field in dataclasses.fields(Question)]
    stages = (Point(PAIR, 0.0), Point("a · round 2", 0.0), Point("a · round 2", 1.0))
    values = {name: getattr(ASK, name) for name in names}
    for stage, point in zip(STAGES, stages, strict=True):
        values |= {f"{stage}_round": point.round, f"{stage}_t": point.t}
    assert read_question(values | {"system": " Be brief. "}) == dataclasses.replace(
        ASK, system="Be brief.", stages=stages
    )
    schedule = Schedule(mlp=0.5)
    empty = dict.fromkeys(values) | {"template": "auto", "how": "greedy", "schedule": schedule}
    nothing = Question("", 0.0, PAIR, "auto", "greedy", 0.0, 1.0, 0, 0, 0, schedule)
    assert read_question(empty) == dataclasses.replace(nothing, stages=(Point(PAIR, 0.0),) * 3)


def test_which_asks_have_the_same_ends():
    assert ASK.same_end_columns(at(0.9)) and ASK.same_end_columns(
        dataclasses.replace(ASK, schedule=Schedule(mlp=0))
    )
    assert not ASK.same_end_columns(dataclasses.replace(ASK, prompt="other"))
    assert ASK.same_but_for_t(at(0.9))
    assert not ASK.same_but_for_t(dataclasses.replace(ASK, schedule=Schedule(mlp=0)))


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


def test_a_demo_limits_prompts_and_answers(page, monkeypatch):
    monkeypatch.setattr(page, "demo", True)
    monkeypatch.setattr(question, "DEMO_PROMPT", 10)
    with pytest.raises(UserError, match="room for 10"):
        question.check(page, page.loaded, ASK)
    monkeypatch.setattr(question, "DEMO_PROMPT", 1000)
    monkeypatch.setattr(question, "DEMO_TOKENS", 7)
    [row] = question.rows_of(page, page.loaded, dataclasses.replace(ASK, limit=9), blend_alone(ASK))
    assert row.sampling.max_new_tokens == 7


def test_custom_sampling_leaves_what_the_form_does_not_show(page, monkeypatch):
    """It asks for temperature, top-p and top-k: a vendor's penalties stay, for greedy answers, too."""
    preset = make_preset(dict(think_min_p=0.1, think_repetition_penalty=1.05), base=page.loaded.preset)
    loaded = dataclasses.replace(page.loaded, preset=preset)
    custom = dataclasses.replace(ASK, how="custom", temperature=0.3, top_p=0.9, top_k=7, limit=5)
    [row] = question.rows_of(page, loaded, custom, blend_alone(ASK))
    assert row.sampling == Sampling(0.3, 0.9, 7, 5, min_p=0.1, repetition_penalty=1.05)
    [row] = question.rows_of(page, loaded, dataclasses.replace(custom, how="greedy"), blend_alone(ASK))
    assert row.sampling == Sampling(max_new_tokens=5, repetition_penalty=1.05)


def grow(page, asked=ASK, request=None):
    """The points and probabilities of the curve, each time it is drawn."""
    request = request or page.sessions.get("s").supersede(1, "trace_chart")
    charts = [chart for chart in trace_curve.growing(page, request, asked) if chart]
    figures = [json.loads(chart)["data"][0] for chart in charts]
    return [(figure["x"], figure["y"]) for figure in figures]


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


def last_screen(page) -> Screen:
    """What is shown when answers and curve are done."""
    return list(page.sessions.get("s").watch((*COLUMNS, *STAGES, "trace_chart")))[-1]


# ---- answering


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
    warned = [sentence for screen in screens for sentence in screen.warnings]
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
    [*_, last] = screens = list(watch(page))
    assert "the prompt is empty" in last.parts["status"] and not last.stoppable
    assert "the prompt is empty" in "".join(sentence for screen in screens for sentence in screen.warnings)


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


# ---- clicks


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


def test_the_slider_decodes_the_blend_alone_where_the_ends_stand(page, clicks, monkeypatch):
    clicks("slider_released", 1, ASK)
    clicks("slider_released", 2, at(0.7))
    clicks("slider_released", 3, dataclasses.replace(at(0.7), seed=1))
    shown(page)
    monkeypatch.setattr(page.loader, "loaded", dataclasses.replace(page.loaded))  # the ends of another pair
    clicks("slider_released", 4, dataclasses.replace(at(0.7), seed=1))
    assert [len(batch.points) for batch in clicks.asked] == [3, 1, 3, 3]


def test_the_slider_shows_the_nearest_frame_of_a_rendered_spectrum(page, clicks):
    clicks("spectrum", 1, ASK)
    frames = len(shown(page).parts["frames"])
    clicks("slider_released", 2, at(0.78), frames)
    screen = shown(page)
    assert screen.parts["blend"]["title"] == "blend · t = 0.8"
    assert "nearest of 11 points" in screen.parts["status"] and len(clicks.asked) == 1
    clicks(
        "slider_released", 3, at(0.78), frames=0
    )  # the browser has forgotten the frames: a prompt was typed
    assert shown(page).parts["frames"] == [] and clicks.asked[1:] == [blend_alone(at(0.78))]


def test_long_answers_wait_for_run(page, clicks, monkeypatch):
    monkeypatch.setattr(clicks_module, "SHORT", 5)
    clicks("setting_changed", 1, ASK)
    assert "Press Run" in shown(page).parts["status"] and clicks.asked == []


def test_stop_stops_the_clicks_before_it(page, clicks, slow):
    clicks("all_columns", 1, ASK)
    clicks("stop", 2, ASK)
    assert "stopped after" in shown(page).parts["status"]


def test_frames_of_another_prompt_are_forgotten_by_every_click(page, clicks):
    """Run on a new prompt that was refused left the old question's frames on the page."""
    clicks("spectrum", 1, ASK)
    assert len(shown(page).parts["frames"]) == 11
    clicks("all_columns", 2, dataclasses.replace(ASK, prompt=" "), frames=0)
    assert shown(page).parts["frames"] == []


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


# ---- a schedule


def test_the_ends_are_the_checkpoints_whatever_schedule_is_in_force(page, clicks):
    """With all factors at 0 the column called thinking was instruct, and kept the schedule before."""
    zero = dataclasses.replace(ASK, schedule=Schedule(attention=0, mlp=0, norm=0, embedding=0))
    screen = run(page, 1, zero)
    instruct, blend, thinking = (screen.parts[column] for column in COLUMNS)
    assert thinking["trace"] and not instruct["trace"]
    # the blend is instruct, under the preset's template
    assert blend["answer"] == instruct["answer"] and not blend["trace"]
    screen = run(page, 2, zero, spectrum(zero))
    frames = screen.parts["frames"]
    assert [frame["t"] for frame in frames] == RENDERED_POINTS
    assert frames[-1]["title"] == "blend · t = 1" and not frames[-1]["trace"]
    assert screen.parts["thinking"]["trace"] and screen.parts["thinking"]["title"] == "thinking"


def test_a_schedule_that_changes_decodes_the_blend_anew(page, clicks):
    run(page, 1)
    scheduled = dataclasses.replace(ASK, schedule=Schedule(mlp=0))
    clicks("schedule_changed", 2, scheduled)
    last_screen(page)
    assert clicks.asked == [blend_alone(scheduled)]


# ---- before and after, conversation


def test_before_and_after_decodes_its_own_columns_in_one_batch(page, clicks):
    stages = (Point(PAIR, 0.0), Point(PAIR, 0.25), Point(PAIR, 1.0))
    asked = dataclasses.replace(ASK, view=BEFORE_AND_AFTER, stages=stages)
    clicks("all_columns", 1, asked)
    screen = last_screen(page)
    [batch] = clicks.asked
    assert batch.points == list(stages)
    shown = [screen.parts[stage] for stage in STAGES]
    assert [card["title"] for card in shown] == [
        "instruct · round 0",
        "blend · t = 0.25 · round 0",
        "thinking · round 0",
    ]
    assert "7" in shown[2]["answer"] and "trace_chart" not in screen.parts
    assert "Before and after" in screen.parts["status"]


def follow_up(page, click, text, asked=ASK):
    return Handlers(page).follow_up(Click("s", click, 0, asked, text))


def test_a_follow_up_goes_on_from_each_columns_own_answer(page, monkeypatch):
    run(page, 1)
    answers = {column: page.sessions.get("s").shows(column)["answer"] for column in COLUMNS}
    rows = []
    rows_of = answering.rows_of
    monkeypatch.setattr(answering, "rows_of", lambda *args: rows.extend(rows_of(*args)) or rows)
    edited = dataclasses.replace(ASK, prompt="edited since")
    question_now = follow_up(page, 2, "And one more?", edited)
    screen = last_screen(page)
    assert question_now.prompt == "And one more?"
    tokenizer = page.loaded.pair.instruct.tokenizer
    for column, row in zip(COLUMNS, rows, strict=True):
        text = tokenizer.decode(list(row.ids))
        assert text.index(ASK.prompt) < text.index(answers[column]) < text.index("And one more?")
        assert "edited since" not in text
        [turn] = screen.parts[column]["turns"]
        assert (turn["prompt"], turn["answer"]) == (ASK.prompt, answers[column])
    # the slider decodes the blend alone, in the same conversation
    Handlers(page).slider_released(Click("s", 3, 0, dataclasses.replace(question_now, t=0.8)))
    assert len(last_screen(page).parts["blend"]["turns"]) == 1


def test_a_follow_up_that_cannot_be_asked_is_refused_in_a_sentence(page, slow):
    session = page.sessions.get("s")

    def refusal(click, text):
        assert follow_up(page, click, text) is None
        return " ".join(next(session.watch(())).warnings)

    assert "press Run first" in refusal(1, "And?")
    ask(page, 2)
    assert "still being written" in refusal(3, "And?")
    shown(page)
    assert "is empty" in refusal(4, "  ")
    assert "the conversation is too long" in refusal(5, "7 + " * 2000 + "1")
    assert session.exchanges == {}


def test_each_view_has_a_conversation_of_its_own(page):
    """Switching the view forgot the turns of the first."""
    run(page, 1)
    follow_up(page, 2, "And one more?")
    last_screen(page)
    handlers = Handlers(page)
    stages = (Point(PAIR, 0.0),) * 3
    other = dataclasses.replace(ASK, view=BEFORE_AND_AFTER, stages=stages)
    assert handlers.asked(Click("s", 3, 0, other)).exchanges == ()
    [exchange] = handlers.asked(Click("s", 4, 0, ASK)).exchanges
    assert exchange.prompt == ASK.prompt


def test_the_curve_of_another_prompt_is_taken_away_at_once(page):
    """It stood under the new prompt until the first words were there."""
    grow(page)
    request = page.sessions.get("s").supersede(2, "trace_chart")
    other = dataclasses.replace(ASK, prompt="What is 2 + 3 + 4?")
    assert next(trace_curve.growing(page, request, other)) == trace_curve.NO_CURVE


def test_a_new_conversation_clears(page):
    run(page, 1)
    follow_up(page, 2, "And one more?")
    last_screen(page)
    Handlers(page).new_conversation(Click("s", 3, 0, ASK))
    screen = last_screen(page)
    assert page.sessions.get("s").exchanges == {}
    for column in COLUMNS:
        assert not screen.parts[column].get("turns") and not screen.parts[column].get("answer")
    assert "A new conversation" in screen.parts["status"]


def test_a_system_prompt_reaches_every_column(page):
    asked = dataclasses.replace(ASK, system="Answer like a pirate.")
    for row in question.rows_of(page, page.loaded, asked, all_columns(asked)):
        text = page.loaded.pair.instruct.tokenizer.decode(list(row.ids))
        assert text.index("Answer like a pirate.") < text.index(ASK.prompt)


# ---- what Gradio is told


def test_one_event_alone_writes_to_the_columns(page):
    """Requests that were superseded sent nulls or came late: columns were empty or stale."""
    with gr.Blocks() as blocks:
        view = compare.lay_out(page, gr.State(Schedule()))
        compare.connect(page, view)
    written = {part._id for part in view.outputs if part not in (view.cards["blend"], view.frames)}
    writers = [fn for fn in blocks.fns.values() if written & {output._id for output in fn.outputs}]
    assert len(writers) == 1 and writers[0].trigger_mode == "always_last"
    page.sessions.get("s").write(None, {"status": "x"})
    whole = {view.status: "x", view.stop: gr.update(interactive=False)}
    [message] = list(writers[0].fn(gr.Request(session_hash="s")))
    assert message == whole
    session = page.sessions.get("s")
    session.write(None, {"frames": [{"t": 0.5}]})
    assert [list(part) for part in writers[0].fn(gr.Request(session_hash="s"))] == [[view.frames]]
    # the browser forgets frames when a prompt is typed; a click of before must not bring them back
    assert list(writers[0].fn(gr.Request(session_hash="s"))) == [gr.skip()]


def test_a_page_that_has_asked_for_nothing_is_told_something(page):
    """Gradio makes nulls of a generator that never yields."""
    assert list(watch(page)) == [Screen()]
