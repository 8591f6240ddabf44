"""Final answers: what a response commits to, and whether that is right. Torch-free.

A response is read without its trace. The right answer passes the same reader.
"""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from thinkswitch import answer_pattern, claims, numerals, options
from thinkswitch.math_worker import MathWorker

TOLERANCE = 0.01  # of a number, as a share of the right one
MATH_SECONDS = 10.0  # a comparison that takes longer (9^{9^{9^9}}) counts as different
MATH_CHARACTERS = 1000  # a longer expression is compared as text
# where the sentence of an answer goes on to explain it
EXPLANATION = re.compile(
    r"(?:,\s*|\s+)(?:because|since|as|which|so|where|given|meaning|but|if|i\.e\.|for)\b"
    r"|,\s+(?=[^\W\d_])(?!or\b|and\b)"
    r"|\s+\(|\s+[—–]\s|:\s(?!\d)"
)

_math_worker = MathWorker()  # starts no process before the first question

Reader = Callable[[str], str | None]


@dataclass(frozen=True)
class Kind:
    """How answers of a kind are read. Each reader gives their canonical form, or None."""

    read: Reader  # a text that is nothing but an answer: what a box holds, or the right answer of a problem
    claimed: Reader  # the rest of a sentence that begins with 'the answer is'
    alone: Reader  # a response with neither box nor such a sentence
    # what a sentence has that gives an answer, even one that cannot be read ('2 or 3')
    mentions: str = r"(?!)"
    expected: str = ""  # what the right answer must be; empty: anything


def grade(text: str, answer: str, kind: str, pattern: str = "", tolerance: float = TOLERANCE) -> bool:
    """Whether the response gives this answer; `pattern` is where its prompt asks for an answer."""
    found = final_answer(text, kind, pattern)
    right = canonical(answer, kind)
    return found is not None and right is not None and same(found, right, kind, tolerance)


def same(found: str, right: str, kind: str, tolerance: float = TOLERANCE) -> bool:
    """Whether two canonical answers mean the same; `tolerance` is a share of the right number."""
    if found == right:
        return True
    if kind == "number":
        return math.isclose(float(found), float(right), rel_tol=0, abs_tol=tolerance * abs(float(right)))
    return kind == "math" and equal_maths(right, found)


def final_answer(text: str, kind: str, pattern: str = "") -> str | None:
    """The final answer of a response in canonical form; None when it commits to none.

    The last box counts, then the last statement ('The answer is 26.'), then a response that is nothing but an
    answer. Any other number could be a step, or the lucky end of an unfinished text.
    """
    reader = KINDS[kind]
    text = claims.normalised(text)
    if pattern and (taken := answer_pattern.take(pattern, text)) is not None:
        return _read(taken, reader)
    box = claims.last_box(text)
    if box:
        return claims.corrected(_read(box.content, reader), text[box.end :], reader.claimed)
    plain = claims.without_markup(text)
    for claim in claims.statements(plain):
        if answer := reader.claimed(claim.text):
            return claims.corrected(answer, plain[claim.end :], reader.claimed)
        if re.match(reader.mentions, claim.text, re.IGNORECASE):
            return None  # it gives two, or none of this kind
    return reader.alone(text)


def canonical(text: str, kind: str) -> str | None:
    """An answer without what makes no difference (spacing, units, case of a choice); None when it is none."""
    text = claims.normalised(text)
    box, reader = claims.last_box(text), KINDS[kind]
    return _read(box.content if box else text, reader) or reader.alone(text)


def _read(content: str, reader: Kind) -> str | None:
    r"""An answer that may be introduced: \text{Answer: } 8."""
    if answer := reader.read(content):
        return answer
    stated = claims.statements(claims.without_markup(numerals.tidy(content[: numerals.MOST_CHARACTERS])))
    return reader.claimed(stated[0].text) if stated else None


# ---- readers


def _claimed(read: Reader) -> Reader:
    """A reader of a sentence's rest, which may go on to explain the answer."""

    def read_claim(claim: str) -> str | None:
        return read(claim) or read(EXPLANATION.split(claim, maxsplit=1)[0])

    return read_claim


def _alone(read: Reader) -> Reader:
    """A reader of a response that is one line, or ends with a line in bold or a heading: **12**, #### 12."""

    def read_response(text: str) -> str | None:
        last, plain = claims.last_line(text), claims.without_markup(text)
        if claims.is_marked(last) or "####" in last:
            plain = claims.without_markup(claims.after_hashes(last))
        return None if "\n" in plain or "=" in plain else read(plain)

    return read_response


def _expression(text: str) -> str | None:
    """An expression as it is written, without the marks of a formula around it."""
    text = " ".join(text.split())
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > 2 * len(opening):
            text = text[len(opening) : -len(closing)].strip()
    return text or None


def _claimed_expression(claim: str) -> str | None:
    r"""An expression in dollars or \(…\), or one without spaces, that ends the sentence or a part of it."""
    formula = re.match(r"(?:\$\$[^$]+\$\$|\$[^$]+\$|\\\(.+?\\\)|\\\[.+?\\\])", claim)
    if formula:
        rest = EXPLANATION.split(claim[formula.end() :], maxsplit=1)[0]
        return _expression(formula[0]) if numerals.is_unit(rest) else None
    words = EXPLANATION.split(claim, maxsplit=1)[0].split()
    return words[0] if len(words) == 1 and re.fullmatch(r"[-+\d.,/^*(){}a-z√π]*\d[^$\s]*", words[0]) else None


def _text(content: str) -> str | None:
    words = numerals.FONT.sub(r"\1", re.sub(r"\\boxed\s*\{\s*\}", "", content))
    return " ".join(words.split()) or None


def _nothing(text: str) -> None:
    return None


DIGITS = r"\W*\d"
KINDS = {
    "integer": Kind(
        numerals.read_integer,
        _claimed(numerals.read_integer),
        _alone(numerals.read_integer),
        DIGITS,
        "an integer",
    ),
    "choice": Kind(
        options.choice_at,
        options.choice_at,
        options.choice_alone,
        rf"\W*(?:{options.ANY})\b",
        "yes, no or maybe",
    ),
    "letter": Kind(
        options.letter_at, options.letter_at, options.letter_alone, r"\W*[A-J]\b", "a letter from A to J"
    ),
    "number": Kind(
        numerals.read_number, _claimed(numerals.read_number), _alone(numerals.read_number), DIGITS, "a number"
    ),
    "math": Kind(_expression, _claimed_expression, _nothing, DIGITS),
    "text": Kind(_text, _nothing, _text),
}


@functools.lru_cache(maxsize=4096)
def equal_maths(right: str, found: str) -> bool:
    """Whether two expressions are equal, by math-verify; False when that fails or takes too much."""
    as_numbers = numerals.exact(right), numerals.exact(found)
    if None not in as_numbers and as_numbers[0] == as_numbers[1]:
        return True
    if max(len(right), len(found)) > MATH_CHARACTERS:
        return False
    return _math_worker.equal(right, found, MATH_SECONDS) is True
