r"""Numerals: numbers as people and models write them, in words of LaTeX or without. Torch-free.

`1,000`, `10,\!000`, `$4.50`, `12\text{ cm}^2`, `50\,\%`, `x = -7`, `3 million`; and for any number also
`\frac{3}{4}`, `1.6 \times 10^{-19}`, `4,5`.
"""

import re
from fractions import Fraction

MOST_CHARACTERS = 500  # of an answer; a longer one is an essay
MOST_DIGITS = 300  # a float holds no more, and int() refuses 4300

FONTS = (
    "text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|mathsf|mbox|operatorname|underline|bm|boldsymbol"
)
FONT = re.compile(rf"\\(?:{FONTS})\s*\{{((?:[^{{}}]++|\{{[^{{}}]*\}})*+)\}}")
COMMAND_BEFORE_FONT = re.compile(rf"(\\[a-zA-Z]+)(?=\\(?:{FONTS})\s*\{{)")  # \mu\text{m} is no \mum
NOTHING = re.compile(
    r"\\!|\\(?:left|right|displaystyle|bf|[bB]ig[lr]?|small|[lL]arge|huge)(?![a-zA-Z])"
    r"|\\(?:text)?color\{\w+\}|\*\*|[`\"]"
)
SPACE = re.compile(r"\\[,;: ]|~(?=\\|\s*[a-zA-Z])|\\q?quad|[\u00a0\u2009\u202f]")
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")

GROUPED = r"\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d{1,3}(?:[ '’]\d{3})+(?!\d)"  # 10,00,000 is Indian
DECIMAL = rf"(?:{GROUPED}|\d+)(?:\.\d*)?|\.\d+"
POWER = r"\s*(?:\\times|\\cdot|[×x*·])\s*10\s*\^\s*\{?\s*([-+]?\d{1,3})\s*\}?|[eE]([-+]?\d{1,3})(?!\d)"
WHOLE = re.compile(rf"(?P<sign>[-+]?)\s*(?P<decimal>{DECIMAL})")
TEX_FRACTION = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<whole>\d*)\s*\\[dtc]?frac\s*"
    r"(?:\{\s*(?P<over>[-+]?\d+)\s*\}\s*\{\s*(?P<under>\d+)\s*\}|(?P<digit>\d)\s*(?P<digit_under>\d))"
)
FRACTION = re.compile(r"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)\s+)?(?P<over>\d+)\s*/\s*(?P<under>\d+)")
POWER_OF_TEN = re.compile(r"(?P<sign>[-+]?)\s*10\s*\^\s*\{?\s*(?P<power>[-+]?\d{1,3})\s*\}?")
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
SCALE = re.compile(rf"\s*({'|'.join(SCALES)})\b", re.IGNORECASE)

SEVERAL = re.compile(r"=[^=]*(?:,(?!\d{3})|;|\b(?:and|or)\b)[^=]*=")  # x = 96, y = 3
FILLER = re.compile(
    r"^(?:\([A-J]\)|(?:\\approx|\\sim|[≈~]|(?:about|approximately|approx\.?|roughly|around|exactly"
    r"|therefore|thus|hence|then|simply|just|indeed|still|equal to)(?!\w))[\s,:]*)+",
    re.IGNORECASE,
)
CURRENCY = re.compile(r"^([-+]?)\s*(?:(?:US)?\\?[$€£¥₹]|Rs\.?|USD|EUR)\s*")
# What may follow a number without changing it: degrees, per cent, words, exponents of units.
UNIT = re.compile(  # possessive: it never goes back
    r"(?>\s|\\?[%$€£¥]|\^?\{?(?:\\circ|°)\}?|[a-zA-Zµμ]\^\s*\{?\s*-?\d\s*\}?|\\(?:cdot|times)"
    r"|\\(?:mu|Omega|degree|AA)(?![a-z])|[·*/.()'’-](?!\s*[\d\\])|[^\W\d_])*+"
)
NO_UNIT = re.compile(  # words that go on with the sum or the sentence
    r"(?<!\w)(?:and|or|plus|minus|times|but|is|are|was|were|the|a|to|half|dozen|more|less|than|not|if"
    r"|then|by|with|which|that|so|because|since|there|they|it|we|und|oder|ou|et|y)(?!\w)",
    re.IGNORECASE,
)
VARIABLES = "[abceiknpqrtxyz]"
VARIABLE = re.compile(rf"{VARIABLES}+(?![\w\\])|\s+{VARIABLES}(?![\w\\])")  # 2x, 2ab, 2pi; but 2 in
MOST_WORDS = 5


