"""Final answers: what a response commits to, and whether that is right. Torch-free.

Every function takes the text of a response without its trace, and the kind of the problem.
"""

import functools
import logging
import re

from thinkswitch.math_worker import MathWorker

KINDS = ("integer", "choice", "math", "text")
CHOICES = ("yes", "no", "maybe")
# what stands before an answer: 'the answer is', 'conclusion:'
ANNOUNCED = r"\b(?:answer|conclusion|decision)\b(?:[^.\n]{0,40}?\b(?:is|be)\b|\s*:)\s*:?\s*"
MATH_SECONDS = 10.0  # a comparison that takes longer (9^{9^{9^9}}) counts as different

logger = logging.getLogger(__name__)
_math_worker = MathWorker()  # starts no process before the first question


def grade(text: str, answer: str, kind: str) -> bool:
    """Whether the response gives this answer."""
    found = final_answer(text, kind)
    if found is None:
        return False
    if found == canonical(answer, kind):
        return True
    return kind == "math" and equal_maths(answer, found)


def final_answer(text: str, kind: str) -> str | None:
    """The final answer of a response in canonical form; None when it commits to none.

    A box counts first. Without one, `integer` takes 'The answer is 26.' and `choice` also a plain 'yes' or
    'Maybe, because ...'; any other number could be a step, or the lucky end of an unfinished text.
    """
    if kind == "text":
        return canonical(text, kind)
    content = boxed(text)
    if content is not None:
        return canonical(content, kind)
    if kind == "integer":
        return stated_integer(text)
    return stated_choice(text) if kind == "choice" else None


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{...}`, which may hold braces; None when there is none."""
    box_starts = {box.end() for box in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)}
    open_braces: list[int] = []  # where the content of each starts
    last = None
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            open_braces.append(brace.end())
        elif open_braces:
            start = open_braces.pop()
            if start in box_starts and (last is None or start > last[0]):
                last = (start, brace.start())
    return text[slice(*last)].strip() if last else None


def canonical(text: str, kind: str) -> str | None:
    """An answer without what makes no difference (spacing, units, case of a choice); None when it is none."""
    if kind == "choice":
        return _canonical_choice(text)
    if kind == "integer":
        return _canonical_integer(text)
    return " ".join(text.split()) or None


def _canonical_choice(text: str) -> str | None:
    word = re.sub(r"\\[a-z]+\s*\{|[^a-z]", "", text.casefold())  # \text{Yes} is yes
    return word if word in CHOICES else None


def _canonical_integer(text: str) -> str | None:
    text = text.rsplit("=", 1)[-1]  # m + n = 601
    text = text.replace("\u2212", "-")  # the minus sign
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{\s*([-+]?\d[\d,]*)\s*\}", r"\1", text)  # \text{60}
    text = re.sub(r"(?<=\d)(?:\{,\}|,|\\,)(?=\d{3}(?:\D|$))", "", text)  # 1,000 and 1{,}000
    text = re.sub(r"\^\s*\{?\\circ\}?|\\[!;: ]|\\?[$%]", "", text)  # degrees, spacing, signs
    text = re.sub(r"(?:\\,|\s)*(?:\\(?:text|mathrm)\s*\{[^{}]*\}|[a-zA-Z]+\.?)\s*$", "", text)  # a unit
    number = re.fullmatch(
        r"\{?([-+]?\d{1,400})(?:\.0*)?\}?", text.strip()
    )  # int() refuses 4300 digits and more
    return str(int(number[1])) if number else None


def stated_integer(text: str) -> str | None:
    """The integer that the last 'the answer is ...' of a text gives; a unit of one word may follow."""
    number = r"(\$?[-+\u2212]?\d[\d,]*(?:\.0+)?%?)"
    end = r"(?:\s+[a-z]+)?(?=\s*(?:\.(?!\d)|[!\n]|$))"  # not "26 plus 3"
    claims = re.findall(ANNOUNCED + number + end, without_markup(text))
    return canonical(claims[-1], "integer") if claims else None


def stated_choice(text: str) -> str | None:
    """The choice that a text without a box states: in its last 'the answer is ...', or as its first word."""
    plain = without_markup(text)
    choice = "(" + "|".join(CHOICES) + r")(?=\s*(?:[.,;:!\n]|$))"  # not "no-brainer", not "yes or no"
    claims = re.findall(ANNOUNCED + choice, plain)
    if claims:
        return claims[-1]
    opening = re.match(choice, plain)
    return opening[1] if opening else None


def without_markup(text: str) -> str:
    return re.sub(r"[*_`\"'#>]", "", text).strip().casefold()


@functools.lru_cache(maxsize=4096)
def equal_maths(right: str, found: str) -> bool:
    """Whether two expressions are equal, by math-verify; False when that takes longer than MATH_SECONDS."""
    equal = _math_worker.equal(right, found, MATH_SECONDS)
    if equal is None:
        logger.info("gave up comparing %r with %r after %g s", right, found, MATH_SECONDS)
    return equal is True
