"""`check --data`: what a file of problems was understood as, and what is wrong in which line."""

import json

import pytest

from thinkswitch.cli.main import main

ALPACA = [{"instruction": "Add.", "input": f"{n} + 1", "output": str(n + 1)} for n in range(5)]
SAID = """\
{path}: 5 rows with instruction, input, output, prompt
read with prompt_template={{prompt}} answer_column=output
problems: 5 text, 5 with answers
every answer fits the kind integer: --set kind=integer compares them as such
1. Add. 0 + 1 -> 1
2. Add. 1 + 1 -> 2
3. Add. 2 + 1 -> 3
"""


@pytest.fixture
def check(tmp_path, capsys):
    """`check(rows, *flags)` -> (exit code, what is printed, the file)."""

    def call(rows: list, *flags: str):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), "utf-8")
        code = main(["check", "--data", str(path), *flags])
        return code, capsys.readouterr().out, path

    return call


def test_it_says_what_a_file_was_understood_as(check):
    code, said, path = check(ALPACA)
    assert (code, said) == (0, SAID.format(path=path))
    assert "every answer" not in check(ALPACA, "--set", "kind=integer")[1]


def test_it_names_every_line_that_is_wrong_and_ends_in_one(check):
    rows = [ALPACA[0], "{", {"topic": 1}, ALPACA[1], ALPACA[1], {"prompt": "x", "kind": "essay"}]
    code, said, path = check(rows)
    lines = said.splitlines()
    assert code == 1 and "problems: 3 text, 3 with answers, 1 of them double" in lines
    assert lines[-4] == "wrong: 3 of 6 rows"
    assert lines[-3].startswith(f"  {path} line 2 is not JSON")
    assert lines[-2].startswith(f"  {path} line 3: the prompt template '{{prompt}}' asks for 'prompt'")
    assert lines[-1].startswith(f"  {path} line 6: unknown kind 'essay'")
    many = check(["[]"] * 30)[1].splitlines()
    assert len(many) == 3 + 1 + 20 + 1 and many[-1] == "  and 10 more"


def test_as_json(check):
    code, said, path = check([*ALPACA, "{"], "--json")
    found = json.loads(said)
    assert code == 1 and found["data"] == str(path)
    assert (found["rows"], found["answered"], found["wrong"], found["kinds"]) == (6, 5, 1, {"text": 5})
    assert {"prompt": "Add.\n\n0 + 1", "answer": "1", "kind": "text"}.items() <= found["first"][0].items()
    assert (found["prompt_template"], found["answer_column"]) == ("{prompt}", "output")


@pytest.mark.parametrize(
    "argv, says",
    [
        (["check"], "check wants two checkpoints, INSTRUCT and THINKING, or --data FILE"),
        (["check", "a"], "check wants two checkpoints"),
        (["check", "a", "b", "--data", "c"], "not both in one call"),
        (["check", "--data", "none.jsonl"], "no problems at none.jsonl: the file does not exist"),
    ],
)
def test_what_it_cannot_check_is_one_sentence(capsys, argv, says):
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
