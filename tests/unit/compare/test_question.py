"""What a click of Compare asks: read from the form, checked, made into rows."""

import dataclasses

import pytest

from thinkswitch.errors import UserError
from thinkswitch.preset import make_preset
from thinkswitch.recipe import Schedule
from thinkswitch.sampler import Sampling
from ui.compare import question
from ui.compare.question import (
    STAGES,
    Point,
    Question,
    all_columns,
    blend_alone,
    read_question,
)
from ui.run_control import PAIR
from unit.compare.helpers import ASK, at


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


def test_a_system_prompt_reaches_every_column(page):
    asked = dataclasses.replace(ASK, system="Answer like a pirate.")
    for row in question.rows_of(page, page.loaded, asked, all_columns(asked)):
        text = page.loaded.pair.instruct.tokenizer.decode(list(row.ids))
        assert text.index("Answer like a pirate.") < text.index(ASK.prompt)
