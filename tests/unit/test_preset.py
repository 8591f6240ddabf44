"""Settings: stated once, parsed by type, refused when unknown or out of range; written and read again."""

import dataclasses
import re

import pytest

from conftest import TINY
from thinkswitch.errors import UserError
from thinkswitch.preset import (
    PRESETS,
    Preset,
    apply_settings,
    changed_settings,
    check_schedule,
    load_preset,
    make_preset,
    to_yaml,
)
from thinkswitch.recipe import Schedule

FIELDS = dataclasses.fields(Preset)


# ---- reading


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_each_shipped_yaml_loads_and_names_itself(path):
    preset = load_preset(path)
    assert preset.name == path.stem
    assert preset == load_preset(path.stem)


BAD_FILES = {
    "round: 2": "unknown setting 'round'; did you mean 'rounds'",
    "zebra: 2": "unknown setting 'zebra'; known are name, instruct",
    "3: 2": "unknown setting 3; known are",
    "rounds: 0": "rounds must lie between 1 and 100, it is 0",
    "t: 1.5": "t must lie between 0 and 1",
    "t: .nan": "t must lie between 0 and 1",
    "rounds: 2.5": "rounds must be a whole number",
    "rounds: true": "rounds must be a whole number",
    "rounds: .inf": "rounds must be a whole number",
    "t: true": "t must be a number, it is True",
    "t: [1]": "t must be a number",
    "name: [a]": "name must be text",
    "fresh: 3": "fresh must be true or false",
    "learning_rate: 0": "learning_rate must be above 0",
    "{soft: true, labels: shuffled}": "labels must be thinking, not shuffled",
    "day: 2024-13-45": "not readable YAML",  # yaml raises ValueError for it, not YAMLError
    "labels: human": "labels must be one of thinking, self, shuffled",
    "four_bit: perhaps": "four_bit must be true or false",
    "teacher: localhost": "teacher must be an address such as http",
    "schedule: {ffn: 1}": "schedule: unknown setting 'ffn'",
    "schedule: {mlp: 3}": "mlp must lie between 0 and 2",
    "schedule: {depth: [0, 3]}": "depth must lie between 0 and 2, it is 3",
    "schedule: {depth: []}": "depth must hold",
    "schedule: {depth: [a]}": "schedule: depth must be a list of numbers",
    "[1, 2]": "must hold 'setting: value' lines, it holds a list",
    "a: b: c": "not readable YAML",
}


@pytest.mark.parametrize("text, message", BAD_FILES.items(), ids=BAD_FILES)
def test_a_bad_value_is_refused_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as refused:
        load_preset(path)
    assert "\n" not in str(refused.value)


def test_values_are_parsed_by_the_type_of_their_setting(tmp_path):
    """PyYAML reads 1e-5 as text."""
    path = tmp_path / "p.yaml"
    lines = [
        "learning_rate: 1e-5",
        "rounds: '4'",
        "prompts: 1e3",
        "held_out: 20.0",
        "four_bit: auto",
        "fresh: 'Yes'",
        "name: 3",
        "schedule: {attention: 0, depth: [0, 1]}",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    preset = load_preset(path)
    assert (preset.learning_rate, preset.rounds, preset.prompts, preset.held_out) == (1e-5, 4, 1000, 20)
    assert (preset.four_bit, preset.fresh, preset.name) == (None, True, "3")
    assert preset.schedule == Schedule(attention=0.0, depth=(0.0, 1.0))
    assert make_preset(dict(schedule=dict(depth=0.5))).schedule == Schedule(depth=(0.5,))


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "preset.yaml").write_text("", encoding="utf-8")
    assert load_preset(tmp_path) == Preset()  # the folder of a run holds a preset.yaml


def test_an_unknown_preset_is_refused_with_the_known_names():
    with pytest.raises(UserError, match=r"no preset 'huge'.*tiny"):
        load_preset("huge")


def test_a_good_schedule_is_returned_as_it_is():
    schedule = Schedule(mlp=2, depth=(0.0, 1.0))
    assert check_schedule(schedule) is schedule


# ---- what a setting says about itself


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
def test_every_setting_has_help_and_every_number_a_range(field):
    assert re.fullmatch(r"[A-Z0-9].*\.", field.metadata["help"])
    if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
        assert field.metadata["low"] is not None and field.metadata["high"] is not None


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
def test_help_does_not_repeat_the_name(field):
    """The form shows the name above the help: "lora rank", "LoRA rank" says nothing twice."""
    help_text = field.metadata["help"].lower().rstrip(".")
    assert help_text != field.name.replace("_", " ")
    assert len(help_text.split()) >= 3 or field.name == "name"


def test_a_demo_hides_every_path_and_every_server():
    paths = {f.name for f in FIELDS if f.metadata["is_path"]}
    hidden = {f.name for f in FIELDS if f.metadata["hide_in_demo"]}
    assert paths == {"instruct", "thinking", "train_set", "held_out_set"}
    assert hidden == paths | {"teacher", "engine"}


def test_paths_start_at_their_file_and_hub_ids_stay(tmp_path):
    (tmp_path / "model").mkdir()
    path = tmp_path / "p.yaml"
    path.write_text("instruct: model\nthinking: Qwen/Qwen3-4B-Thinking-2507\n", encoding="utf-8")
    preset = load_preset(path)
    assert preset.instruct == str(tmp_path / "model")
    assert preset.thinking == "Qwen/Qwen3-4B-Thinking-2507"


