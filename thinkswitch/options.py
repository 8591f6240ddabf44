"""Options: answers that are one of a few, yes, no or maybe and the letters A to J. Torch-free.

The functions look at the beginning of a text, which is the content of a box, a statement or a whole response.
"""

import re

from thinkswitch import claims, numerals

CHOICES = ("yes", "no", "maybe")
WORDS = {
    "yes": r"yes|oui|ja|sí|sì|si(?=\W*$|[,.!])|sim|да|tak",
    "no": "no|non|nein|nee|nej|nei|não|нет|nie",
    "maybe": "maybe|vielleicht|peut-être|quizás?|tal vez|talvez|forse|misschien|возможно|może",
}
WITHOUT_SPACES = {  # whole: 是否 is 'whether'
    "yes": "是的|是|对|はい|예|네",
    "no": "不是|否|不|いいえ|아니요|아니오",
    "maybe": "也许|可能|或许|たぶん|아마도?",
}
ANY = "|".join(WORDS.values())
FILLER = re.compile(
    r"(?:(?:a|an|the|most|very|clear(?:ly)?|definite(?:ly)?|definitive|likely|probably|simply|just"
    r"|therefore|thus|then|actually|indeed|clearly|firm|final|answer|decision|is)\b[\s:,]*|[^\w?])*+"
)
HEDGE = re.compile(
    rf"\s*(?:/|,?\s*(?:and|or|und|oder|et|ou|y|o|e|и|или)\s+)\s*(?:also\s+)?(?P<and>{ANY})(?!\w)"
    rf"|,?\s+(?P<next>{ANY})(?=\W*$|[,;?])|\s+(?P<then>{ANY})(?!\w)|\s*(?P<asked>\?)"
)
# 'No' before a noun says what there is not, and may be part of either answer: 'No effect was found.'
AFTER_NO = re.compile(
    r"\s*(?:$|[^\w\s-]|[—–-](?!\w))|\s+(?:because|since|as|it|they|this|that|these|he|she|we|there|not|but"
    r"|for|in|based|according|due|given|when|if|—|–|-)\b"
)
CONCLUDING = re.compile(
    r"\W*(?:in conclusion|in summary|overall|therefore|thus|so|hence)\b[\s,:]*", re.IGNORECASE
)

LETTER_NAMES = (
    r"(?:option|choice|answer|letter|the|is|correct|best|right|therefore|likely|most|clearly|just|simply"
    r"|la|el|le|die|l'|opci[oó]n|op[cç][aã]o|opzione|optie|lettre|letra)"
)
LETTER_FILLER = rf"(?i:{LETTER_NAMES}\b[\s:]*|[\s:])*+"
LETTER = re.compile(
    rf"{LETTER_FILLER}(?:[(\[]\s*(?P<inside>[A-Ja-j])\s*[)\]]|(?P<bare>[A-Ja-j])"
    rf"(?P<mark>\s*[).:](?!\w)|(?!\w)))"
)
AFTER_BARE = re.compile(
    r"\s*(?:$|\.(?!\w)|[;!—–])|\s+-\s|\s*\(|\s+(?:because|since|as|is|for|given|due|and)\b|,\s"
)
TWO_LETTERS = re.compile(r"\s*(?:,|/|&|and|or|und|oder|et|ou|y|o)\s*(?:also\s+)?\(?[A-J]\)?(?![\w'’])")
CALLED_RIGHT = re.compile(
    r"(?:^|[.,;:(]\s*|\b(?i:option|choice|answer|letter|so|thus|therefore|hence|that)\s+)"
    r"\(?([A-J])(?:[.):] ?[^.\n]{0,60}|\))? is (?:the |a )?(?:correct|right|best)"
    r"(?: (?:answer|option|choice|one|response))?(?=\s*(?:[.,;:!)]|$)|\s+(?:because|since|as)\b)",
    re.MULTILINE,
)


def choice_at(text: str) -> str | None:
    """The choice that a text begins with; None for none, and for two ('yes and no')."""
    plain = numerals.tidy(text[: numerals.MOST_CHARACTERS]).casefold()
    start = FILLER.match(plain).end()  # type: ignore[union-attr]  # it may be empty, so it always matches
    for choice, words in WITHOUT_SPACES.items():
        if re.compile(rf"(?:{words})(?=$|[\s.,;:!、。，；：！)]|です|だ)").match(plain, start):
            return choice
    for choice, words in WORDS.items():
        found = re.compile(rf"(?:{words})(?!\w|-\w)").match(plain, start)
        if found and not _is_hedged(words, HEDGE.match(plain, found.end())):
            is_determiner = choice == "no" and not AFTER_NO.match(plain, found.end())
            return None if is_determiner else choice
    return None


def _is_hedged(words: str, hedge: re.Match | None) -> bool:
    """Whether another choice than `words` follows, or a question mark."""
    return hedge is not None and not re.fullmatch(words, hedge[hedge.lastgroup or 0])


def choice_alone(text: str) -> str | None:
    """What a response without box or statement chooses: in its last line, if that is all, or its first."""
    plain = claims.without_markup(text)
    last = claims.last_line(plain)
    whole = re.fullmatch(rf"\W*(?:{ANY}|{'|'.join(WITHOUT_SPACES.values())})\W*", last.casefold())
    concluding = CONCLUDING.match(last)
    if (whole or concluding) and (answer := choice_at(last[concluding.end() :] if concluding else last)):
        return claims.corrected(answer, last, choice_at)
    return claims.corrected(choice_at(claims.first_line(plain)), plain, choice_at)


def letter_at(text: str) -> str | None:
    """The letter that a text begins with: `B`, `(B)`, `B) Paris`, `option B`, `B because`; None for two."""
    plain = numerals.tidy(text[: numerals.MOST_CHARACTERS])
    found = LETTER.match(plain)
    if not found:
        return None
    letter, rest = found["inside"] or found["bare"], plain[found.end() :]
    if TWO_LETTERS.match(plain, found.end()) or _lists_options(letter.upper(), found["mark"], rest):
        return None
    if found["bare"] and not found["mark"] and not AFTER_BARE.match(rest):
        return None
    if letter == "a" and not found["inside"] and not found["mark"] and rest.strip():  # the article
        return None
    return letter.upper()


def _lists_options(letter: str, mark: str | None, rest: str) -> bool:
    """Whether the next letter follows with the same mark: A) Paris B) Rome."""
    following = chr(ord(letter) + 1)
    return bool(mark) and bool(re.search(rf"(?<!\w){following}{re.escape((mark or '').strip())}", rest))


def letter_alone(text: str) -> str | None:
    """What a response without box or statement chooses.

    It calls an option right, or has it in its last line alone, or begins with it.
    """
    plain = claims.without_markup(text)
    called = [one[1] for one in CALLED_RIGHT.finditer(plain) if not claims.NEGATED.search(one[0])]
    if called:
        return called[-1]
    last = claims.last_line(text)
    if claims.is_marked(last) or re.fullmatch(r"\W*[A-J]\W*", last):
        return letter_at(claims.without_markup(last))
    first = claims.first_line(plain)
    is_option = re.match(r"\(?[A-J](?:[).:]|$| [-–—] |,? (?:because|since|as)\b)", first)
    return claims.corrected(letter_at(first), plain, letter_at) if is_option else None
