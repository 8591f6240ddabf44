"""The table of tags: each row by the parser's rules, and how the tags of a checkpoint are found."""

import json
from dataclasses import replace

import pytest

from conftest import CHATML, byte_tokenizer, save_pair
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, load_preset, make_preset, to_yaml
from thinkswitch.think_parser import ThinkParser, parse_response, parse_sample
from thinkswitch.think_tags import KNOWN_TAGS, THINK, Tags, read_setting, refuse_traceless, to_setting
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.pair import open_pair, open_pair_of, probe
from thinkswitch.weights.prompting import Prompting, find_tags

TRACE, ANSWER = "7 + 5 < 13,\nso 12", "It is \\boxed{12} < 13."


def texts_of(tags: Tags) -> list[str]:
    """The trace and answer above as a model with these tags writes them: bare, and in each wrapper."""
    begin = f"{tags.open}\n{TRACE}\n{tags.close}"
    wrapped = [f"{begin}\n{opening}\n{ANSWER}\n{closing}\n" for opening, closing in tags.wrappers]
    return [f"{begin}\n\n{ANSWER}", f"{begin}{ANSWER}", *wrapped]


ROWS = [pytest.param(tags, id=tags.open) for tags in KNOWN_TAGS]


def test_the_table_has_no_row_twice():
    assert len({(tags.open, tags.close) for tags in KNOWN_TAGS}) == len(KNOWN_TAGS) == 27


@pytest.mark.parametrize("prefilled", [False, True])
@pytest.mark.parametrize("tags", ROWS)
def test_every_split_in_two_parses_alike(tags, prefilled):
    for text in texts_of(tags):
        text = text.removeprefix(tags.open) if prefilled else text
        for cut in range(len(text) + 1):
            parser = ThinkParser(prefilled, tags)
            parser.feed(text[:cut])
            parser.feed(text[cut:])
            parser.close()
            assert (parser.state, parser.trace, parser.answer) == ("closed", TRACE, ANSWER)
            assert text[parser.answer_start :].startswith(ANSWER)


@pytest.mark.parametrize("tags", ROWS)
def test_no_prefix_shows_a_tag_or_a_part_of_one(tags):
    """Whatever is shown of the trace and the answer is a beginning of what they become."""
    for text in texts_of(tags):
        parser = ThinkParser(tags=tags)
        for character in text:
            parser.feed(character)
            assert TRACE.startswith(parser.trace.rstrip()) and ANSWER.startswith(parser.answer.rstrip())
        parser.close()
        assert (parser.trace, parser.answer) == (TRACE, ANSWER)


@pytest.mark.parametrize(
    "text, answer",
    [
        ("<think>a</think>\nIn HTML, <answer> is no tag", "In HTML, <answer> is no tag"),
        ("<think>a</think><answer>5</answer> is right", "5 is right"),  # nothing is lost
        ("<think>a</think><answer>5", "5"),
        ("<think>a</think><answ", "<answ"),
        ("<think>a</think>5</answer>", "5</answer>"),
        ("<answer>5</answer>", "<answer>5</answer>"),  # no trace: somebody may have asked for it
        ("<think>a</think><answer>5</answer></think><response>6</response>", "6"),
    ],
)
def test_a_wrapper_goes_only_where_it_holds_the_answer_after_a_trace(text, answer):
    assert parse_response(text).answer == answer
    parser = ThinkParser()
    for character in text:
        parser.feed(character)
    parser.close()
    assert parser.answer == answer


def test_a_sample_names_its_tags():
    """Lines of <think> are as they were before there were others."""
    line = {"text": "a[/THINK]b", "prefilled": True}
    assert parse_sample({**line, "tags": ["[THINK]", "[/THINK]"]}).answer == "b"
    assert parse_sample({**line, "text": "a</think>b"}).answer == "b"


# ---- the setting


@pytest.mark.parametrize("tags", ROWS)
def test_each_row_survives_the_setting(tags, tmp_path):
    assert read_setting(to_setting(tags)) == tags
    preset = make_preset({"think_tags": [tags.open, tags.close]})
    (tmp_path / "p.yaml").write_text(to_yaml(preset), "utf-8")
    assert load_preset(tmp_path / "p.yaml") == preset
    assert read_setting(preset.think_tags) == tags


def test_settings_of_a_side_survive_a_preset_file(tmp_path):
    preset = make_preset(
        {
            "instruct_template_args": {"enable_thinking": False, "depth": [1, 2]},
            "thinking_template_args": "{enable_thinking: true}",
            "thinking_system": 'Think "deeply":\n- first\n# then',
        }
    )
    assert preset.instruct_template_args == "{depth: [1, 2], enable_thinking: false}"
    (tmp_path / "p.yaml").write_text(to_yaml(preset), "utf-8")
    assert load_preset(tmp_path / "p.yaml") == preset
    assert make_preset({"thinking_template_args": {}, "think_tags": "auto"}) == Preset()


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("think_tags", "[<think>]", "auto or a pair"),
        ("think_tags", "[<think>, <think>]", "auto or a pair"),
        ("think_tags", "['', </think>]", "auto or a pair"),
        ("think_tags", "[a, ab]", "auto or a pair"),
        ("think_tags", "[a", "auto or a pair"),
        ("think_tags", None, "auto or a pair"),
        ("think_tags", [1, 2], "auto or a pair"),
        ("instruct_template_args", "enable_thinking", "a mapping such as"),
        ("instruct_template_args", "{a", "a mapping such as"),
        ("thinking_template_args", {1: 2}, "a mapping such as"),
        ("thinking_template_args", "{d: 2024-13-45}", "a mapping such as"),
    ],
)
def test_a_wrong_value_says_what_is_wanted(name, value, says):
    with pytest.raises(UserError, match=f"{name} must be {says}"):
        make_preset({name: value})


