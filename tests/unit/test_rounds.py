"""A round's recipe.json as it should not be: what is said, and that nothing is computed from it."""

import json

import pytest

from thinkswitch import rounds, runs
from thinkswitch.errors import UserError
from thinkswitch.evaluate import Score

NAME = "model.norm.weight"
WHOLE = {
    "round": 0,
    "instruct": {NAME: [1, 0]},
    "thinking": {NAME: [0, 1]},
    "gram": {NAME: [[1, 0.5], [0.5, 1]]},
}


def written(folder, content: str):
    runs.write_atomic(runs.round_dir(folder, 0) / "recipe.json", content)
    return folder


def test_a_whole_one(tmp_path):
    read = rounds.read(written(tmp_path, json.dumps(WHOLE)), 0)
    assert read.instruct == {NAME: (1, 0)} and read.gram == WHOLE["gram"] and read.adapters == []


@pytest.mark.parametrize(
    "changes",
    [
        {"instruct": {NAME: ["1", 0]}},  # "can't multiply sequence by non-int", in the middle of an export
        {"instruct": {NAME: [[1], 0]}},
        {"instruct": {NAME: 1.0}},
        {"instruct": {NAME: [1, 0, 0]}},  # of a basis with an adapter that round 0 has not
        {"instruct": {}},
        {"thinking": None},
        {"thinking": {NAME: [0, float("nan")]}},
        {"thinking": {"other": [0, 1]}},
        {"gram": {NAME: [[1, 0.5]]}},
        {"gram": {NAME: [[1], [2]]}},
        {"gram": {NAME: [[1, 0.5], [0.5, "1"]]}},
        {"gram": {NAME: [[1, float("inf")], [0.5, 1]]}},
        {"gram": {NAME: 3}},
        {"gram": {NAME: [1, 2]}},
        {"gram": []},
    ],
)
def test_numbers_of_another_form(changes, tmp_path):
    folder = written(tmp_path, json.dumps({**WHOLE, **changes}))
    with pytest.raises(
        UserError, match=r"round 0 of .* is damaged \(.*\); use an earlier round, or run again"
    ):
        rounds.read(folder, 0)


@pytest.mark.parametrize("content", ["", "\0" * 60, "[" * 9000, "null", "[]", '{"instruct"', "{}", "3"])
def test_text_of_another_form(content, tmp_path):
    with pytest.raises(UserError, match=r"round 0 of .* is damaged"):
        rounds.read(written(tmp_path, content), 0)


@pytest.mark.parametrize(
    "at_start, compared",
    [((0, 1, 2), (1, 0)), ((1, 2), (0, 0)), ((0,), (1, 0)), ((7,), None), ((), None), ((0, 1, 2, 9), (1, 0))],
)
def test_only_questions_that_both_rounds_have_are_compared(at_start, compared):
    """A line was taken out of round 0's scores, as the refusal of a damaged one says: KeyError on resume."""
    before = {q: Score(q, q > 0, False, 3, "2", "stop") for q in at_start}
    after = {q: Score(q, True, False, 3, "2", "stop") for q in (0, 1, 2)}
    figures = rounds.score_figures("instruct", after, before)
    change = figures.get("since_start")
    assert figures["n"] == 3 and (change and (change["gained"], change["lost"])) == compared
