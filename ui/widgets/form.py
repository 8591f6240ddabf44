"""The settings form, built from the fields of `Preset`. Only MAIN_FIELDS are known by name."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

import gradio as gr
import yaml

from thinkswitch.errors import UserError
from thinkswitch.paths import full_path, short_path
from thinkswitch.preset import Preset, is_path, make_preset
from thinkswitch.values import to_text
from ui.widgets.events import on

MAIN_FIELDS = ("rounds", "prompts", "held_out", "t", "epochs", "learning_rate", "lora_rank", "labels")
TYPES = typing.get_type_hints(Preset)
SETTING_NAME = re.compile(
    r"(?<![\w./\\'\"])[a-z]+(?:_[a-z]+)+(?![\w/\\'\"]|\.\w)"
)  # but not files called like one
SPELLED = {"lora": "LoRA", "kwh": "kWh", "t": "t"}  # words with a case of their own

Component = gr.components.Component


def build(preset: Preset, demo: bool) -> dict[str, Component]:
    """Lay out the form: the main settings, then all others folded. Returns {setting: component}."""
    fields = {field.name: field for field in dataclasses.fields(Preset)}
    made = {}
    with gr.Row(equal_height=True):
        for name in MAIN_FIELDS:
            made[name] = component(fields[name], getattr(preset, name))
    # the folded column is rendered when it is opened: it holds forty components
    folded = gr.Accordion("All settings", open=False, elem_id="loop-knobs")
    with folded, gr.Column(visible=False) as rest:
        for heading, names in groups(demo).items():
            gr.Markdown(f"**{heading}**")
            with gr.Row(equal_height=True):
                for name in names:
                    made[name] = component(fields[name], getattr(preset, name))

    def show():
        return gr.Column(visible=True)

    on(folded.expand, show, None, rest)
    return made


def groups(demo: bool) -> dict[str, list[str]]:
    """{heading: settings below it}, without the main ones. A public demo shows no paths."""
    found: dict[str, list[str]] = {}
    heading = ""
    for field in dataclasses.fields(Preset):
        heading = field.metadata["group"] or heading
        hidden = demo and field.metadata["hide_in_demo"]
        if field.name != "name" and field.name not in MAIN_FIELDS and not hidden:
            found.setdefault(heading, []).append(field.name)
    return found


def component(field: dataclasses.Field, value: Any) -> Component:
    """The input for one setting. Its limits are checked when the form is read, so numbers have none here."""
    kind = TYPES[field.name]
    common: dict[str, Any] = {
        "label": label(field.name),
        "info": field.metadata["help"],
        "value": shown(field.name, value),
        "elem_id": f"knob-{field.name}",
        "min_width": 240,
        "interactive": True,
    }
    if kind is bool:
        return gr.Checkbox(**common)
    if isinstance(kind, types.UnionType):
        return gr.Dropdown(["auto", "true", "false"], **common)
    if field.metadata["choices"]:
        return gr.Dropdown(list(field.metadata["choices"]), **common)
    if kind in (int, float):
        return gr.Number(**common)  # a `precision` would silently round 1.5 rounds to 2
    return gr.Textbox(max_lines=3, **common)


def label(name: str) -> str:
    """`learning_rate` as people read it: Learning rate."""
    first, *others = name.split("_")
    words = [SPELLED.get(first, first.capitalize()), *(SPELLED.get(word, word) for word in others)]
    return " ".join(words)


def with_labels(message: str) -> str:
    """An error with the settings called as the form calls them: held_out is "Held out" there."""

    def labelled(found: re.Match) -> str:
        name = found[0]
        return f"“{label(name)}” ({name})" if name in TYPES else name

    return SETTING_NAME.sub(labelled, message)


def shown(name: str, value: Any) -> Any:
    """A setting's value as its component holds it. Paths are short: /config says nothing of this machine."""
    if is_path(name):
        return short_path(value)
    if isinstance(TYPES[name], types.UnionType):
        return to_text(value).lower()  # auto, true or false: a drop-down holds text
    if dataclasses.is_dataclass(value):
        plain = {key: list(item) if isinstance(item, tuple) else item for key, item in vars(value).items()}
        return yaml.safe_dump(plain, default_flow_style=True, width=10**9).strip()
    return value


def values_of(preset: Preset, names: Iterable[str]) -> list[Any]:
    """What the components of these settings show for a preset."""
    return [shown(name, getattr(preset, name)) for name in names]


def read(base: Preset, values: dict[str, Any]) -> Preset:
    """`base` with the form's values; an error names the setting that is wrong."""
    changed = {}
    for name, value in values.items():
        before = shown(name, getattr(base, name))
        if value is None:
            raise UserError(f"{name} is empty; give it a value (the preset has {before})")
        if dataclasses.is_dataclass(TYPES[name]):
            value = _mapping(name, value)
        elif is_path(name) and value != before:
            value = full_path(str(value).strip())
        if value != before:
            changed[name] = value
    return make_preset(changed, "form", base)


def _mapping(name: str, text: Any) -> Any:
    try:
        return yaml.safe_load(str(text))
    except (yaml.YAMLError, ValueError):  # ValueError: what looks like a date and is none
        raise UserError(f"{name} is not readable; write for example {{mlp: 1, attention: 0}}") from None