# ---- how they are found

REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}OPEN\n{{ m.reasoning_content }}\nCLOSE\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_with(template: str, *added: str):
    """A byte tokenizer without tags of its own."""
    tokenizer = byte_tokenizer()
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["added_tokens"] = [t for t in core["added_tokens"] if "think" not in t["content"]]
    tokenizer = type(tokenizer)(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(core)))
    tokenizer.add_tokens(list(added))
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("tags", ROWS)
def test_tags_are_found_wherever_they_show(tags):
    prefilled = CHATML.replace("PREFILL", f"{tags.open}\n")
    rendered = REASONING.replace("OPEN", tags.open).replace("CLOSE", tags.close)
    named = CHATML.replace("PREFILL", "") + "{# " + tags.open + " #}"
    plain = CHATML.replace("PREFILL", "")
    assert find_tags(tokenizer_with(prefilled), Prompting()) == tags
    assert find_tags(tokenizer_with(rendered), Prompting()) == tags
    assert find_tags(tokenizer_with(named), Prompting()) == tags
    assert find_tags(tokenizer_with(plain, tags.open), Prompting()) == tags
    assert find_tags(tokenizer_with(plain), Prompting()) is None


def test_tags_that_no_table_has_show_in_two_renderings():
    rendered = REASONING.replace("OPEN", "<<hm>>").replace("CLOSE", "<</hm>>")
    assert find_tags(tokenizer_with(rendered), Prompting()) == Tags("<<hm>>", "<</hm>>")


def test_the_setting_is_stronger_than_the_template():
    tokenizer = tokenizer_with(CHATML.replace("PREFILL", "<think>\n"), "[THINK]")
    assert find_tags(tokenizer, Prompting(tags=Tags("a", "b"))) == Tags("a", "b")


def test_a_template_that_refuses_answers_is_no_obstacle():
    refusing = "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no') }}{% endif %}"
    refusing += "{{ m.content }}{% endfor %}[THINK]\n"
    assert find_tags(tokenizer_with(refusing), Prompting()) == Tags("[THINK]", "[/THINK]")


def test_both_sides_look_for_the_tags_of_the_thinking_one(tmp_path):
    """Only the thinking template may show them, and a blend writes them under the instruct template, too."""
    folders = save_pair(tmp_path)
    for folder, template in zip(folders, ("", "<thought>\n"), strict=True):
        (tmp_path / folder / "chat_template.jinja").write_text(CHATML.replace("PREFILL", template))
    pair = open_pair(*folders)
    assert pair.instruct.think_tags == pair.thinking.think_tags == Tags("<thought>", "</thought>")
    assert (pair.instruct.template_opens_think, pair.thinking.template_opens_think) == (False, True)
    assert "<thought>\n</thought>" in probe(pair.thinking.think_tags)


def test_todays_pair_has_todays_tags():
    pair = open_pair_of(load_preset("tiny"))
    assert pair.instruct.think_tags == pair.thinking.think_tags == THINK
    assert pair.instruct.prompting == Prompting()  # not replaced: its tokenizer is read once
    assert pair.thinking.opening_tokens == ([], [pair.thinking.tokenizer.convert_tokens_to_ids("<think>")])


def test_the_line_break_after_a_plain_tag_may_be_in_its_last_token(tmp_path):
    """Qwen2.5's vocabulary writes `<think>` and a line break as `<`, `think`, `>` + line break."""
    tokenizer = tokenizer_with(CHATML.replace("PREFILL", ""))
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["model"]["vocab"][">Ċ"] = 300
    core["model"]["merges"] = [[">", "Ċ"]]
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(core))
    type(tokenizer)(tokenizer_object=backend).save_pretrained(tmp_path)
    checkpoint = Checkpoint("test", tmp_path, None, {}, Prompting(tags=THINK))
    ids = checkpoint.tokenizer.encode("<think>", add_special_tokens=False)
    assert checkpoint.opening_tokens == (ids[:-1], [ids[-1], 300]) and len(ids) == 7


# ---- none of the answers has a trace


def test_the_refusal_names_what_was_seen():
    texts = ["<thought>so</thought>5"] * 9 + ["so</thought>5"] * 4 + ["5"] * 3
    with pytest.raises(UserError) as error:
        refuse_traceless(texts, THINK, "samples.jsonl")
    assert str(error.value) == (
        "none of the first 16 answers has a trace (<think> … </think>); 13 of them have '<thought>' or "
        "'</thought>' instead; set think_tags=[<thought>, </thought>]; see samples.jsonl"
    )


def test_the_refusal_says_so_when_nothing_was_seen():
    with pytest.raises(UserError, match=r"none has other tags .* set thinking_template_args or thinking_sys"):
        refuse_traceless(["5"] * 16, replace(THINK, open="[THINK]"), "samples.jsonl")
