"""The tags that open and close a reasoning trace, of every kind that vendors use. Torch-free.

To add one: a row in KNOWN_TAGS. tests/unit/test_think_tags.py holds each row to the parser's rules.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

from thinkswitch.errors import UserError

AUTO = "auto"  # the setting: find the tags in the template and the vocabulary
WRAPPERS = (("<answer>", "</answer>"), ("<response>", "</response>"), ("<output>", "</output>"))


@dataclass(frozen=True)
class Tags:
    """What stands around a trace; and around the answer after it, which is no part of the answer either.

    A wrapper is (opening, closing). Without an opening the answer begins in it; without a closing it lasts.
    """

    open: str
    close: str
    wrappers: tuple[tuple[str, str], ...] = WRAPPERS


THINK = Tags("<think>", "</think>")

KNOWN_TAGS = (  # in the order in which they are looked for
    THINK,  # DeepSeek, Qwen3, GLM, Hunyuan (with <answer>), ERNIE (with <response>) and most others
    Tags("[THINK]", "[/THINK]"),  # Magistral, Ministral 3 Reasoning
    Tags("<thought>", "</thought>"),  # EXAONE Deep
    Tags("<seed:think>", "</seed:think>"),  # Seed-OSS
    Tags("<thinking>", "</thinking>"),  # Reflection, many community models
    Tags("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", (("", "[END FINAL RESPONSE]"),)),  # Apriel
    Tags(  # Sky-T1, Bespoke-Stratos, OpenThinker 1
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        (("<|begin_of_solution|>", "<|end_of_solution|>"),),
    ),
    Tags("<reasoning>", "</reasoning>"),  # models of GRPO tutorials
    Tags("Here is my thought process:", "Here is my response:"),  # Granite 3.2 ...
    Tags("Here's my thought process:", "Here's my response:"),  # ... in both of its spellings
    Tags(  # gpt-oss
        "<|channel|>analysis<|message|>",
        "<|end|>",
        (("<|start|>assistant<|channel|>final<|message|>", ""), ("<|channel|>final<|message|>", "")),
    ),
    Tags("<|channel>thought", "<channel|>"),  # Gemma 4
    Tags("◁think▷", "◁/think▷"),  # Kimi-VL Thinking
    Tags("<|open|>think<|sep|>", "<|close|>think<|sep|>"),  # Kimi K3
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Tags("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Tags("<|think|>", "<|end|>", (("<|begin|>assistant<|content|>", ""), ("<|content|>", ""))),  # Solar Open
    Tags("<mm:think>", "</mm:think>"),  # MiniMax M3
    Tags("<ifm|think>", "</ifm|think>"),  # K2 Horizon, in three tempers
    Tags("<ifm|think_fast>", "</ifm|think_fast>"),
    Tags("<ifm|think_faster>", "</ifm|think_faster>"),
    Tags("<think:opensource>", "</think:opensource>"),  # Hy3, Hy4
    Tags("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),  # PLaMo 3
    Tags("to=self<|message|>", "<|eom|>"),  # Muse
    Tags("## Thinking", "## Final Response"),  # HuatuoGPT-o1
    Tags("<Thought>", "</Thought>", (("<Output>", "</Output>"),)),  # Marco-o1
    Tags("<|im_start|>think", "<|im_start|>answer"),  # s1
)


def tags_between(opening: str, closing: str) -> Tags:
    """The tags of this name: a row of the table with its wrappers, or a pair that is not in it."""
    made = Tags(opening, closing)
    return next((tags for tags in KNOWN_TAGS if (tags.open, tags.close) == (opening, closing)), made)


def read_setting(text: str) -> Tags | None:
    """The setting `think_tags`; None for auto. ValueError for a text that is neither auto nor a pair."""
    if text == AUTO:
        return None
    try:
        pair = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError from None
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(tag, str) for tag in pair):
        raise ValueError
    opening, closing = (tag.strip() for tag in pair)
    # the parser takes a tag as soon as it is whole, so it would never see a longer one that begins alike
    if not opening or not closing or opening.startswith(closing) or closing.startswith(opening):
        raise ValueError
    return tags_between(opening, closing)


def to_setting(tags: Tags) -> str:
    """The inverse of `read_setting`."""
    return yaml.safe_dump(
        [tags.open, tags.close], default_flow_style=True, allow_unicode=True, width=10**9
    ).strip()


def tags_opened_by(prompt: str) -> Tags | None:
    """The tags that a prompt ends with: its chat template has opened the trace."""
    end = prompt.rstrip()
    return next((tags for tags in KNOWN_TAGS if end.endswith(tags.open)), None)


def tags_named_in(text: str) -> Tags | None:
    """The first of the table whose opening tag stands in a text."""
    return next((tags for tags in KNOWN_TAGS if tags.open in text), None)


def tags_around(reasoned: str, plain: str, trace: str, answer: str) -> Tags | None:
    """What a chat template writes around a trace, from two of its texts: with the trace, and without.

    A template that writes empty tags where there is no trace shows only known ones.
    """
    start = reasoned.find(trace)
    end = reasoned.find(answer, start)
    if start < 0 or end < 0:
        return None
    before = reasoned[:start].rstrip()
    closing = reasoned[start + len(trace) : end].strip()
    known = [tags for tags in KNOWN_TAGS if before.endswith(tags.open) and closing.startswith(tags.close)]
    if known:
        return known[0]
    same = next((i for i, (a, b) in enumerate(zip(before, plain, strict=False)) if a != b), len(before))
    opening = before[same:].strip()
    return Tags(opening, closing) if opening and closing else None


def refuse_traceless(texts: Iterable[str], tags: Tags, where: str) -> None:
    """A UserError that says which tags these answers have instead of `tags`, and what to set."""
    texts = list(texts)
    seen: Counter[Tags] = Counter()
    for text in texts:
        seen.update(other for other in KNOWN_TAGS if other.open in text or other.close in text)
    looked_for = f"none of the first {len(texts)} answers has a trace ({tags.open} … {tags.close})"
    del seen[tags]
    if seen:
        found, count = seen.most_common(1)[0]
        problem = f"{count} of them have {found.open!r} or {found.close!r} instead"
        advice = f"set think_tags={to_setting(found)}"
    else:
        problem = "and none has other tags that are known"
        advice = (
            "look what it writes, and set think_tags; if it thinks only on request, set "
            "thinking_template_args or thinking_system"
        )
    raise UserError(f"{looked_for}; {problem}; {advice}; see {where}")
