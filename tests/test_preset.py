"""Knobs: one home, coerced by type, refused when unknown or out of range."""

import dataclasses

import pytest

from thinkswitch import preset as presets
from thinkswitch.errors import UserError
from thinkswitch.preset import PRESETS, Preset, Schedule


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_each_shipped_yaml_loads_and_names_itself(path):
    preset = presets.load(path)
    assert preset.name == path.stem
    assert preset == presets.load(path.stem)


@pytest.mark.parametrize("text, says", [
    ("round: 2", "unknown knob 'round'; did you mean 'rounds'"),
    ("zebra: 2", "unknown knob 'zebra'; known are"),
    ("rounds: 0", "rounds must lie between 1 and 100, it is 0"),
    ("t: 1.5", "t must lie between 0 and 1"),
    ("t: .nan", "t must lie between 0 and 1"),
    ("rounds: 2.5", "rounds must be a whole number"),
    ("rounds: true", "rounds must be a whole number"),
    ("fresh: 3", "fresh must be true or false"),
    ("learning_rate: 0", "learning_rate must be above 0"),
    ("{soft: true, labels: shuffled}", "labels must be thinking, not shuffled"),  # the soft targets would be the right labels
    ("day: 2024-13-45", "not readable YAML"),
    ("labels: human", "labels must be one of thinking, self, shuffled"),
    ("four_bit: perhaps", "four_bit must be true or false"),
    ("schedule: {ffn: 1}", "unknown knob 'ffn'"),
    ("schedule: {mlp: 3}", "mlp must lie between 0 and 2"),
    ("schedule: {depth: []}", "depth must hold"),
    ("[1, 2]", "must hold 'knob: value' lines"),
    ("a: b: c", "not readable YAML"),
])
def test_bad_values_are_refused_in_words(tmp_path, text, says):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        presets.load(path)


def test_values_are_coerced_by_type(tmp_path):
    """PyYAML reads 1e-5 as text."""
    path = tmp_path / "p.yaml"
    path.write_text("learning_rate: 1e-5\nrounds: '4'\nfour_bit: auto\nschedule: {attention: 0, depth: [0, 1]}\n")
    preset = presets.load(path)
    assert (preset.learning_rate, preset.rounds, preset.four_bit) == (1e-5, 4, None)
    assert preset.schedule == Schedule(attention=0.0, depth=(0.0, 1.0))


def test_settings_of_the_command_line():
    base = presets.load("tiny")
    changed = presets.from_settings(base, ["rounds=1", "t=0.5", "labels=self", "four_bit=true", "schedule={mlp: 0.5}"])
    assert (changed.rounds, changed.t, changed.labels, changed.four_bit, changed.schedule.mlp) == (1, 0.5, "self", True, 0.5)
    assert dataclasses.replace(changed, rounds=base.rounds, t=base.t, labels=base.labels, four_bit=None, schedule=base.schedule) == base
    for setting, says in (("rounds", "key=value"), ("schedule={mlp", "not readable as YAML"), ("schedule=mlp", "must be a mapping")):
        with pytest.raises(UserError, match=says):
            presets.from_settings(base, [setting])


@pytest.mark.parametrize("only_changes", [True, False])
def test_yaml_there_and_back(tmp_path, only_changes):
    preset = Preset(name="a: #b", rounds=2, prompt_template="{question}\n\nBox it: \\boxed{{}}", four_bit=False,
                    schedule=Schedule(mlp=0.5, depth=(0.0, 1.0)), learning_rate=1e-5)
    path = tmp_path / "p.yaml"
    path.write_text(presets.to_yaml(preset, only_changes))
    assert presets.load(path) == preset


def test_paths_are_relative_to_the_file_and_ids_stay(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "p.yaml").write_text("instruct: model\nthinking: Qwen/Qwen3-4B-Thinking-2507\n")
    preset = presets.load(tmp_path / "p.yaml")
    assert preset.instruct == str(tmp_path / "model") and preset.thinking == "Qwen/Qwen3-4B-Thinking-2507"


def test_every_knob_has_help_and_every_number_a_range():
    for f in dataclasses.fields(Preset):
        assert f.metadata["help"]
        if isinstance(f.default, (int, float)) and not isinstance(f.default, bool):
            assert f.metadata["low"] is not None, f.name


def test_unknown_preset_names_the_known():
    with pytest.raises(UserError, match="no preset 'huge'.*tiny"):
        presets.load("huge")
