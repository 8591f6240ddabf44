"""A form from the Preset's fields: one knob, one home. Nothing here knows a knob by name but FEW."""

import dataclasses
import types
import typing

import gradio as gr
import yaml

from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, make_preset

FEW = ("rounds", "prompts", "held_out", "t", "epochs", "learning_rate", "lora_rank", "labels")  # the rest is folded
TYPES = typing.get_type_hints(Preset)


def build(preset: Preset, demo: bool) -> dict[str, gr.components.Component]:
    """{knob: component}, laid out: a few, then the rest under their headings. A stage shows no paths."""
    made = {}
    fields = {f.name: f for f in dataclasses.fields(Preset)}
    with gr.Row(equal_height=True):
        for name in FEW:
            made[name] = component(fields[name], getattr(preset, name))
    with gr.Accordion("All knobs", open=False, elem_id="loop-knobs") as folded:
        with gr.Column(visible=False) as rest:  # not drawn before it is asked for: it is forty components
            for heading, names in groups(demo).items():
                gr.Markdown(f"**{heading}**")
                with gr.Row(equal_height=True):
                    for name in names:
                        made[name] = component(fields[name], getattr(preset, name))
    folded.expand(lambda: gr.Column(visible=True), None, rest, show_progress="hidden", api_visibility="private")
    return made


def groups(demo: bool) -> dict[str, list[str]]:
    result, heading = {}, ""
    for f in dataclasses.fields(Preset):
        heading = f.metadata["group"] or heading
        if f.name not in FEW and not (demo and f.metadata["hide_in_demo"]) and f.name != "name":
            result.setdefault(heading, []).append(f.name)
    return result


def component(field: dataclasses.Field, value) -> gr.components.Component:
    kind, meta = TYPES[field.name], field.metadata
    label = field.name.replace("_", " ")
    common = dict(label=label, info=meta["help"], value=shown(value), elem_id=f"knob-{field.name}", min_width=240, interactive=True)
    if kind is bool:
        return gr.Checkbox(**common)
    if isinstance(kind, types.UnionType):
        return gr.Dropdown(["auto", "true", "false"], **common)
    if meta["choices"]:
        return gr.Dropdown(list(meta["choices"]), **common)
    if kind in (int, float):
        return gr.Number(precision=0 if kind is int else None, **common)  # limits are the preset's to tell, by the knob's name
    return gr.Textbox(max_lines=3, **common)


def shown(value):
    """A knob's value as its component holds it."""
    if dataclasses.is_dataclass(value):
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(value).items()}
        return yaml.safe_dump(plain, default_flow_style=True, width=10**9).strip()
    return "auto" if value is None else value


def read(base: Preset, values: dict) -> Preset:
    """`base` with what the form says; says which knob is wrong."""
    plain = {}
    for name, value in values.items():
        if value is None:
            raise UserError(f"{name} is empty; give it a value (the preset has {shown(getattr(base, name))})")
        if dataclasses.is_dataclass(TYPES[name]):
            try:
                value = yaml.safe_load(str(value))
            except (yaml.YAMLError, ValueError):
                raise UserError(f"{name} is not readable; write for example {{mlp: 1, attention: 0}}") from None
        if value != shown(getattr(base, name)):
            plain[name] = value
    return make_preset(plain, "form", base)
