"""A pattern takes answers out of longer texts, of right answers and of responses."""

import json

import pytest

from thinkswitch import answer_pattern, problems
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, apply_settings, to_yaml
from thinkswitch.problems import Problem

GSM8K = r"####\s*(.+)"
SOLUTION = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nAltogether 48+24 = <<48+24=72>>72.\n#### 72"

TAKEN = [
    (GSM8K, SOLUTION, "72"),
    (GSM8K, "#### 1\n#### 2", "2"),
    (GSM8K, "72", None),
    (r"\d+$", "so 12 or 13", "13"),  # no group: the whole match
    (r"(?i)answer: (\w+)|=> (\w+)", "ANSWER: b\n=> c", "c"),  # the group that took part
    (r"\((\w)\)", "(a) (b)", "b"),
    ("(a|aa)+$", "a" * 50 + "b", None),  # goes back and forth for ever: given up after a second
]


@pytest.mark.parametrize("pattern, text, taken", TAKEN)
def test_take(pattern, text, taken):
    assert answer_pattern.take(pattern, text) == taken


ASKED = [
    (GSM8K, "End with a line such as '#### 42'.", True),
    (GSM8K, "How many clips?", False),
    (r"####\s*(\d+)", "End with '#### N'.", True),  # what it begins with is there
    (r"(?i)answer:\s*(\d+)", "Write 'Answer: 42' at the end.", True),
    (r"(?i)answer:\s*(\d+)", "Answer with a number.", False),
    ("", "End with '#### 42'.", False),
    (r"\d+", "What is 3 + 4?", True),
]


@pytest.mark.parametrize("pattern, prompt, asked", ASKED)
def test_which_prompts_ask_for_the_form(pattern, prompt, asked):
    assert answer_pattern.is_asked_for(pattern, prompt) is asked


def loaded(folder, answer: str, template: str = "{prompt}", **settings) -> list[Problem]:
    path = folder / "p.jsonl"
    path.write_text(json.dumps({"prompt": "How many clips?", "answer": answer}), encoding="utf-8")
    preset = Preset(held_out_set=str(path), held_out=1, prompt_template=template, **settings)
    return problems.held_out(preset)


def test_worked_solutions_are_right_answers(tmp_path):
    """GSM8K: every row was refused, since a solution is no integer."""
    [problem] = loaded(tmp_path, SOLUTION, kind="integer", answer_pattern=GSM8K, tolerance=0.5)
    assert problem == Problem("How many clips?", "72", "integer", tolerance=0.5)


def test_a_prompt_that_asks_for_the_form_is_graded_by_it(tmp_path):
    template = "{prompt} End with '#### N'."
    [problem] = loaded(tmp_path, SOLUTION, template, kind="integer", answer_pattern=GSM8K)
    assert (problem.answer, problem.pattern) == ("72", GSM8K)


@pytest.mark.parametrize("answer", ["72", "The sum is 72", "####"])
def test_an_answer_without_the_form_is_refused_with_its_line(tmp_path, answer):
    with pytest.raises(
        UserError, match=r"p.jsonl line 1: answer_pattern '####.*' finds nothing in the answer"
    ):
        loaded(tmp_path, answer, answer_pattern=GSM8K)


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "(?P<", "a{2,1}"])
def test_what_is_no_pattern_is_refused_before_anything_starts(pattern):
    with pytest.raises(UserError, match=r"is no regular expression .*; write for example ####"):
        Preset(answer_pattern=pattern)


def test_a_pattern_survives_the_command_line_and_yaml(tmp_path):
    preset = apply_settings(Preset(), [f"answer_pattern={GSM8K}"])
    assert preset.answer_pattern == GSM8K
    assert repr(GSM8K)[1:-1].replace("\\\\", "\\") in to_yaml(preset)
