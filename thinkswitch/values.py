"""Values of settings: from what people write (YAML, a command line, a form) to their type, and back.

The type of the field decides, since YAML reads 1e-5 as text and a command line holds only text. Torch-free.
"""

import dataclasses
import difflib
import typing
from collections.abc import Callable
from typing import Any

import yaml

from thinkswitch import think_tags
from thinkswitch.errors import UserError, quote

# Both are kept as YAML text, which is hashable and what a command line and the form hold anyway.
TemplateArgs = typing.NewType("TemplateArgs", str)  # a mapping, or empty
ThinkTags = typing.NewType("ThinkTags", str)  # auto, or [opening, closing]

BOOLEANS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def parse_fields(cls: type, values: dict, where: str) -> dict:
    """`values` in the types of the dataclass `cls`. Refuses unknown names; `where` begins every error."""
    types = typing.get_type_hints(cls)
    for name in values:
        if name not in types:
            raise UserError(f"{where}: unknown setting {quote(name)}; {_suggestion(str(name), list(types))}")
    return {name: parse_value(value, types[name], f"{where}: {name}") for name, value in values.items()}


def _suggestion(name: str, known: list[str]) -> str:
    similar = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {similar[0]!r}?" if similar else f"known are {', '.join(known)}"


def parse_value(value, kind: type, where: str):
    """`value` as a `kind`: bool, int, float, str, bool | None, tuple[float, ...] or a dataclass of these."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(
                f"{where} must be a mapping such as {{mlp: 1, attention: 0}}, it is {quote(value)}"
            )
        return kind(**parse_fields(kind, value, where))
    parse, wanted = PARSERS[kind]
    try:
        return parse(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise UserError(f"{where} must be {wanted}, it is {quote(value)}") from None


def _boolean(value) -> bool:
    word = str(value).strip().lower()
    if word not in BOOLEANS:
        raise ValueError
    return BOOLEANS[word]


def _boolean_or_auto(value) -> bool | None:
    if value is None or str(value).strip().lower() in ("auto", "none"):
        return None
    return _boolean(value)


def _number(value) -> float:
    if isinstance(value, bool):  # float(True) would be 1.0
        raise TypeError
    return float(value)


def _whole_number(value) -> int:
    number = _number(value)  # 2.0 and 1e3 are whole, too
    if number != int(number):
        raise ValueError
    return int(number)


def _numbers(value) -> tuple[float, ...]:
    listed = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_number(one) for one in listed)


def _text(value) -> str:
    if value is None or isinstance(value, (dict, list)):
        raise TypeError
    return str(value)


def _template_args(value) -> str:
    mapping = yaml_value(value) or {}
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping):
        raise ValueError
    return flow_yaml(mapping) if mapping else ""


def _think_tags(value) -> str:
    text = flow_yaml(value) if isinstance(value, (list, tuple)) else _text(value).strip()
    tags = think_tags.read_setting(text)
    return think_tags.to_setting(tags) if tags else think_tags.AUTO


def yaml_value(value):
    """The value that YAML text stands for; ValueError for text that is none."""
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        raise ValueError from None


def flow_yaml(value) -> str:
    """A mapping or a list on one line."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9).strip()


Parser = Callable[[Any], Any]  # raises TypeError, ValueError or OverflowError
PARSERS: dict[Any, tuple[Parser, str]] = {  # a type: its parser, and what an error calls the type
    bool: (_boolean, "true or false"),
    bool | None: (_boolean_or_auto, "true or false (or auto)"),
    int: (_whole_number, "a whole number"),
    float: (_number, "a number"),
    tuple[float, ...]: (_numbers, "a list of numbers"),
    str: (_text, "text"),
    TemplateArgs: (_template_args, "a mapping such as {enable_thinking: false}"),
    ThinkTags: (_think_tags, "auto or a pair such as [<think>, </think>]"),
}


def to_text(value) -> str:
    """A value as `--set` and the form take it: the inverse of `parse_value` (of YAML, for a dataclass)."""
    if dataclasses.is_dataclass(value):
        return yaml.safe_dump(to_plain(value), default_flow_style=True, width=10**9).strip()
    return "auto" if value is None else str(value)


def to_plain(value) -> dict:
    """A dataclass as a dict that YAML can write: tuples become lists."""
    return {key: list(one) if isinstance(one, tuple) else one for key, one in vars(value).items()}
