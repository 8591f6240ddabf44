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
TEXTS = [
    ("Paris", " Paris\n", True),
    ("Paris", "paris is it", False),
    ("Paris", " \n", False),
    ("Paris", r"It is \boxed{\text{Paris}}.", True),
    (r"\boxed{Paris}", "Paris", True),
    ("Paris", r"\boxed{Rome}", False),
]
# Each list: what was tried and found unread at 7a97ed3, then its neighbours.
SENTENCES = [  # choices that a sentence goes on from
    ("yes", "Yes \u2014 the data support it.", True),
    ("yes", "Yes because it works", True),
    ("yes", "**Yes** (p < 0.05)", True),
    ("yes", "The answer is (yes).", True),
    ("no", r"\boxed{\text{No, it does not}}", True),
    ("yes", "Yes and no, it depends", False),
    ("no", "Yes and no, it depends", False),
    ("no", "No \u2013 the data do not support it.", True),
    ("maybe", "*Maybe* (p = 0.06)", True),
    ("no", "No since it fails", True),
    ("yes", "Oui \u2014 les donn\u00e9es le montrent.", True),
    ("yes", r"\boxed{\text{Yes: both arms improved}}", True),
    ("no", "No effect was seen", False),  # may be part of either answer
    ("no", "No and yes.", False),
    ("maybe", "Yes/no/maybe", False),
    ("yes", "Yes? No?", False),
    ("yes", "Yes. Wait, actually no.", False),
    ("no", "The answer is yes. Wait, actually no.", True),
]
UNITS = [  # integers with LaTeX's spacing, units and signs
    ("10000", r"\boxed{10,\!000}", True),
    ("12", r"\boxed{12\text{ cm}^2}", True),
    ("50", r"\boxed{50\,\%}", True),
    (r"10,\!000", r"\boxed{10000}", True),  # the right answer may be written so, too
    (r"\boxed{12\text{ cm}^2}", "The answer is 12.", True),
    (r"50\,\%", "The answer is 50.", True),
    ("$12$", r"\boxed{12}", True),
    ("1234567", r"\boxed{1\,234\,567}", True),
    ("12", r"\boxed{12\,\mathrm{km/h}}", True),
    ("12", r"\boxed{12\ \text{kg}\cdot\text{m}^2}", True),
    ("12", r"\boxed{\$12.00}", True),
    ("12", "\\boxed{\uff11\uff12}", True),
    ("12", r"\boxed{12\pi}", False),
    ("12", r"\boxed{12x}", False),
    ("12", r"\boxed{12 \text{ or } 13}", False),
    ("2", r"\boxed{2\text{ cm} \times 3\text{ cm}}", False),
]
LETTERS = [  # multiple choice: all right, and 60 % reported
    ("B", "Answer: (B)", True),
    ("B", "The answer is **B**", True),
    ("B", r"\boxed{\text{B}}", True),
    ("C", r"\boxed{C: text}", True),
    ("B", r"\boxed{\textbf{(B)}\ 12}", True),
    ("J", "**Answer:** J", True),
    ("B", "B) Paris\n\nA) is the capital of Italy.", True),
    ("B", "Option B is correct.", True),
    ("B", "\u7b54\u6848\uff1a\uff22", True),
    ("A", "A patient with fever", False),
    ("I", "I think so.", False),
    ("B", "The answer is A or B.", False),
    ("B", r"\boxed{\text{A and B}}", False),
    ("B", "A) Paris B) Rome", False),
    ("B", "The answer is not B.", False),
    ("K", r"\boxed{K}", False),
]
NUMBERS = [
    ("3.14159", r"\boxed{3.14}", True),
    ("3.14159", r"\boxed{3.2}", False),
    ("1.6e-19", r"\boxed{1.6 \times 10^{-19}\ \text{C}}", True),
    ("0.75", r"\boxed{\frac{3}{4}}", True),
    (r"\frac{3}{4}", "The answer is 0.75 m/s.", True),
    ("2.5 %", "Answer: 2,5 %", True),
    ("2.5", "The answer is 2.5 or 3.5.", False),
    ("0", r"\boxed{0.001}", False),
    ("2", r"\boxed{\sqrt{4}}", False),
]
GRADES = [
    (kind, *case)
    for kind, cases in dict(
        integer=INTEGERS + UNITS, choice=CHOICES + SENTENCES, letter=LETTERS, number=NUMBERS, text=TEXTS
    ).items()
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


def test_how_far_off_a_number_may_be_is_a_setting():
    assert not grade(r"\boxed{3.2}", "3.14", "number")
    assert grade(r"\boxed{3.2}", "3.14", "number", tolerance=0.02)
    assert grade(r"\boxed{-314}", "-314", "number", tolerance=0)
    assert not grade(r"\boxed{-314}", "314", "number", tolerance=1)


PATTERN = r"####\s*(.+)"  # GSM8K's answers are worked solutions that end in #### 72
PATTERNED = [  # what the prompt asks for in that form, and how it is read
    ("48 / 2 = 24\n#### 72", "72"),
    ("#### 1,072", "1072"),
    ("#### $72.00", "72"),
    ("#### 71\nWait, no.\n#### 72", "72"),  # the last one counts
    (r"#### 72, so \boxed{71}", None),  # the form that was asked for counts, and holds two numbers
    (r"\boxed{72}", "72"),  # another form is read as ever
    ("The answer is 72.", "72"),
    ("#### I do not know", None),
    ("48 / 2 = 24", None),
]


@pytest.mark.parametrize("response, said", PATTERNED)
def test_responses_in_the_form_that_the_prompt_asks_for(response, said):
    assert final_answer(response, "integer", PATTERN) == said


def test_a_right_answer_passes_the_reader_of_responses():
    assert canonical("9 * 8 = <<9*8=72>>72\n#### 72", "integer") == "72"
    assert canonical("The answer is 72.", "integer") == "72"
    assert canonical(r"So $\boxed{72}$.", "integer") == "72"
    assert canonical("(B) Paris", "letter") == "B"
    assert canonical("No, it does not.", "choice") == "no"


def test_mathematics_needs_a_box_or_a_statement():
    assert final_answer("the answer is 1/2", "math") == "1/2"
    assert final_answer("we get 1/2", "math") is None
    assert final_answer("the answer is half of it", "math") is None
    assert final_answer(r"\boxed{ \frac{1} {2} }", "math") == r"\frac{1} {2}"
    assert canonical(" \n", "math") is None
