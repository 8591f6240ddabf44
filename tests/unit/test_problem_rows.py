"""Columns of rows: usual names, Alpaca, chats. What a row means is the same in every format."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from thinkswitch import problems
from thinkswitch.errors import UserError
from thinkswitch.problem_rows import answer_text, usual_columns
from thinkswitch.problems import Problem

ASKED = {"role": "user", "content": "What is 1 + 1?"}
REPLIED = {"role": "assistant", "content": "2"}
SYSTEM = {"role": "system", "content": "Answer with a number."}
SHAREGPT = [{"from": "human", "value": "What is 1 + 1?"}, {"from": "gpt", "value": "2"}]
WITH_SYSTEM = "Answer with a number.\n\nWhat is 1 + 1?"
PARTS = [{"type": "text", "text": "What is"}, {"type": "text", "text": "1 + 1?"}]

ROWS = {  # CASES 3: one row as people have it -> its prompt and answer
    "alpaca": (dict(instruction="Add.", input="1 + 1", output="2"), "Add.\n\n1 + 1", "2"),
    "alpaca without an input": (dict(instruction="Add 1 and 1.", input="", output="2"), "Add 1 and 1.", "2"),
    "alpaca, input null": (dict(instruction="Add 1 and 1.", input=None, output="2"), "Add 1 and 1.", "2"),
    "alpaca with a system prompt": (
        dict(system="Be brief.", instruction="Add.", input="1 + 1", output="2"),
        "Be brief.\n\nAdd.\n\n1 + 1",
        "2",
    ),
    "dolly": (dict(instruction="Add.", context="1 + 1", response="2"), "Add.\n\n1 + 1", "2"),
    "alpaca without the column": (dict(instruction="Add 1 and 1.", response="2"), "Add 1 and 1.", "2"),
    "messages": (dict(messages=[ASKED, REPLIED]), "What is 1 + 1?", "2"),
    "messages with a system turn": (dict(messages=[SYSTEM, ASKED, REPLIED]), WITH_SYSTEM, "2"),
    "messages of a developer": (
        dict(messages=[{**SYSTEM, "role": "developer"}, ASKED, REPLIED]),
        WITH_SYSTEM,
        "2",
    ),
    "messages of several turns": (
        dict(messages=[ASKED, REPLIED, {"role": "user", "content": "And 3?"}]),
        "What is 1 + 1?",
        "2",
    ),
    "messages without a reply": (dict(messages=[ASKED]), "What is 1 + 1?", ""),
    "messages with parts": (dict(messages=[{"role": "user", "content": PARTS}]), "What is\n1 + 1?", ""),
    "messages beside an answer": (dict(messages=[ASKED, REPLIED], answer="two"), "What is 1 + 1?", "two"),
    "messages as text in a cell": (dict(messages=json.dumps([ASKED, REPLIED])), "What is 1 + 1?", "2"),
    "a tool in between": (
        dict(messages=[ASKED, {"role": "tool", "content": "x"}, REPLIED]),
        "What is 1 + 1?",
        "",
    ),
    "conversations": (dict(conversations=SHAREGPT), "What is 1 + 1?", "2"),
    "conversations with a system turn": (
        dict(conversations=[{"from": "system", "value": "Answer with a number."}, *SHAREGPT]),
        WITH_SYSTEM,
        "2",
    ),
    "conversations that begin with a greeting": (
        dict(id="x", conversations=[{"from": "gpt", "value": "Hi!"}, *SHAREGPT]),
        "What is 1 + 1?",
        "2",
    ),
    "conversations by columns": (
        dict(conversations={"from": ["human", "gpt"], "value": ["What is 1 + 1?", "2"]}),
        "What is 1 + 1?",
        "2",
    ),
    "a prompt that is a chat": (dict(prompt=[SYSTEM, ASKED], completion=[REPLIED]), WITH_SYSTEM, "2"),
    "preferences": (dict(prompt="What is 1 + 1?", chosen=[ASKED, REPLIED]), "What is 1 + 1?", "2"),
    "question and solution": (dict(question="a", solution="2"), "a", "2"),
    "problem and final_answer": (dict(problem="a", solution="long", final_answer="2"), "a", "2"),
    "capitals": (dict(Question="a", Answer="2"), "a", "2"),
    "label, which is a number": (dict(text="a", label=2), "a", "2"),
    "response": (dict(query="a", response="2"), "a", "2"),
    "user and assistant": (dict(user="a", assistant="2"), "a", "2"),
    "an index before": ({"": 0, "prompt": "a", "answer": "2"}, "a", "2"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_means_the_same_whatever_its_columns(tmp_path, name):
    row, prompt, answer = ROWS[name]
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    assert problems.load(str(path)) == [Problem(prompt, answer, "text")]
    if "" not in row:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "p.parquet")
        assert problems.load(str(tmp_path / "p.parquet")) == [Problem(prompt, answer, "text")]


@pytest.mark.parametrize(
    "row, says",
    [
        ({"messages": [REPLIED]}, "line 1: the prompt is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a turn of its chat holds image"),
        ({"messages": []}, "asks for 'prompt', the row has messages"),
        ({"messages": ["a", "b"]}, "asks for 'prompt', the row has messages"),
        ({"messages": [{"speaker": "a"}]}, "asks for 'prompt', the row has messages"),
        ({"instruction": "", "input": "", "output": "2"}, "line 1: the prompt is empty"),
    ],
)
def test_a_row_without_a_question_is_named(tmp_path, row, says):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({"messages": [ASKED, REPLIED]}) + "\n", "utf-8")
    with pytest.raises(UserError, match=says):
        problems.load(str(path))


def test_columns_that_were_asked_for_go_first():
    columns = ["prompt", "question", "answer", "final_answer"]
    assert usual_columns(columns, "question", "final_answer") == ("question", "final_answer")
    assert usual_columns(columns, "topic", "gold") == ("prompt", "answer")
    assert usual_columns(columns, None, "gold") == (None, "answer")  # the template says more than one column
    assert usual_columns(["Prompt", "Gold"], "prompt", "gold") == ("Prompt", "Gold")
    assert usual_columns(["topic"], "prompt", "answer") == ("prompt", "answer")  # for the error
    assert usual_columns(["text", "label"], "prompt", "answer") == ("text", "label")


def test_a_column_that_somebody_has_named_is_not_guessed(tmp_path):
    """A misspelt answer_column would otherwise be scored against another column, silently."""
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"question": "a", "solution": "2"}) + "\n", "utf-8")
    assert problems.load(str(path), answer_column="final") == [Problem("a", "", "text")]
    with pytest.raises(UserError, match="asks for 'problem', the row has question, solution"):
        problems.load(str(path), template="{problem}")


@pytest.mark.parametrize(
    "value, kind, text",
    [
        ("<think>3, no, 2</think>\n2", "text", "2"),
        ("so it is two</think>\n\n2", "text", "2"),
        ("<think>\nx\n</think>\n<answer>2</answer>", "text", "2"),
        ("[THINK]x[/THINK]2", "text", "2"),
        ("a <b> c", "text", "a <b> c"),
        (" 2 ", "text", "2"),
        (2, "integer", "2"),
        (2.5, "math", "2.5"),
        (float("nan"), "text", ""),
        (None, "text", ""),
        (["2", "two"], "text", "2"),
        ([], "text", ""),
        ({"text": ["two"], "answer_start": [7]}, "text", "two"),
        ({"value": "2", "aliases": ["two"]}, "text", "2"),
        (True, "choice", "yes"),
        (False, "choice", "no"),
        (True, "text", "True"),
    ],
)
def test_a_right_answer_is_a_text(value, kind, text):
    assert answer_text(value, kind) == text


def test_a_kind_that_is_empty_is_the_preset_s(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("prompt,answer,kind\na,2,\nb,yes,choice\n", "utf-8")
    assert [p.kind for p in problems.load(str(path), kind="integer")] == ["integer", "choice"]
