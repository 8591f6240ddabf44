r"""Claims: the places where a response says what its answer is. Torch-free.

A box (`\boxed{…}`, `<answer>…</answer>`), a statement ('The answer is 26.', 'Antwort: 26', a heading with the
answer below it), and what takes either back ('Wait, no: 27'). What such a place holds is read by its kind.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

MOST_CHARACTERS = 200  # of a statement: a longer sentence explains
MOST_CLAIMS = 50  # that are read, from the last one back: a model may repeat itself until it is cut off

WORDS = (
    r"\b(?:answer|ans|conclusion|decision|(?:correct|right|best) (?:option|choice)|antwort|antwoord|respuesta"
    r"|resposta|risposta|r[eé]ponse|odpowied[zź]|ответ)\b"
)
IS = r"\b(?:is|be|ist|lautet|es|est|jest)\b|(?<!\w)[èé](?!\w)"
# what stands before an answer: 'the answer is', 'conclusion:', 'I would say', '答案是'
STATEMENT = re.compile(
    rf"{WORDS}(?P<between>[^.:=\n]{{0,40}}?)(?:(?:{IS})\s*:?|[:=—–]|\s-\s)\s*"
    r"|\bI(?:'d|’d| would| will|'ll|’ll)? (?:say|answer|choose|pick|go with)\b:?\s*"
    r"|(?:选择?|選)\s*(?=\(?[A-J](?!\w))"
    r"|(?:答案|选项|答え|정답|답|答(?=:)|الجواب|الإجابة)\s*(?:应该|應該)?(?:是|为|為|は|은|는|هو|هي|:)\s*:?\s*"
    rf"|^[^\w\n]*(?:the )?(?:final |correct )?{WORDS}[^\w\n]*\n\s*",
    re.IGNORECASE | re.MULTILINE,
)
NEGATED = re.compile(r"\bnot\b|n['’]t\b|\bcannot\b|\bnever\b|\bneither\b", re.IGNORECASE)
CONDITION = re.compile(r"\b(?:if|whether|suppose|assuming|unless)\b[^.\n]{0,30}$", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.!;](?=\s|$)|\?|[。！？]|\n")  # not the point of 2.5

# Only where a sentence begins so, or at once: that some other option 'is wrong' is what explanations say.
TAKEN_BACK = re.compile(
    r"(?:^\W*|[.!?…:;,\n—–(]\s*|\bno,? |\bbut )(?:wait|hmm+|oops|sorry|hold on|scratch that)\b[^\n]{0,80}?"
    r"(?:\bwrong\b|\bincorrect\b|\bnot (?:right|correct)\b|(?<!no )\bmistake\b|\bshould (?:be|have been)\b)"
    r"|\bwait\b[\s,.…:—–-]{1,3}(?:actually\b|(?:actually,? )?no\b\s*[,.:;—–-])"
    r"|\bno\b[\s,.…:—–-]{1,3}wait\b|\bcorrection\s*:"
    r"|^\W*(?:no, )?(?:that|this) (?:is|was) (?:wrong|incorrect|not right|not correct)"
    r"(?=\W*(?:$|\n|[.,;:!—–]))",
    re.IGNORECASE,
)
INSTEAD = re.compile(
    r"\b(?:wait|no|actually|correction|should (?:be|have been)|must be|(?:it|answer|that) is)\b[,:]?\s+",
    re.IGNORECASE,
)

TAGS = (("<answer>", "</answer>"), ("<|begin_of_box|>", "<|end_of_box|>"))  # the second pair is GLM's
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}


class Box(NamedTuple):
    content: str
    end: int  # where the text goes on


class Claim(NamedTuple):
    text: str
    end: int


def normalised(text: str) -> str:
    """The text with ASCII for full-width signs and one space for several: no search meets a run of them."""
    text = re.sub(r"[^\S\n\u00a0\u202f]+", " ", text.translate(FULL_WIDTH))
    return re.sub(r"\n[ \n]*\n", "\n\n", re.sub(r"[\u00a0\u202f]{2,}", " ", text))


def without_markup(text: str) -> str:
    """The text without Markdown's marks and quotation marks; a formula on lines of its own is on one."""
    text = re.sub(r"(?<!\s)\s+\\\]", r"\\]", re.sub(r"\\\[\s+", r"\\[", text))
    text = re.sub(r"\$\$([^$]+)\$\$", lambda formula: f"$${formula[1].strip()}$$", text)
    text = re.sub(r"^[ \t]*(?:#{1,6}[ \t]+|>[ \t]?)+", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*|__|[`\"“”„«»]|(?<!\w)['‘]|['’](?!\w)", "", text)
    text = re.sub(r"(?<![\w*])\*(?=\S)([^*\n]+)(?<=\S)\*(?![\w*])", r"\1", text)
    return re.sub(r"(?<!\w)_(?=\S)([^_\n]+)(?<=\S)_(?!\w)", r"\1", text).strip()


def last_box(text: str) -> Box | None:
    r"""The last complete box with something in it: `\boxed{…}`, which may hold braces, or one of TAGS."""
    boxes = [*_braced_boxes(text), *_bare_boxes(text), *_tagged(text)]
    filled = [(start, end) for start, end in boxes if text[start:end].strip()]
    if not filled:
        return None
    start, end = max(filled)
    return Box(text[start:end].strip(), end)


def _braced_boxes(text: str) -> Iterator[tuple[int, int]]:
    box_starts = {box.end() for box in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)}
    open_braces: list[int] = []  # where the content of each starts
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            open_braces.append(brace.end())
        elif open_braces and (start := open_braces.pop()) in box_starts:
            yield start, brace.start()


def _bare_boxes(text: str) -> Iterator[tuple[int, int]]:
    r"""TeX takes one character or word: `\boxed 8`."""
    for box in re.finditer(r"\\boxed[ \t]*([-+]?\d+|(?<=[ \t])\w)", text):
        yield box.span(1)


def _tagged(text: str) -> Iterator[tuple[int, int]]:
    for opening, closing in TAGS:
        end = text.rfind(closing)
        start = text.rfind(opening, 0, max(end, 0))
        if start >= 0:
            yield start + len(opening), end


def statements(text: str) -> list[Claim]:
    """What follows each 'the answer is' up to the end of its sentence, the last one first.

    Without those that deny ('cannot be'), ask or suppose. `text` has no markup.
    """
    found = []
    for match in list(STATEMENT.finditer(text))[-MOST_CLAIMS:]:
        claim = _sentence(text, match.end())
        denied = NEGATED.search(match["between"] or "") or NEGATED.match(claim.text)
        asked = text[claim.end : claim.end + 1] == "?"
        if not denied and not asked and not CONDITION.search(text, max(0, match.start() - 50), match.start()):
            found.append(claim)
    return found[::-1]


def _sentence(text: str, start: int) -> Claim:
    end = SENTENCE_END.search(text, start, start + MOST_CHARACTERS)
    stop = end.start() if end else min(len(text), start + MOST_CHARACTERS)
    claim = text[start:stop].strip()
    return Claim(claim if "{" in claim else claim.rstrip("}"), stop)  # {"answer": 12}


def corrected(answer: str | None, tail: str, read: Callable[[str], str | None]) -> str | None:
    """The answer, or what `read` finds in its stead where the text after it takes it back."""
    back = TAKEN_BACK.search(tail)
    if not back:
        return answer
    instead = list(INSTEAD.finditer(tail, back.start()))[-MOST_CLAIMS:]
    found = (read(_sentence(tail, one.end()).text) for one in reversed(instead))
    return next((answer for answer in found if answer), None)


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].strip()


def is_marked(line: str) -> bool:
    """Whether a line is all bold or a heading, as an answer that stands below its working."""
    return bool(re.fullmatch(r"(?:\*\*|__).*(?:\*\*|__)[.!]?|#{1,6}[ \t].*", line))


def after_hashes(line: str) -> str:
    """The end of 'She needs 72. #### 72', as GSM8K teaches it; else the line."""
    return line.rpartition("####")[2].strip()
