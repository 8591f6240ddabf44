"""Settings through the operating system: what the page writes on a child's command line arrives as it is."""

import dataclasses
import subprocess
import sys

from conftest import ROOT
from thinkswitch.preset import changed_settings, load_preset
from thinkswitch.recipe import Schedule

CHILD = """
import pathlib, sys
from thinkswitch.cli.main import parser
from thinkswitch.preset import apply_settings, load_preset, to_yaml
args = parser().parse_args(sys.argv[2:])
preset = apply_settings(load_preset(args.preset), args.set)
pathlib.Path(sys.argv[1]).write_text(to_yaml(preset), encoding="utf-8")
"""


def test_settings_go_through_a_real_command_line(tmp_path):
    """No shell in between: quotes, spaces, dollars and line ends arrive as they are, past argparse, too."""
    base = load_preset("tiny")
    numbers = dict(rounds=2, seed=2**31 - 1, learning_rate=1e-5, t=0.1 + 0.2, weight_decay=1e-300, soft=True)
    text = 'Say "it", it\'s {question} = 5 - $HOME; `ls` #1\n\nBox it: \\boxed{{}} ½ \U0001f914'
    others = dict(
        four_bit=True,
        schedule=Schedule(attention=0, mlp=1e-5, depth=(0, 1 / 3, 2)),
        name="a b: #c",
        answer_column="final answer",
        thinking="C:\\models\\my pair",
        train_set="owner/name/config:train[:10]",
    )
    for changes in (
        numbers | dict(prompt_template=text),
        others | dict(prompt_template="--set x=1: {prompt}"),
    ):
        wanted = dataclasses.replace(base, **changes)
        settings = changed_settings(base, wanted)
        arguments = [tmp_path / "p.yaml", "run", "tiny", "--out", tmp_path, "--set", *settings]
        subprocess.run([sys.executable, "-c", CHILD, *arguments], cwd=ROOT, check=True)
        assert load_preset(tmp_path / "p.yaml") == wanted
