"""How one side of a pair is prompted: its system prompt, its chat template's arguments, its thinking tags."""

import inspect
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import yaml
from jinja2 import Environment, TemplateError
from transformers import PreTrainedTokenizerBase

from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.think_tags import THINK, Tags, read_setting, tags_around, tags_named_in, tags_opened_by

CLOCK = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<form>.*?)(?P=quote)\s*\)""")
TRACE, ANSWER = "Two of them.", "Four."  # what no template contains


@dataclass(frozen=True)
class Prompting:
    """What a preset says of one side. The default is a chat template as it came."""

    system: str = ""
    template_args: str = ""  # a YAML mapping as text, such as {enable_thinking: false}
    tags: Tags | None = None  # None: find them
    date: str = ""  # as 2026-11-29, for templates that write one; empty: today

    @property
    def arguments(self) -> dict[str, Any]:
        return yaml.safe_load(self.template_args) or {}

    def __str__(self) -> str:
        """Words for an error or a list; empty for a chat template as it came."""
        parts = []
        if self.template_args:
            parts.append(f"the template arguments {self.template_args}")
        if self.system:
            parts.append(f"the system prompt {shorten(self.system)!r}")
        return " and ".join(parts)


@dataclass(frozen=True)
class Conversation:
    """What comes before a prompt: a system prompt instead of the side's own, and earlier turns."""

    system: str = ""  # empty: the side's own
    turns: tuple[tuple[str, str], ...] = ()  # (prompt, answer without its trace)


def shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def prompting_of(preset: Preset, date: str = "") -> tuple[Prompting, Prompting]:
    """Those of instruct and thinking."""
    tags = read_setting(preset.think_tags)
    return (
        Prompting(preset.instruct_system, preset.instruct_template_args, tags, date),
        Prompting(preset.thinking_system, preset.thinking_template_args, tags, date),
    )


def render(tokenizer: PreTrainedTokenizerBase, prompting: Prompting, turns: list[dict], **options) -> str:
    """Turns as the chat template shows them to the model, after the side's system prompt."""
    system = [{"role": "system", "content": prompting.system}] if prompting.system else []
    if prompting.date:
        options["chat_template"] = dated_template(tokenizer, prompting.date)
    text = tokenizer.apply_chat_template([*system, *turns], tokenize=False, **options, **prompting.arguments)
    return str(text)


def dated_template(tokenizer: PreTrainedTokenizerBase, date: str) -> str:
    """The chat template with this date where it asks for today's: transformers takes no clock of ours."""
    moment = datetime.fromisoformat(date)

    def written(found: re.Match) -> str:
        return repr(moment.strftime(found["form"]))

    return CLOCK.sub(written, tokenizer.get_chat_template())


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompting: Prompting,
    prompt: str,
    conversation: Conversation = Conversation(),
) -> str:
    """A prompt after what came before it. A UserError where the chat template takes no earlier turns."""
    turns = []
    for asked, answered in conversation.turns:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    turns.append({"role": "user", "content": prompt})
    if conversation.system:
        prompting = replace(prompting, system=conversation.system)
    try:
        return render(tokenizer, prompting, turns, add_generation_prompt=True)
    except TemplateError as error:
        if not conversation.turns:
            raise
        message = f"the chat template takes no earlier turns ({error}); begin a new conversation"
        raise UserError(message) from error


def check_prompting(name: str, tokenizer: PreTrainedTokenizerBase, prompting: Prompting) -> None:
    """A UserError where the chat template would ignore the system prompt or an argument."""
    template = str(tokenizer.chat_template)
    ours = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    for argument in prompting.arguments:
        if argument in ours:
            raise UserError(f"{name}: the template argument {argument!r} is not free to set; remove it")
        if not re.search(rf"\b{re.escape(argument)}\b", template):
            raise UserError(f"{name}: its chat template knows no argument {argument!r}; remove it")
    without = replace(prompting, system="")
    if prompting.system and render_prompt(tokenizer, prompting, "?") == render_prompt(
        tokenizer, without, "?"
    ):
        raise UserError(f"{name}: its chat template leaves the system prompt out; write it into the prompts")


def refuse_powers(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """A UserError where a chat template computes a power: 10 ** 99999999 takes minutes, and memory.

    The sandbox of transformers bounds loops and texts, not this, which it computes as it reads a template.
    """
    templates = tokenizer.chat_template
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if has_power(template):
            raise UserError(
                f"{name}: its chat template raises a number to a power, which may never end; remove that"
            )


def has_power(template: str) -> bool:
    """Whether an expression of a template has the operator **, other than to unpack arguments."""
    before = ""
    try:
        for _, kind, text in Environment().lex(template):
            if kind == "operator" and text == "**" and before not in ("(", ","):
                return True
            if kind != "whitespace":
                before = text
    except TemplateError:  # it cannot be read, which is said where it is used
        pass
    return False


def find_tags(tokenizer: PreTrainedTokenizerBase, prompting: Prompting) -> Tags | None:
    """The tags of the preset, or those that the chat template or the vocabulary shows; None if none shows."""
    return (
        prompting.tags
        or tags_opened_by(render_prompt(tokenizer, prompting, ""))
        or _tags_rendered(tokenizer, prompting)
        or tags_named_in(str(tokenizer.chat_template))
        or _tags_in_vocabulary(tokenizer)
    )


def _tags_rendered(tokenizer: PreTrainedTokenizerBase, prompting: Prompting) -> Tags | None:
    """As llama.cpp finds them: the template writes an answer with its trace, and one without."""
    answers = [
        {"role": "assistant", "content": ANSWER, "reasoning_content": TRACE},
        {"role": "assistant", "content": ANSWER},
    ]
    question = {"role": "user", "content": "?"}
    try:
        reasoned, plain = (render(tokenizer, prompting, [question, answer]) for answer in answers)
    except Exception:  # templates are programs, and may refuse to write an assistant's turn
        return None
    return tags_around(reasoned, plain, TRACE, ANSWER)


def _tags_in_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Tags | None:
    added = " ".join(token.content for token in tokenizer.added_tokens_decoder.values())
    return tags_named_in(added)


def tags_or_default(*found: Tags | None) -> Tags:
    return next((tags for tags in found if tags), THINK)
