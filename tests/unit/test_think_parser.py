"""What of a text is trace, and what is answer."""

import pytest

from thinkswitch.think_parser import ThinkParser, parse_response

TAGS = ("<think>", "</think>", "<tool_call>")

CASES = [  # text, prefilled, state, trace, answer
    ("<think>\n7 + 5 = 12\n</think>\n\n\\boxed{12}", False, "closed", "7 + 5 = 12", "\\boxed{12}"),
    ("7 + 5 = 12\n</think>\n\n\\boxed{12}", True, "closed", "7 + 5 = 12", "\\boxed{12}"),
    (
        "7 + 5 = 12\n</think>\n\n\\boxed{12}",
        False,
        "closed",
        "7 + 5 = 12",
        "\\boxed{12}",
    ),  # only the closing tag
    ("\\boxed{12}", False, "none", "", "\\boxed{12}"),
    ("<think>\n\n</think>\n\nHi", False, "closed", "", "Hi"),
    ("<think>hm, 1 < 2 and", False, "open", "hm, 1 < 2 and", ""),  # cut off in the trace
    ("hm", True, "open", "hm", ""),
    ("<think>\nhm", True, "open", "hm", ""),  # the model repeats what the template wrote
    ("<think>\nhm</think>yes", True, "closed", "hm", "yes"),
    ("<think>hm<tool_call>\nyes", False, "wrong close", "hm", "yes"),  # arXiv 2510.10977, table 6
    ("<think>hm<tool_call>no</think>yes", False, "closed", "hm\nno", "yes"),
    ("<think>a</think>b</think>c", False, "doubled", "a\nb", "c"),
    ("<think>a</think>b<think>c</think>d", False, "doubled", "a\nb\nc", "d"),
    ("<think>a</think>b<think>c", False, "open", "a\nb\nc", ""),
    ("call <tool_call>{}</tool_call>", False, "none", "", "call <tool_call>{}</tool_call>"),
    ("1 < 2, </thin", False, "none", "", "1 < 2, </thin"),  # ends like a tag, is none
    ("", False, "none", "", ""),
    ("", True, "open", "", ""),
]
each_case = pytest.mark.parametrize("text, prefilled, state, trace, answer", CASES)


@each_case
def test_a_whole_text(text, prefilled, state, trace, answer):
    parser = parse_response(text, prefilled)
    assert (parser.state, parser.trace, parser.answer) == (state, trace, answer)
    assert parser.thinking is (state == "open")


@each_case
def test_every_prefix_shows_no_tag_nor_half_of_one(text, prefilled, state, trace, answer):
    tags = TAGS[:2] if "<tool_call>{}" in text else TAGS  # an answer may call a tool
    beginnings = {tag[:n] for tag in tags for n in range(2, len(tag) + 1)}
    parser = ThinkParser(prefilled)
    for character in text:
        assert not any(tag in part for tag in tags for part in (parser.trace, parser.answer))
        assert not any(part.endswith(b) for b in beginnings for part in (parser.trace, parser.answer))
        parser.feed(character)


@each_case
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_of_any_size_end_alike(text, prefilled, state, trace, answer, size):
    parser = ThinkParser(prefilled)
    for i in range(0, len(text), size):
        parser.feed(text[i : i + size])
    parser.close()
    assert (parser.state, parser.trace, parser.answer) == (state, trace, answer)


def test_the_answer_only_grows_while_no_tag_comes():
    parser, before = ThinkParser(), ""
    for character in "The answer is 12 < 13.":
        parser.feed(character)
        assert parser.answer.startswith(before)
        before = parser.answer


def test_a_late_closing_tag_turns_the_answer_into_trace():
    parser = ThinkParser()
    parser.feed("so many")
    assert (parser.trace, parser.answer) == ("", "so many")
    parser.feed("</think>")
    assert (parser.trace, parser.answer) == ("so many", "")