def tidy(text: str) -> str:
    """An answer without fonts, spacing, emphasis and the marks around it; `1{,}000` becomes `1,000`."""
    text = text.translate({0x2212: "-", 0xFE63: "-"})
    text = re.sub(r"(?<=\d)\{,\}", ",", text)
    text = COMMAND_BEFORE_FONT.sub(r"\1 ", text)
    for _ in range(5):  # fonts inside fonts
        text, changed = FONT.subn(r"\1", text)
        if not changed:
            break
    text = SPACE.sub(" ", NOTHING.sub("", text))
    text = re.sub(r"^\s*[–—](?=\d)", "-", re.sub(r"(?<=\d), (?=000(?!\d))", ",", text))
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda run: f"^{{{run[0].translate(SUPERSCRIPTS)}}}", text)
    return _unwrapped(text.strip())


def _unwrapped(text: str) -> str:
    """Without dollars, brackets or braces that hold all of it, and without a full stop."""
    for opening, closing in (
        ("$$", "$$"),
        ("$", "$"),
        (r"\(", r"\)"),
        (r"\[", r"\]"),
        ("(", ")"),
        ("{", "}"),
    ):
        text = text.strip()
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and opening not in inner and inner.strip():
            text = inner
    return re.sub(r"[.,;:]+$", "", text.strip())


def read_integer(text: str) -> str | None:
    """The integer that an answer is, whatever its unit; None when it is none, or two."""
    number = _number(text, WHOLE)
    return str(int(number)) if number is not None and number.denominator == 1 else None


def read_number(text: str) -> str | None:
    """The number that an answer is, as a float is written; also a fraction or a power of ten."""
    text = re.sub(r"(?:\\pm|±|\+/-).*", "", text)  # 4.5 ± 0.1
    number = exact(text)
    if number is None:  # 4,5 in many languages
        number = exact(re.sub(r"(?<![\d,.])(\d+),(\d{1,2}|\d{4,})(?![\d,.])", r"\1.\2", text, count=1))
    # 10^999 is beyond a float
    return None if number is None or abs(number) >= 10**MOST_DIGITS else format(float(number), ".12g")


def exact(text: str) -> Fraction | None:
    """The number that an answer is."""
    for grammar in (TEX_FRACTION, FRACTION, POWER_OF_TEN, WHOLE):
        if (number := _number(text, grammar)) is not None:
            return number
    return None


def _number(text: str, grammar: re.Pattern) -> Fraction | None:
    if len(text) > MOST_CHARACTERS:
        return None
    if SEVERAL.search(text):
        return None
    text = tidy(re.split(r"=|\\approx|≈", tidy(text))[-1])  # m + n = 601
    text = CURRENCY.sub(r"\1", FILLER.sub("", text))
    found = grammar.match(text)
    if not found or sum(map(str.isdigit, found[0])) > MOST_DIGITS:
        return None
    value, rest = _value(found), text[found.end() :]
    power = re.match(POWER, rest)
    if power and value is not None:
        value, rest = value * Fraction(10) ** int(power[1] or power[2]), rest[power.end() :]
    scale = SCALE.match(rest)
    if scale and value is not None:
        value, rest = value * 10 ** SCALES[scale[1].lower()], rest[scale.end() :]
    return value if is_unit(rest) else None


def _value(found: re.Match) -> Fraction | None:
    groups = found.groupdict()
    sign = -1 if groups["sign"] == "-" else 1
    if found.re is POWER_OF_TEN:
        return sign * Fraction(10) ** int(found["power"])
    if found.re is WHOLE:
        return sign * Fraction(re.sub(r"[^\d.]", "", found["decimal"]).rstrip("."))
    whole = int(found["whole"] or 0)
    over, under = groups["over"] or found["digit"], groups["under"] or found["digit_under"]
    return sign * (whole + Fraction(int(over), int(under))) if int(under) else None


def is_unit(text: str) -> bool:
    """Whether what follows a number is a unit or nothing."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"\\[a-zA-Z]+", "", text))
    if len(words) > MOST_WORDS or text.startswith(". ") or VARIABLE.match(text):
        return False
    return bool(UNIT.fullmatch(text)) and not NO_UNIT.search(text)
