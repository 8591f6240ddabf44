"""Words only: what is trace, what is answer."""

import pytest

from thinkswitch.think_parser import TAGS, ThinkParser, parse_response

CASES = [  # text, pre-filled, state, trace, answer
    ("<think>\n7 + 5 = 12\n</think>\n\n\\boxed{12}", False, "closed", "7 + 5 = 12", "\\boxed{12}"),
    ("7 + 5 = 12\n</think>\n\n\\boxed{12}", True, "closed", "7 + 5 = 12", "\\boxed{12}"),
    ("7 + 5 = 12\n</think>\n\n\\boxed{12}", False, "closed", "7 + 5 = 12", "\\boxed{12}"),  # only the closing tag
    ("\\boxed{12}", False, "none", "", "\\boxed{12}"),
    ("<think>\n\n</think>\n\nHi", False, "closed", "", "Hi"),
    ("<think>hm, 1 < 2 and", False, "open", "hm, 1 < 2 and", ""),  # cut off in thought
    ("hm", True, "open", "hm", ""),
    ("<think>\nhm", True, "open", "hm", ""),  # the model writes again what the template wrote
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


@pytest.mark.parametrize("text, prefilled, state, trace, answer", CASES)
def test_split(text, prefilled, state, trace, answer):
    parts = parse_response(text, prefilled)
    assert (parts.state, parts.trace, parts.answer) == (state, trace, answer)


@pytest.mark.parametrize("text, prefilled, state, trace, answer", CASES)
def test_every_prefix_shows_no_tag_nor_half_of_one(text, prefilled, state, trace, answer):
    half_tags = {tag[:n] for tag in TAGS for n in range(2, len(tag) + 1)}
    for end in range(len(text)):
        stream = ThinkParser(prefilled)
        for character in text[:end]:
            stream.feed(character)
        shown = stream.trace + "|" + stream.answer
        meant = ("<think>", "</think>") if "<tool_call>{}" in text else TAGS  # an answer may call a tool
        assert not any(tag in shown for tag in meant)
        assert not any(part.endswith(half) for part in (stream.trace, stream.answer) for half in half_tags
                       if any(tag.startswith(half) for tag in meant))


@pytest.mark.parametrize("text, prefilled, state, trace, answer", CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_of_any_size_end_alike(text, prefilled, state, trace, answer, size):
    stream = ThinkParser(prefilled)
    for i in range(0, len(text), size):
        stream.feed(text[i:i + size])
    stream.close()
    assert (stream.state, stream.trace, stream.answer) == (state, trace, answer)


def test_shown_text_only_grows_while_no_tag_turns_it():
    stream, before = ThinkParser(), ""
    for character in "The answer is 12 < 13.":
        stream.feed(character)
        assert stream.answer.startswith(before)
        before = stream.answer
