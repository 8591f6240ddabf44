"""What a response commits to, and whether that is right. Answers of the kind `math` are in tests/process."""

import pytest

from thinkswitch import claims
from thinkswitch.grading import canonical, final_answer, grade

INTEGERS = [  # right answer, response, is it right
    ("25", r"\boxed{25}", True),
    ("25", r"\boxed{025}", True),
    ("204", r"so it is \boxed{204.0}", True),
    ("1000", r"\boxed{1,000}", True),
    ("1000", r"\boxed{1{,}000}", True),
    ("60", r"\boxed{\text{60}}", True),
    ("113", r"\boxed{113^\circ}", True),
    ("113", r"\boxed{113^{\circ}}", True),
    ("33", r"\boxed{33\text{ units}}", True),
    ("601", r"\boxed{m+n=601}", True),
    ("-4", r"\boxed{-4}", True),
    ("7", r"\boxed{5} no, \boxed{7}", True),
    ("5", r"\boxed{5} no, \boxed{7}", False),
    ("5", r"\boxed{5} or \boxed{7", True),  # the last complete box
    ("540", "we get 540", False),  # neither box nor statement: it may be a step, or a text cut short
    ("540", "the answer is 540", True),  # what small models say who were asked for no box
    ("540", "60 * 9 = 540 apples. **The answer is 540.**", True),
    ("1540", "The answer is $1,540.", True),
    ("-5", "The answer is: \u22125", True),
    ("540", "The final answer is 540 apples.", True),
    ("26", "The answer is 26 plus 3.", False),
    ("2", "The answer is 2 or 3.", False),
    ("2", "The answer is 2.5.", False),
    ("7", "The answer is 5. No: the answer is 7.", True),
    ("5", "The answer is 5. No: the answer is 7.", False),
    ("8", "The answer is 7, so \\boxed{8}", True),  # a box counts first
    ("9", "The answer is nine.", False),
    ("540", r"\boxed{540", False),
    ("2", r"\boxed{\frac{4}{2}}", False),
    ("1", r"\boxed{}", False),
    ("12", r"\boxed{1,2}", False),
    ("34", r"\boxed{3 \text{ and } 4}", False),  # two answers are none
    ("12", r"\boxed{1 2}", False),
    ("12", r"\boxed{\$12}", True),
    ("12", r"\boxed{12\%}", True),
    ("12", r"\boxed{{12}}", True),
    ("12", r"\boxed{12 cm}", True),
    ("-5", "\\boxed{\u22125}", True),
    ("1000", r"\boxed{1\,000}", True),
    # int() refuses so many digits: a run died of it, and died again at each resume
    ("3", "\\boxed{" + "3" * 5000 + "}", False),
]
CHOICES = [
    ("yes", r"\boxed{yes}", True),
    ("yes", r"\boxed{\text {yes}}", True),
    ("yes", "Yes. In conclusion no adverse effect was seen.", True),
    ("maybe", "Maybe. We cannot answer no or yes.", True),
    ("yes", "The answer to the question is yes.", True),
    ("no", "The correct answer would be no", True),
    ("no", "The answer is no-brainer", False),
    ("yes", "The answer is yes or no, depending", False),
    ("yes", r"\boxed{\text{Yes}}", True),
    ("no", "No.", True),
    ("maybe", "**Maybe**, since the sample is small.", True),
    ("no", "There is no effect on yes-sayers. The answer is no.", True),
    ("yes", "There is no effect. Final answer: **yes**", True),
    ("no", "There is no effect", False),  # commits to nothing
    ("no", "Nobody knows", False),
    ("no", r"\boxed{yes} The answer is no", False),  # the box decides
]
TEXTS = [("Paris", " Paris\n", True), ("Paris", "paris is it", False), ("Paris", " \n", False)]
GRADES = [
    (kind, *case)
    for kind, cases in dict(integer=INTEGERS, choice=CHOICES, text=TEXTS).items()
    for case in cases
]


@pytest.mark.parametrize("kind, answer, response, right", GRADES)
def test_grade(kind, answer, response, right):
    assert grade(response, answer, kind) is right


BOXES = {
    r"\boxed{\frac{1}{\sqrt{2}}}": r"\frac{1}{\sqrt{2}}",
    r"\boxed {x}": "x",
    r"\fbox{3}": "3",
    r"\boxed{a{b}": None,
    r"\boxed{\boxed{3}}": "3",  # of two complete boxes, the one that begins last
    r"\boxed{\boxed{3} = x": "3",
    r"} \boxed{4} }": "4",
    "none": None,
}


@pytest.mark.parametrize("text, content", BOXES.items(), ids=BOXES)
def test_boxed(text, content):
    box = claims.last_box(text)
    assert (box and box.content) == content


def test_a_model_that_repeats_an_open_box_is_read_in_one_pass():
    """Each open box was once searched to the end of the text: 10 000 of them took a minute."""
    assert claims.last_box("\\boxed{" * 20_000) is None
    assert claims.last_box("\\boxed{" * 20_000 + "7}").content == "7"


def test_mathematics_needs_a_box_too():
    assert final_answer("the answer is 1/2", "math") is None
    assert final_answer(r"\boxed{ \frac{1} {2} }", "math") == r"\frac{1} {2}"
    assert canonical(" \n", "math") is None
