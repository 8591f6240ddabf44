"""Follow-up questions in Compare, and a new conversation."""

import dataclasses

from ui.compare import answering
from ui.compare.clicks import Click, Handlers
from ui.compare.question import (
    BEFORE_AND_AFTER,
    COLUMNS,
    Point,
)
from ui.run_control import PAIR
from unit.compare.helpers import ASK, ask, last_screen, run, shown


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
        return " ".join(session.take_warnings())

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
