"""Answers as HTML: what models write is shown as they mean it, and nothing of it can act."""

import random
from html.parser import HTMLParser

import pytest

from browser.driver import HOSTILE
from ui.widgets.rich_text import ATTRIBUTES, MARKDOWN_TAGS, MATH_TAGS, formula, render

TAGS = {*MARKDOWN_TAGS.split(), *MATH_TAGS.split()}
ADDED = {"a": {"rel", "target"}}  # by the cleaner itself


class Reader(HTMLParser):
    """What a browser would find: tags with their attributes, and the text between them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    @property
    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]


@pytest.mark.parametrize(
    "text, tags, shown",
    [
        (r"The answer is \boxed{17}.", ["menclose", "mn"], "The answer is 17."),
        (r"\boxed{\frac{1}{2}}", ["menclose", "mfrac"], "12"),
        (r"\boxed{\text{yes}}", ["menclose", "mtext"], "yes"),
        (r"\boxed{yes}", ["menclose", "mtext"], "yes"),  # a word, no product of y, e and s
        (r"\boxed{x}", ["menclose", "mi"], "x"),
        (r"so $x^2$ and \(\sqrt{y}\)", ["msup", "msqrt"], "so x2 and y"),
        ("\\[\na+b\n\\]", ["math"], "a+b"),
        ("$$\nx\n$$", ["math"], "x"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", ["mtable"], "(1234)"),
        ("**bold** and `code`", ["strong", "code"], "bold and code"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", ["table", "th", "td"], "ab12"),
        ("1. one\n2. two", ["ol", "li"], "onetwo"),
        ("one\ntwo", ["br"], "onetwo"),
        ("```\na < b\n```", ["pre"], "a < b"),
        ("Tom has $5. Ann has $6 and $7.", ["p"], "Tom has $5. Ann has $6 and $7."),
        ("$a<b$", ["mo"], "a<b"),
        ("It is <b>5</b> & more", ["p"], "It is <b>5</b> & more"),
        (r"\boxed{1", ["p"], r"\boxed{1"),
    ],
)
def test_what_models_write_is_shown_as_they_mean_it(text, tags, shown):
    found = Reader(render(text))
    assert set(tags) <= set(found.names)
    assert "".join(found.text.split()) == "".join(shown.split())


def test_a_formula_that_is_still_written_waits():
    r"""Its source flashed up before it was closed: `\boxed{1` became a box a moment later."""
    text = r"So \(\frac{1}{2}\) is half: \[ x = 1 \] and the answer is \boxed{\frac{1}{2}}. Good."
    for length in range(len(text) + 1):
        assert "\\" not in Reader(render(text[:length], finished=False)).text
    assert render(text, finished=False) == render(text)


def assert_harmless(html: str) -> None:
    for tag, attributes in Reader(html).tags:
        assert tag in TAGS, html
        assert set(attributes) <= ATTRIBUTES.get(tag, set()) | ADDED.get(tag, set()), html
        if "href" in attributes:
            assert attributes["href"].startswith(("http://", "https://")), html
            assert "noopener" in attributes["rel"], html


FRAGMENTS = [
    *HOSTILE, "$", "$$", r"\(", r"\)", r"\[", r"\]", r"\boxed{", "{", "}", r"\text{", r"\frac", r"\href{",
    r"\style{", r"\color{red}", r"\begin{align}", r"\end{align}", "&", "&lt;script&gt;", "<", ">", '"', "'",
    "`", "```\n", "\n", "\n\n", "|", "---", "[x](", "https://a.b/c", "javascript:alert(1)", "data:text/html,",
    "![i](", ")", "\\", "\0", "\ue000", "x", "1", " ", "<!--", "]]>", "<math><mtext>", "</math>", "onerror=1",
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(
    "around", ["{}", r"${}$", r"$\text{{{}}}$", r"\(\href{{{}}}{{x}}\)", r"\boxed{{{}}}"]
)
def test_hostile_text_stays_text(hostile, around):
    assert_harmless(render(around.format(hostile)))


def test_nothing_that_can_be_put_together_acts():
    draw = random.Random(0)
    for _ in range(3000):
        text = "".join(draw.choices(FRAGMENTS, k=draw.randint(1, 12)))
        assert_harmless(render(text, finished=draw.random() < 0.5))


def test_no_image_is_fetched_and_links_open_elsewhere():
    found = Reader(
        render("![i](https://e.vil/x.png) [b](https://x.y/?a=1&b=2) [f](file:///etc) [r](/config)")
    )
    assert "img" not in found.names
    links = [attributes for _, attributes in found.tags if "href" in attributes]
    assert [link["href"] for link in links] == ["https://e.vil/x.png", "https://x.y/?a=1&b=2"]
    assert {link["target"] for link in links} == {"_blank"}


@pytest.mark.parametrize("latex", ["{" * 900, "x" * 5000, r"\frac{" * 200, r"\begin{matrix}"])
def test_a_formula_that_cannot_be_read_is_shown_as_it_was_written(latex):
    assert Reader(formula(latex, "inline")).names[0] in ("code", "math")
