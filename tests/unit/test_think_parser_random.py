"""The parser of traces under random text: tags of every kind, halves of them, and anything between."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkswitch.think_parser import WRONG_CLOSE, ThinkParser, parse_response
from thinkswitch.think_tags import KNOWN_TAGS, THINK, Tags, tags_between

STATES = {"none", "open", "closed", "wrong close", "doubled"}
# The same examples on every machine, however slow it is.
random_texts = settings(max_examples=100, deadline=None, derandomize=True, database=None)


class Recorder(ThinkParser):
    """Remembers which tags it took out."""

    def __init__(self, prefilled: bool, tags: Tags):
        super().__init__(prefilled, tags)
        self.dropped: list[str] = []

    def _drop(self, tag: str) -> None:
        self.dropped.append(tag)
        super()._drop(tag)


def words_of(tags: Tags) -> list[str]:
    wrappers = [word for pair in tags.wrappers for word in pair if word]
    return [tags.open, tags.close, WRONG_CLOSE, "</tool_call>", *wrappers]


@st.composite
def responses(draw, tags: st.SearchStrategy[Tags]):
    """(tags, a text of whole tags, parts of tags, spaces and anything, where it is cut)"""
    chosen = draw(tags)
    whole = st.sampled_from(words_of(chosen))
    part = st.builds(
        lambda word, a, b: word[min(a, b) : max(a, b)], whole, st.integers(0, 30), st.integers(0, 30)
    )
    plain = st.text(max_size=6) | st.sampled_from(
        [" ", "\n", "\n\n", "a", "<", ">", "12", "\\boxed{1}", "\ud83d"]
    )
    text = "".join(draw(st.lists(whole | part | plain, max_size=12)))
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=8))
    return chosen, text, sorted(cuts)


KNOWN = st.sampled_from(KNOWN_TAGS)
WORDS = st.text(alphabet="<>/ab|", min_size=1, max_size=5)
MADE_UP = st.builds(tags_between, WORDS, WORDS).filter(
    lambda tags: not (tags.open.startswith(tags.close) or tags.close.startswith(tags.open))
)
ANY = pytest.mark.parametrize("tags", [KNOWN, MADE_UP], ids=["known", "made up"])


def feed(parser: ThinkParser, text: str, cuts: list[int]) -> ThinkParser:
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        parser.feed(text[start:end])
    parser.close()
    return parser


def result(parser: ThinkParser) -> tuple:
    return parser.state, parser.trace, parser.answer, parser.answer_start, parser.thinking


def squeezed(text: str) -> str:
    return "".join(text.split())


@ANY
@pytest.mark.parametrize("prefilled", [False, True])
def test_pieces_cut_anywhere_end_like_the_whole(tags, prefilled):
    @random_texts
    @given(responses(tags))
    def holds(drawn):
        chosen, text, cuts = drawn
        whole = result(parse_response(text, prefilled, chosen))
        assert result(feed(ThinkParser(prefilled, chosen), text, cuts)) == whole
        assert result(feed(ThinkParser(prefilled, chosen), text, list(range(len(text))))) == whole

    holds()


@ANY
@pytest.mark.parametrize("prefilled", [False, True])
def test_nothing_is_lost_but_tags_and_space(tags, prefilled):
    @random_texts
    @given(responses(tags))
    def holds(drawn):
        chosen, text, cuts = drawn
        parser = feed(Recorder(prefilled, chosen), text, cuts)
        shown = squeezed(parser.trace + parser.answer)
        taken = squeezed("".join(parser.dropped))
        assert Counter(squeezed(text)) == Counter(shown) + Counter(taken)
        left = iter(squeezed(text))
        assert all(character in left for character in shown)  # in their order
        assert set(parser.dropped) <= set(words_of(chosen))
        assert parser.state in STATES
        if parser.answer:
            assert text[parser.answer_start] == parser.answer[0]

    holds()


@ANY
def test_while_it_grows_no_tag_is_shown_and_only_a_tag_takes_back(tags):
    @random_texts
    @given(responses(tags))
    def holds(drawn):
        chosen, text, _ = drawn
        parser = Recorder(False, chosen)
        before = ("", "")
        for character in text:
            dropped = len(parser.dropped)
            parser.feed(character)
            now = (parser.trace, parser.answer)
            assert chosen.open not in parser.answer and chosen.close not in parser.answer
            if len(parser.dropped) == dropped:
                assert all(new.startswith(old) for old, new in zip(before, now, strict=True))
            before = now

    holds()


@random_texts
@given(st.text())
def test_text_without_tags_is_the_answer(text):
    if not any(word in text for word in words_of(THINK)):
        parser = parse_response(text)
        assert (parser.state, parser.trace, parser.answer) == ("none", "", text.strip())
