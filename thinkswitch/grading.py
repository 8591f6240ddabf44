"""Final answers: what a response commits to, and whether that is right. Torch-free."""

import functools
import json
import re
import subprocess
import sys

KINDS = ("integer", "choice", "math", "text")
CHOICES = ("yes", "no", "maybe")


def boxed(text: str) -> str | None:
    """What stands in the last complete `\\boxed{...}`, braces nested as deep as they come."""
    for start in reversed([m.end() for m in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]):
        depth = 1
        for i in range(start, len(text)):
            depth += (text[i] == "{") - (text[i] == "}")
            if depth == 0:
                return text[start:i].strip()
    return None


def final_answer(text: str, kind: str) -> str | None:
    """The canonical final answer of a response whose trace is stripped; None when it commits to none.

    A box is required, or a lucky number in an unfinished text would count; only `choice` also takes a plain
    'yes', 'The answer is no.' or 'Maybe, because ...'.
    """
    if kind == "text":
        return " ".join(text.split()) or None
    inside = boxed(text)
    if inside is not None:
        return canonical(inside, kind)
    return stated_choice(text) if kind == "choice" else None


def grade(text: str, answer: str, kind: str) -> bool:
    """Whether a response whose trace is stripped gives this answer."""
    said = final_answer(text, kind)
    if said is None:
        return False
    right = canonical(answer, kind)
    return said == right or (kind == "math" and same_maths(answer, said))


def canonical(text: str, kind: str) -> str | None:
    if kind == "choice":
        word = re.sub(r"\\[a-z]+\s*\{|[^a-z]", "", text.casefold())
        return word if word in CHOICES else None
    if kind == "integer":
        text = text.rsplit("=", 1)[-1].replace("\u2212", "-")  # m + n = 601
        text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{\s*([-+]?\d[\d,]*)\s*\}", r"\1", text)
        text = re.sub(r"(?<=\d)(?:\{,\}|,|\\,)(?=\d{3}(?:\D|$))", "", text)
        text = re.sub(r"\^\s*\{?\\circ\}?|\\[!;: ]|\\?[$%]", "", text)  # degrees, spacing, signs
        text = re.sub(r"(?:\\,|\s)*(?:\\(?:text|mathrm)\s*\{[^{}]*\}|[a-zA-Z]+\.?)\s*$", "", text).strip()  # a unit at the end
        found = re.fullmatch(r"\{?([-+]?\d{1,400})(?:\.0*)?\}?", text)
        return str(int(found[1])) if found else None
    return " ".join(text.split()) or None


def stated_choice(text: str) -> str | None:
    plain = re.sub(r"[*_`\"'#>]", "", text).strip().casefold()
    choice = "(" + "|".join(CHOICES) + r")(?=\s*(?:[.,;:!\n]|$))"  # not "no-brainer", not "yes or no"
    claims = re.findall(r"\b(?:answer|conclusion|decision)\b(?:[^.\n]{0,40}?\b(?:is|be)\b|\s*:)\s*:?\s*" + choice, plain)
    if claims:
        return claims[-1]
    opening = re.match(choice, plain)
    return opening[1] if opening else None


@functools.lru_cache(maxsize=4096)
def same_maths(right: str, said: str) -> bool:
    """math-verify in a process of its own: it times itself out by SIGALRM, which no worker thread may use."""
    code = ("import json,sys; from math_verify import parse, verify; a, b = json.load(sys.stdin); "
            "print(verify(parse('$' + a.strip('$') + '$', parsing_timeout=None), "
            "parse('$' + b.strip('$') + '$', parsing_timeout=None), timeout_seconds=None))")
    try:
        done = subprocess.run([sys.executable, "-c", code], input=json.dumps([right, said]), text=True,
                              capture_output=True, timeout=10)
    except subprocess.TimeoutExpired:  # 9^{9^{9^9}}
        return False
    if done.returncode:
        raise RuntimeError(f"math-verify failed on {right!r} and {said!r}: {done.stderr.strip()}")
    return done.stdout.strip() == "True"