def test_an_address_is_no_path(tmp_path, monkeypatch):
    """One flag once meant "relative path" and "hide in a demo", so a folder `http:` changed the teacher."""
    (tmp_path / "http:" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert apply_settings(Preset(), ["teacher=http://here"]).teacher == "http://here"


# ---- writing


def test_yaml_is_read_back_as_the_same_preset(tmp_path):
    preset = Preset(
        name="a: #b",
        rounds=2,
        prompt_template="{question}\n\nBox it: \\boxed{{}}",
        four_bit=False,
        schedule=Schedule(mlp=0.5, depth=(0.0, 1.0)),
        learning_rate=1e-5,
    )
    path = tmp_path / "p.yaml"
    path.write_text(to_yaml(preset), encoding="utf-8")
    assert load_preset(path) == preset


def test_yaml_has_headings_and_help():
    text = to_yaml(load_preset("tiny"))
    for field in FIELDS:
        assert re.search(rf"^{field.name}: .*  # {re.escape(field.metadata['help'])}$", text, re.M), (
            field.name
        )
        if field.metadata["group"]:
            assert f"# {field.metadata['group']}\n{field.name}:" in text


# ---- the command line's --set


def test_settings_of_the_command_line():
    base = load_preset("tiny")
    settings = ["rounds=1", "t=0.5", "labels=self", "four_bit=true", "schedule={mlp: 0.5}"]
    expected = dict(rounds=1, t=0.5, labels="self", four_bit=True, schedule=Schedule(mlp=0.5))
    assert apply_settings(base, settings) == dataclasses.replace(base, **expected)


BAD_SETTINGS = {
    "rounds": "--set wants key=value",
    "schedule={mlp": "schedule.*not readable as YAML",
    "schedule={depth: 2024-13-45}": "schedule.*not readable as YAML",  # ValueError, not YAMLError
    "schedule=mlp": "schedule must be a mapping",
    "round=1": "--set: unknown setting 'round'; did you mean 'rounds'",
}


@pytest.mark.parametrize("setting, message", BAD_SETTINGS.items(), ids=BAD_SETTINGS)
def test_a_bad_setting_is_refused_in_words(setting, message):
    with pytest.raises(UserError, match=message):
        apply_settings(load_preset("tiny"), [setting])


HOSTILE_TEXT = 'Say "it", it\'s {question} = 5 - $HOME; `ls` #1\n\nBox it: \\boxed{{}} ½ \U0001f914'
CHANGES = [
    dict(),
    dict(rounds=2, prompts=7, seed=2**31 - 1),
    dict(learning_rate=1e-5, t=0.1 + 0.2, weight_decay=1e-300, max_grad_norm=1e9),
    dict(lora_alpha=1.0, think_top_p=1, price_per_kwh=1 / 3),
    dict(fresh=False, greedy=False, soft=True),
    dict(four_bit=True),
    dict(four_bit=False),
    dict(schedule=Schedule(attention=0, mlp=1e-5, depth=(0, 1 / 3, 2))),
    dict(schedule=Schedule(depth=(0.0,) * 12 + (1.0,) * 24)),
    dict(
        labels="self", anchor="previous", decay="linear", dtype="bfloat16", template="thinking", kind="math"
    ),
    dict(prompt_template=HOSTILE_TEXT),
    dict(prompt_template="--set x=1: {prompt}"),
    dict(name="a b: #c", lora_targets="q_proj,v_proj"),
    dict(name="", answer_column="final answer"),
    dict(
        instruct="Qwen/Qwen3-4B-Instruct-2507",
        thinking="C:\\models\\my pair",
        train_set="owner/name/config:train[:10]",
    ),
    dict(
        prompt_template="{prompt}\nAnswer: "
    ),  # values were once stripped, so a run trained on another prompt
    dict(prompt_template="{prompt}\n"),
    dict(prompt_template=" {prompt}"),
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: ",".join(c) or "none")
def test_changed_settings_is_the_inverse_of_apply_settings(changes):
    """What the page writes on a child's command line is the preset that its form holds."""
    base = load_preset("tiny")
    changed = dataclasses.replace(base, **changes)
    for before, after in ((base, changed), (changed, base)):  # and back: auto again, text emptied
        settings = changed_settings(before, after)
        different = {key for key in changes if getattr(before, key) != getattr(after, key)}
        assert {setting.partition("=")[0] for setting in settings} == different
        assert apply_settings(before, settings) == after


def test_the_tiny_preset_points_into_its_own_folder():
    assert load_preset("tiny").instruct == str(TINY / "instruct")


BOMB = "\n".join(["a: &a0 [x]"] + [f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)])


@pytest.mark.parametrize(
    "text",
    [
        "x: " + "[" * 5000,
        "schedule: " + "{a: " * 3000,
        "name: &r [*r]",
        "schedule: {depth: &r [*r]}",
        "think_tags: &r [*r]",
        f"{BOMB}\nname: *a11",
        f"name: *a11\n{BOMB}",
        f"name: {'[x, ' * 2}{'y' * 5000}]]",
        f"labels: {'y' * 5000}",
        f"? [{'a, ' * 3000}]\n: 1",
        f"{'k' * 5000}: 1",
    ],
    ids=lambda text: text[-12:],
)
def test_a_preset_of_any_size_is_refused_in_a_sentence(tmp_path, text):
    """Deep nesting was a RecursionError; nine lines of aliases would have been written out value by value."""
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        load_preset(tmp_path / "p.yaml")
    assert len(str(refusal.value).replace(str(tmp_path), "")) < 900
