"""A model's answer as HTML: Markdown, and LaTeX as MathML. No script, no image, no outside request.

The Markdown parser lets no HTML through and marks the formulas; latex2mathml turns them into MathML, but does
not escape what stands in them; so nh3 has the last word on every tag and attribute.
"""

import re
from functools import cache, lru_cache

import nh3
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markupsafe import escape
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin

LONGEST_FORMULA = 2000  # characters; what is longer is no formula that somebody reads
BOX = r"\boxed{"
BOXED_WORD = re.compile(r"\\boxed\{([^\W\d_]{2,})\}")  # else set as a product of its letters
ANGLES = {ord("<"): "\ue000", ord(">"): "\ue001"}  # stand-ins, since latex2mathml would take them for tags
HALF_COMMAND = re.compile(r"\\[a-zA-Z]*$")
OPENERS = {r"\(": r"\)", r"\[": r"\]", "$$": "$$"}
MARKDOWN_TAGS = (
    "p br hr h1 h2 h3 h4 h5 h6 ul ol li blockquote pre code em strong s a table thead tbody tr th td"
)
MATH_TAGS = (
    "math mrow mi mn mo mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover mtable mtr "
    "mtd mstyle menclose mpadded mphantom mmultiscripts"
)
ATTRIBUTES = {
    "a": {"href"},
    "ol": {"start"},
    "math": {"display"},
    "menclose": {"notation"},
    "mfrac": {"linethickness"},
    "mo": {"stretchy", "minsize", "maxsize", "fence", "form", "separator"},
    "mi": {"mathvariant"},
    "mspace": {"width"},
    "mover": {"accent"},
    "mtable": {"columnalign", "rowspacing"},
    "mtd": {"columnalign"},
}


def render(text: str, finished: bool = True) -> str:
    """Safe HTML. While the answer is written, a formula at its end waits until it is closed."""
    shown = text if finished else text[: whole_until(text)]
    return clean(parser().render(shown))


def whole_until(text: str) -> int:
    """Where the last formula or command begins that is not complete, or the end of the text."""
    places = [match.start() for match in re.finditer(re.escape(BOX), text)]
    if places and closing_brace(text, places[-1] + len(BOX)) is None:
        return places[-1]
    for opener, closer in OPENERS.items():
        if opener == closer:
            is_open, start = text.count(opener) % 2 == 1, text.rfind(opener)
        else:
            start = text.rfind(opener)
            is_open = start >= 0 and text.find(closer, start) < 0
        if is_open:
            return start
    begun = HALF_COMMAND.search(text)
    return begun.start() if begun else len(text)


def clean(html: str) -> str:
    return nh3.clean(
        html,
        tags={*MARKDOWN_TAGS.split(), *MATH_TAGS.split()},
        attributes=ATTRIBUTES,
        attribute_filter=drop_relative_link,
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def drop_relative_link(tag: str, attribute: str, value: str) -> str | None:
    """It would lead into this app."""
    relative = attribute == "href" and not value.startswith(("http://", "https://"))
    return None if relative else value


@cache
def parser() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True})
    markdown.enable(["table", "strikethrough"]).disable("image")
    texmath_plugin(markdown, "brackets")  # \( … \) and \[ … \]
    dollarmath_plugin(markdown, allow_digits=False, allow_space=False, double_inline=True)
    amsmath_plugin(markdown)
    markdown.inline.ruler.before("escape", "boxed", read_box)
    for name in ("math_inline", "boxed"):
        markdown.add_render_rule(name, inline_formula)
    for name in ("math_inline_double", "math_block", "math_block_eqno", "math_block_label", "amsmath"):
        markdown.add_render_rule(name, block_formula)
    return markdown


def read_box(state: StateInline, silent: bool) -> bool:
    r"""\boxed{…} outside any formula, as models write their last answer."""
    if not state.src.startswith(BOX, state.pos):
        return False
    end = closing_brace(state.src, state.pos + len(BOX))
    if end is None:
        return False
    if not silent:
        state.push("boxed", "math", 0).content = state.src[state.pos : end + 1]
    state.pos = end + 1
    return True


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace closes that was opened before `start`."""
    depth = 1
    for place in range(start, min(len(text), start + LONGEST_FORMULA)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
        if depth == 0:
            return place
    return None


def inline_formula(renderer, tokens, index, options, env) -> str:
    return formula(tokens[index].content, "inline")


def block_formula(renderer, tokens, index, options, env) -> str:
    return formula(tokens[index].content, "block")


@lru_cache(maxsize=2000)  # an answer is rendered again with every token
def formula(latex: str, display: str) -> str:
    """MathML, or the source where it cannot be read."""
    source = f"<code>{escape(latex)}</code>"
    latex = BOXED_WORD.sub(r"\\boxed{\\text{\1}}", latex)
    if len(latex) > LONGEST_FORMULA:
        return source
    try:
        mathml = convert(latex.translate(ANGLES), display=display)
    except Exception:  # the library has many ways to fail at what a model writes
        return source
    for stand_in, entity in (("\ue000", "&lt;"), ("\ue001", "&gt;")):
        mathml = mathml.replace(f"<mi>{stand_in}</mi>", f"<mo>{entity}</mo>").replace(stand_in, entity)
    return mathml
