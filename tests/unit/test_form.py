"""The settings form: built from the preset, read back into one."""

import dataclasses

import gradio as gr
import pytest

from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, load_preset
from thinkswitch.recipe import Schedule
from ui.loop import form

FIELDS = [f.name for f in dataclasses.fields(Preset)]
HIDDEN_IN_DEMO = {f.name for f in dataclasses.fields(Preset) if f.metadata["hide_in_demo"]}


@pytest.mark.parametrize("demo", [False, True])
def test_every_setting_is_in_the_form_once(demo):
    """But for the preset's name; a demo shows no paths of its machine."""
    shown = [*form.MAIN_FIELDS, *(name for names in form.groups(demo).values() for name in names)]
    assert len(shown) == len(set(shown))
    assert set(shown) == set(FIELDS) - {"name"} - (HIDDEN_IN_DEMO if demo else set())
    assert all(form.groups(demo))  # each under a heading


@pytest.mark.parametrize("demo", [False, True])
def test_the_built_form_holds_what_the_preset_says(demo):
    base = load_preset("tiny")
    with gr.Blocks():
        built = form.build(base, demo)
    made = built.settings
    assert set(made) == set(FIELDS) - {"name"} - (HIDDEN_IN_DEMO if demo else set())
    assert len({c.elem_id for c in made.values()}) == len(made)
    assert form.read(base, {name: c.value for name, c in made.items()}) == base
    fields = {f.name: f for f in dataclasses.fields(Preset)}
    for name, c in made.items():
        assert c.info.startswith(fields[name].metadata["help"])
    assert [value for _, value in made["labels"].choices] == ["thinking", "self", "shuffled"]
    assert made["four_bit"].value == "auto"


def test_a_number_reaches_the_preset_as_it_was_typed():
    """1.5 rounds were rounded to 2 by the component, and the loop started."""
    base = load_preset("tiny")
    with gr.Blocks():
        rounds = form.build(base, demo=False).settings["rounds"]
    assert rounds.preprocess(3) == 3
    with pytest.raises(UserError, match="rounds must be a whole number"):
        form.read(base, {"rounds": rounds.preprocess(1.5)})


@pytest.mark.parametrize(
    "name, label",
    [
        ("rounds", "Rounds"),
        ("learning_rate", "Learning rate"),
        ("lora_rank", "LoRA rank"),
        ("price_per_kwh", "Price per kWh"),
        ("t", "t"),
    ],
)
def test_labels_are_written_like_sentences(name, label):
    assert form.label(name) == label


def test_another_preset_fills_the_form_in_its_order():
    tiny = load_preset("tiny")
    assert form.values_of(tiny, ["t", "four_bit", "rounds"]) == [tiny.t, "auto", tiny.rounds]


@pytest.mark.parametrize(
    "base",
    [
        Preset(),
        load_preset("tiny"),
        Preset(four_bit=False, schedule=Schedule(mlp=1e-5, depth=(0, 1 / 3)), prompt_template="{q}\n: "),
        Preset(four_bit=True, learning_rate=1e-5, soft=True, name="a: b"),
    ],
    ids=["default", "tiny", "odd", "other"],
)
def test_a_form_that_nobody_touched_is_the_preset(base):
    assert form.read(base, {name: form.shown(name, getattr(base, name)) for name in FIELDS}) == base
    assert form.read(base, {}) == base


def test_a_forms_values_become_settings():
    base = load_preset("tiny")
    values = {name: form.shown(name, getattr(base, name)) for name in FIELDS} | dict(
        rounds=2, t=1, four_bit="true", fresh=False, schedule="{mlp: 0.5, depth: [0, 1]}", labels="self"
    )
    assert form.read(base, values) == dataclasses.replace(
        base,
        rounds=2,
        t=1.0,
        four_bit=True,
        fresh=False,
        schedule=Schedule(mlp=0.5, depth=(0.0, 1.0)),
        labels="self",
    )


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("rounds", 0, "rounds must lie between 1 and 100, it is 0"),
        ("rounds", 2.5, "rounds must be a whole number"),
        ("t", 1.5, "t must lie between 0 and 1"),
        ("t", float("nan"), "t must lie"),
        ("learning_rate", 0, "learning_rate must be above 0"),
        ("labels", "human", "labels must be one of thinking, self, shuffled"),
        ("four_bit", "perhaps", "four_bit must be true or false"),
        ("schedule", "{mlp", "schedule is not readable"),
        ("schedule", "mlp", "schedule must be a mapping"),
        ("schedule", "", "schedule must be a mapping"),
        ("schedule", "{ffn: 1}", "unknown setting 'ffn'"),
        ("schedule", "{mlp: 3}", "mlp must lie between 0 and 2"),
        ("schedule", "{depth: []}", "depth must hold"),
        ("rounds", None, "rounds is empty; give it a value \\(the preset has 3\\)"),
        ("schedule", None, "schedule is empty"),
        ("labels", None, "labels is empty"),
    ],
)
def test_a_wrong_value_names_its_setting(name, value, says):
    with pytest.raises(UserError, match=says):
        form.read(load_preset("tiny"), {"epochs": 3, name: value})


