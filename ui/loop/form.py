"""The settings form, built from the fields of `Preset`. Only MAIN_FIELDS are known by name."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gradio as gr
import yaml

from thinkswitch.errors import UserError
from thinkswitch.paths import full_path, short_path
from thinkswitch.preset import Preset, is_path, make_preset
from thinkswitch.values import to_text
from ui.widgets.assets import asset
from ui.widgets.components import FormTools
from ui.widgets.events import on

MAIN_FIELDS = ("rounds", "prompts", "held_out", "t", "epochs", "learning_rate", "lora_rank", "labels")
LONGEST_DEFAULT = 40  # characters; a longer one would be a paragraph
UNITS = {
    "prompts": "a round",
    "held_out": "problems",
    "samples": "a prompt",
    "think_tokens": "tokens",
    "instruct_tokens": "tokens",
    "max_length": "tokens",
    "rows": "sequences",
    "batch": "answers",
    "micro_batch": "answers",
    "save_steps": "steps",
    "watts": "W",
}
TYPES = typing.get_type_hints(Preset)
SETTING_NAME = re.compile(
    r"(?<![\w./\\'\"])[a-z]+(?:_[a-z]+)+(?![\w/\\'\"]|\.\w)"
)  # but not files called like one
SPELLED = {"lora": "LoRA", "kwh": "kWh", "t": "t"}  # words with a case of their own

Component = gr.components.Component


@dataclass(frozen=True)
class Form:
    settings: dict[str, Component]
    tools: FormTools
    demo: bool

    def of(self, preset: Preset) -> dict[Component, Any]:
        """Updates that fill it for another preset, whose values are the defaults from then on."""
        fields = fields_by_name()
        updates: dict[Component, Any] = {
            made: gr.update(value=shown(name, getattr(preset, name)), info=info(fields[name], preset))
            for name, made in self.settings.items()
        }
        return {**updates, self.tools: described(preset, list(self.settings), self.demo)}


def build(preset: Preset, demo: bool) -> Form:
    """Lay out the form: a search box, the main settings, then all others folded."""
    fields = fields_by_name()
    made = {}
    tools = FormTools(elem_id="loop-find")
    with gr.Row(equal_height=True, elem_id=group_id("main")):
        for name in MAIN_FIELDS:
            made[name] = component(fields[name], preset)
    # the folded column is rendered when it is opened: it holds forty components
    folded = gr.Accordion("All settings", open=False, elem_id="loop-knobs")
    with folded, gr.Column(visible=False) as rest:
        for heading, names in groups(demo).items():
            with gr.Column(elem_id=group_id(heading)):
                gr.Markdown(f"**{heading}**")
                with gr.Row(equal_height=True):
                    for name in names:
                        made[name] = component(fields[name], preset)

    def show():
        return gr.Column(visible=True)

    on(folded.expand, show, None, rest)
    tools.value = described(preset, list(made), demo)
    changes: list[Any] = [getattr(one, "change") for one in made.values()]  # noqa: B009 - of each kind
    gr.on(changes, None, list(made.values()), None, js=asset("settings_changed.js"), api_visibility="private")
    return Form(made, tools, demo)


def fields_by_name() -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(Preset)}


def described(preset: Preset, names: list[str], demo: bool) -> dict:
    """What the form's tools know: of each setting its words and the preset's value; the groups."""
    fields = fields_by_name()
    settings = [
        {
            "id": f"knob-{name}",
            "text": f"{name} {title(name)} {fields[name].metadata['help']}".lower(),
            "preset": js_text(shown(name, getattr(preset, name))),
            "folded": name not in MAIN_FIELDS,
        }
        for name in names
    ]
    grouped = {"main": list(MAIN_FIELDS), **groups(demo)}
    listed = [
        {"id": group_id(head), "settings": [f"knob-{n}" for n in them]} for head, them in grouped.items()
    ]
    return {"settings": settings, "groups": listed}


def js_text(value: Any) -> str:
    """A value as JavaScript writes it: 2.0 is 2 there, True is true."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def group_id(heading: str) -> str:
    return f"knobs-{heading.lower().replace(' ', '-')}"


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


def component(field: dataclasses.Field, preset: Preset) -> Component:
    """The input for one setting. Its limits are checked when the form is read, so numbers have none here."""
    kind = TYPES[field.name]
    common: dict[str, Any] = {
        "label": title(field.name),
        "info": info(field, preset),
        "value": shown(field.name, getattr(preset, field.name)),
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


def title(name: str) -> str:
    """The label with its unit, if it has one."""
    unit = UNITS.get(name)
    return f"{label(name)} ({unit})" if unit else label(name)


def info(field: dataclasses.Field, preset: Preset) -> str:
    """The help, and the preset's value in words."""
    value = shown(field.name, getattr(preset, field.name))
    if isinstance(value, bool):
        value = "on" if value else "off"
    if isinstance(value, str) and len(value) > LONGEST_DEFAULT:
        return field.metadata["help"]
    if isinstance(value, float):
        value = f"{value:g}"
    return f"{field.metadata['help']} Default {'empty' if value == '' else value}."


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
