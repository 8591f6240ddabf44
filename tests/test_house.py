"""The house: who may import whom, what happens at import, and what the README says is there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

ENGINE = sorted((ROOT / "thinkswitch").glob("*.py"))
TORCH_FREE = ("errors", "preset", "tasks", "trace", "runs", "terminal")


def imported(path: Path) -> set[str]:
    """Top-level packages a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: p.stem)
def test_the_engine_knows_no_screen(path):
    assert not imported(path) & {"gradio", "ui", "app", "plotly"}


def test_words_scores_and_run_files_need_no_torch():
    code = f"import sys\nfrom thinkswitch import {', '.join(TORCH_FREE)}\nprint('torch' in sys.modules, 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False False\n"


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: p.stem)
def test_no_work_at_import(path):
    """Module level holds definitions only (and what a command does under `__main__`)."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If)
    for node in ast.parse(path.read_text()).body[1:]:
        assert isinstance(node, allowed), f"{path.name} line {node.lineno}"
        assert not isinstance(node, ast.If) or "__main__" in ast.unparse(node.test)


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: p.stem)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_readme_s_file_map_is_the_tree():
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^ {4,6}([a-z_]+\.(?:py|yaml))\b", readme, re.M))
    there = {p.name for folder in ("thinkswitch", "bench", "dev", "presets") for p in (ROOT / folder).glob("*.*") if p.suffix in (".py", ".yaml")}
    assert named == there


def test_no_path_of_a_machine_in_what_ships():
    for path in [*ROOT.glob("presets/**/*"), *ROOT.glob("*.md"), *ROOT.glob("dev/*")]:
        if path.is_file() and path.suffix not in (".safetensors", ".pyc"):
            assert not re.search(r"/(?:home|root|work|tmp|Users)/", path.read_text()), path