def test_a_schedule_that_looks_like_a_date_is_refused_in_words():
    """yaml raises a bare ValueError for it."""
    with pytest.raises(UserError, match="schedule"):
        form.read(Preset(), {"schedule": "{depth: 2024-13-45}"})


def test_an_error_calls_settings_as_the_form_does():
    """The label said "held out", the error held_out."""
    said = form.with_labels("held_out asks for 9 problems, a/held_out.jsonl has 4; lower held_out")
    assert said == (
        "“Held out” (held_out) asks for 9 problems, a/held_out.jsonl has 4; lower “Held out” (held_out)"
    )
    assert form.with_labels("no_such_setting and 'lora_rank'") == "no_such_setting and 'lora_rank'"


def test_a_switch_of_three_is_shown_as_one_of_its_choices():
    """A preset with four_bit: false put False into a list of texts, and Gradio complained."""
    shown = [form.shown("four_bit", value) for value in (None, True, False)]
    assert shown == ["auto", "true", "false"]
    assert form.shown("greedy", False) is False


def test_a_setting_shows_its_unit_and_its_default():
    tiny = load_preset("tiny")
    fields = form.fields_by_name()
    assert form.title("held_out") == "Held out (problems)" and form.title("t") == "t"
    assert form.info(fields["t"], tiny).endswith("1 = anchor. Default 0.8.")
    assert form.info(fields["greedy"], tiny).endswith("Default on.")
    assert form.info(fields["four_bit"], tiny).endswith("Default auto.")
    assert form.info(fields["teacher"], tiny).endswith("Default empty.")
    assert "Default" not in form.info(fields["schedule"], tiny)  # as long as a paragraph
    assert set(form.UNITS) <= set(FIELDS)


@pytest.mark.parametrize("demo", [False, True])
def test_the_tools_know_every_setting_its_words_and_its_group(demo):
    """In the order of the form: the browser compares values by place."""
    with gr.Blocks():
        built = form.build(load_preset("tiny"), demo)
    settings = built.tools.value["settings"]
    assert [one["id"] for one in settings] == [c.elem_id for c in built.settings.values()]
    grouped = [name for group in built.tools.value["groups"] for name in group["settings"]]
    assert sorted(grouped) == sorted(one["id"] for one in settings)
    rate = next(one for one in settings if one["id"] == "knob-learning_rate")
    assert "warm-up" in rate["text"] and rate["preset"] == "0.002" and not rate["folded"]
    assert not any("/" in one["preset"] and one["preset"].startswith("/") for one in settings)


@pytest.mark.parametrize(
    "value, text", [(True, "true"), (2.0, "2"), (0.002, "0.002"), (3, "3"), ("auto", "auto"), ("", "")]
)
def test_a_value_is_compared_as_javascript_writes_it(value, text):
    assert form.js_text(value) == text


def test_another_preset_brings_its_values_and_defaults():
    with gr.Blocks():
        built = form.build(load_preset("tiny"), demo=False)
    updates = built.of(dataclasses.replace(load_preset("tiny"), rounds=7))
    assert updates[built.settings["rounds"]]["value"] == 7
    assert updates[built.settings["rounds"]]["info"].endswith("Default 7.")
    settings = {one["id"]: one["preset"] for one in updates[built.tools]["settings"]}
    assert settings["knob-rounds"] == "7"


@pytest.mark.parametrize("name", ["instruct", "thinking", "train_set", "held_out_set"])
def test_a_path_is_read_as_it_was_pasted(tmp_path, name):
    """Quotes of Explorer, a slash at the end, an address: the same as on the command line."""
    folder = tmp_path / "a b"
    folder.mkdir()
    for text in (f'"{folder}"', f"{folder}/", f"file://{tmp_path}/a%20b", f" '{folder}' \n"):
        assert getattr(form.read(Preset(), {name: text}), name) == str(folder)
    page = "https://huggingface.co/owner/name/tree/main"
    assert getattr(form.read(Preset(), {name: page}), name) == "owner/name"
