"""What the labelling checkpoint wrote, and which of it is trained on."""

from collections import Counter

import pytest

from thinkswitch.samples import judge, shuffle_answers


def sample(prompt: int, text: str, number: int = 0, finish: str = "stop", prefilled: bool = True) -> dict:
    return {
        "prompt_index": prompt,
        "sample": number,
        "kind": "integer",
        "prompt": f"p{prompt}",
        "text": text,
        "prefilled": prefilled,
        "tokens": 3,
        "finish": finish,
    }


def fits(prompt: str, answer: str) -> bool:
    return len(answer) < 20


def why(text: str, thinks: bool = True, **changes) -> str | None:
    [judged] = judge([sample(0, text, **changes)], thinks=thinks, fits=fits)
    assert judged["kept"] is (judged["why"] is None)
    return judged["why"]


def test_why_answers_are_dropped():
    assert why("t</think>\\boxed{1}") is None
    assert why("t") == "trace never closed"
    assert why("t</think>") == "empty answer"
    assert why("t</think>seven") == "no final answer"
    assert why("t<tool_call>\\boxed{1}") == "wrong close tag"
    assert why("t</think>a</think>\\boxed{1}") == "doubled tag"
    assert why("t</think>\\boxed{1", finish="length") == "cut off"
    assert why("\\boxed{1}", prefilled=False) == "no trace"
    assert why("\\boxed{1}", thinks=False, prefilled=False) is None  # labels=self


def test_the_majority_is_kept_once():
    votes = [sample(0, f"t</think>\\boxed{{{a}}}", number) for number, a in enumerate([5, 7, 7, 5, 7])]
    judged = judge([*votes, sample(1, "t</think>\\boxed{3}")], thinks=True, fits=fits)
    kept = [(s["prompt_index"], s["sample"], s["answer"]) for s in judged if s["kept"]]
    assert kept == [(0, 1, "\\boxed{7}"), (1, 0, "\\boxed{3}")]
    assert Counter(s["why"] for s in judged) == {"outvoted": 2, "agrees with one kept": 2, None: 2}


@pytest.mark.parametrize(
    "kind, answers",
    [
        ("math", ["\\frac{1}{2}", "3", "0.5", "\\dfrac12", "3"]),
        ("math", ["x+1", "x", "1 + x", "1+x", "x"]),
        ("number", ["3.14", "2.5", "3.1416", "3.14159", "2.5"]),
    ],
)
def test_votes_for_the_same_value_in_other_words_are_counted_together(kind, answers):
    """They were compared as text: three that agreed lost against two in the same words."""
    votes = [{**sample(0, f"t</think>\\boxed{{{a}}}", i), "kind": kind} for i, a in enumerate(answers)]
    judged = judge(votes, thinks=True, fits=lambda prompt, answer: True)
    agrees = "agrees with one kept"
    assert [s["why"] for s in judged] == [None, "outvoted", agrees, agrees, "outvoted"]


def test_an_answer_too_long_to_train_on_leaves_its_vote_to_a_shorter_one():
    """The vote came first: a prompt was lost when its first answer was too long."""
    long, short = (
        sample(0, "t</think>so very, very long \\boxed{7}"),
        sample(0, "t</think>\\boxed{7}", number=1),
    )
    judged = judge([long, short], thinks=True, fits=fits)
    assert [s["why"] for s in judged] == ["longer than max_length", None]


def test_the_majority_is_that_of_the_answers_short_enough_to_train_on():
    """Of five answers three say 7, two of them at length: the vote is between the other three."""
    texts = ["\\boxed{7}" + "x" * 20, "y" * 20 + "\\boxed{7}", "\\boxed{7}", "\\boxed{5}", "\\boxed{5}."]
    judged = judge([sample(0, f"t</think>{text}", i) for i, text in enumerate(texts)], thinks=True, fits=fits)
    long = "longer than max_length"
    assert [s["why"] for s in judged] == [long, long, "outvoted", None, "agrees with one kept"]
    judged = judge([{**sample(0, "t</think>" + "z" * 20 + "\\boxed{7}")}], thinks=True, fits=fits)
    assert [(s["said"], s["why"]) for s in judged] == [("7", long)]  # none fits: no vote


def test_votes_in_the_form_that_the_prompt_asks_for():
    votes = [
        {**sample(0, f"t</think>#### {n}", i), "pattern": r"####\s*(\d+)"} for i, n in enumerate([5, 7, 7])
    ]
    judged = judge(votes, thinks=True, fits=fits)
    assert [(s["said"], s["why"]) for s in judged] == [
        ("5", "outvoted"),
        ("7", None),
        ("7", "agrees with one kept"),
    ]


def test_shuffled_stays_within_kinds_and_moves_every_answer():
    kinds = ["a"] * 5 + ["b"] * 4
    answers = [*"12345", *"wxyz"]
    moved = shuffle_answers(kinds, answers, seed=1)
    assert sorted(moved[:5]) == sorted(answers[:5]) and sorted(moved[5:]) == sorted(answers[5:])
    assert all(new != old for new, old in zip(moved, answers, strict=True))
