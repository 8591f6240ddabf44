"""Knobs: one home, coerced by type, refused when unknown or out of range."""

import dataclasses
import subprocess
import sys

import pytest

from conftest import ROOT
from thinkswitch.errors import UserError
from thinkswitch.preset import (
    PRESETS,
    Preset,
    Schedule,
    apply_settings,
    changed_settings,
    load_preset,
    to_yaml,
)


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_each_shipped_yaml_loads_and_names_itself(path):
    preset = load_preset(path)
    assert preset.name == path.stem
    assert preset == load_preset(path.stem)


@pytest.mark.parametrize("text, says", [
    ("round: 2", "unknown setting 'round'; did you mean 'rounds'"),
    ("zebra: 2", "unknown setting 'zebra'; known are"),
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
    ("schedule: {ffn: 1}", "unknown setting 'ffn'"),
    ("schedule: {mlp: 3}", "mlp must lie between 0 and 2"),
    ("schedule: {depth: []}", "depth must hold"),
    ("[1, 2]", "must hold 'setting: value' lines"),
    ("a: b: c", "not readable YAML"),
])
def test_bad_values_are_refused_in_words(tmp_path, text, says):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        load_preset(path)


def test_values_are_coerced_by_type(tmp_path):
    """PyYAML reads 1e-5 as text."""
    path = tmp_path / "p.yaml"
    path.write_text("learning_rate: 1e-5\nrounds: '4'\nfour_bit: auto\nschedule: {attention: 0, depth: [0, 1]}\n")
    preset = load_preset(path)
    assert (preset.learning_rate, preset.rounds, preset.four_bit) == (1e-5, 4, None)
    assert preset.schedule == Schedule(attention=0.0, depth=(0.0, 1.0))


def test_settings_of_the_command_line():
    base = load_preset("tiny")
    changed = apply_settings(base, ["rounds=1", "t=0.5", "labels=self", "four_bit=true", "schedule={mlp: 0.5}"])
    assert (changed.rounds, changed.t, changed.labels, changed.four_bit, changed.schedule.mlp) == (1, 0.5, "self", True, 0.5)
    assert dataclasses.replace(changed, rounds=base.rounds, t=base.t, labels=base.labels, four_bit=None, schedule=base.schedule) == base
    for setting, says in (("rounds", "key=value"), ("schedule={mlp", "not readable as YAML"), ("schedule=mlp", "must be a mapping")):
        with pytest.raises(UserError, match=says):
            apply_settings(base, [setting])


@pytest.mark.parametrize("only_changes", [True, False])
def test_yaml_there_and_back(tmp_path, only_changes):
    preset = Preset(name="a: #b", rounds=2, prompt_template="{question}\n\nBox it: \\boxed{{}}", four_bit=False,
                    schedule=Schedule(mlp=0.5, depth=(0.0, 1.0)), learning_rate=1e-5)
    path = tmp_path / "p.yaml"
    path.write_text(to_yaml(preset, only_changes))
    assert load_preset(path) == preset


def test_paths_are_relative_to_the_file_and_ids_stay(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "p.yaml").write_text("instruct: model\nthinking: Qwen/Qwen3-4B-Thinking-2507\n")
    preset = load_preset(tmp_path / "p.yaml")
    assert preset.instruct == str(tmp_path / "model") and preset.thinking == "Qwen/Qwen3-4B-Thinking-2507"


def test_every_knob_has_help_and_every_number_a_range():
    for f in dataclasses.fields(Preset):
        assert f.metadata["help"]
        if isinstance(f.default, (int, float)) and not isinstance(f.default, bool):
            assert f.metadata["low"] is not None, f.name


def test_unknown_preset_names_the_known():
    with pytest.raises(UserError, match="no preset 'huge'.*tiny"):
        load_preset("huge")


CHANGES = [dict(), dict(rounds=2, prompts=7, seed=2**31 - 1), dict(learning_rate=1e-5, t=0.1 + 0.2, weight_decay=1e-300, max_grad_norm=1e9),
           dict(lora_alpha=1.0, think_top_p=1, price_per_kwh=1 / 3), dict(fresh=False, greedy=False, soft=True), dict(four_bit=True), dict(four_bit=False),
           dict(schedule=Schedule(attention=0, mlp=1e-5, depth=(0, 1 / 3, 2))), dict(schedule=Schedule(depth=(0.0,) * 12 + (1.0,) * 24)),
           dict(labels="self", anchor="previous", decay="linear", dtype="bfloat16", template="thinking", kind="math"),
           dict(prompt_template='Say "it", it\'s {question} = 5 - $HOME; `ls` #1\n\nBox it: \\boxed{{}} ½ \U0001f914'), dict(prompt_template="--set x=1: {prompt}"),
           dict(name="a b: #c", lora_targets="q_proj,v_proj"), dict(name="", answer_column="final answer"),
           dict(instruct="Qwen/Qwen3-4B-Instruct-2507", thinking="C:\\models\\my pair", train_set="owner/name/config:train[:10]")]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: ",".join(c) or "none")
def test_settings_is_the_inverse_of_from_settings(changes):
    """What the page writes on a child's command line is the preset that its form holds."""
    base = load_preset("tiny")
    for one, other in ((base, dataclasses.replace(base, **changes)), (dataclasses.replace(base, **changes), base)):  # and back: auto again, text emptied
        said = changed_settings(one, other)
        assert {s.partition("=")[0] for s in said} == {k for k in changes if getattr(one, k) != getattr(other, k)}
        assert apply_settings(one, said) == other


def test_settings_go_through_a_real_command_line(tmp_path):
    """No shell in between: quotes, spaces, dollars and line ends arrive as they are, past argparse, too."""
    base = load_preset("tiny")
    for changes in ({k: v for c in CHANGES[1:4] + CHANGES[7:11] for k, v in c.items()}, {k: v for c in CHANGES[4:6] + CHANGES[11:] for k, v in c.items()}):
        wanted = dataclasses.replace(base, **changes)
        code = ("import sys\nfrom thinkswitch import preset as p\nfrom thinkswitch.cli.main import parser\nargs = parser().parse_args(sys.argv[2:])\n"
                "open(sys.argv[1], 'w', encoding='utf-8').write(p.to_yaml(p.apply_settings(p.load_preset(args.preset), args.set)))")
        subprocess.run([sys.executable, "-c", code, tmp_path / "p.yaml", "run", "tiny", "--out", tmp_path, "--set", *changed_settings(base, wanted)], cwd=ROOT, check=True)
        assert load_preset(tmp_path / "p.yaml") == wanted


@pytest.mark.parametrize("template", ["{prompt}\nAnswer: ", "{prompt}\n", " {prompt}"])
def test_settings_keep_the_space_around_a_text(template):
    """from_settings strips every value, so a run that the page starts trains on another prompt than its form shows."""
    base = load_preset("tiny")
    wanted = dataclasses.replace(base, prompt_template=template)
    assert apply_settings(base, changed_settings(base, wanted)).prompt_template == template


def test_a_schedule_that_yaml_cannot_read_is_refused_in_words():
    """yaml raises ValueError, not YAMLError, for what looks like a date; `load` catches both, `from_settings` one."""
    with pytest.raises(UserError, match="schedule"):
        apply_settings(load_preset("tiny"), ["schedule={depth: 2024-13-45}"])
