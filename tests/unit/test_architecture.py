"""What the layout promises: the engine knows no screen, the page opens without torch, nothing runs at import.

The order of the layers is import-linter's to hold (pyproject.toml).
"""

import ast
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT

PRODUCT = [ROOT / "app.py", *sorted(ROOT.glob("thinkswitch/**/*.py")), *sorted(ROOT.glob("ui/**/*.py"))]
NO_TORCH = (
    "thinkswitch.errors, thinkswitch.text, thinkswitch.preset, thinkswitch.recipe, thinkswitch.problems, thinkswitch.grading, "
    "thinkswitch.think_parser, thinkswitch.statistics, thinkswitch.runs, thinkswitch.cli.main, thinkswitch.cli.terminal"
)


def name_of(path) -> str:
    return str(path.relative_to(ROOT).with_suffix(""))


def python(code: str, cwd, **env) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_page_is_built_before_torch_is_imported(tmp_path):
    """Importing torch takes seconds, in which the page should already be there."""
    code = """
import sys, app
from thinkswitch.preset import load_preset
from ui.studio import Studio
page = app.build(Studio(load_preset("tiny"), "tiny"))
print(sorted({"torch", "transformers", "peft"} & sys.modules.keys()), len(page.blocks) > 100)
"""
    assert python(code, tmp_path) == "[] True"
    assert not list(tmp_path.iterdir())  # looking at the page makes no folders


def test_what_needs_no_torch_imports_none(tmp_path):
    assert python(f"import sys, {NO_TORCH}\nprint({{'torch', 'transformers', 'gradio'}} & sys.modules.keys())", tmp_path) == "set()"


def test_gradio_is_told_to_call_nobody_before_it_is_imported(tmp_path):
    code = "import os, sys, ui\nprint(os.environ['GRADIO_ANALYTICS_ENABLED'], os.environ['HF_HUB_DISABLE_TELEMETRY'], 'gradio' in sys.modules)"
    assert python(code, tmp_path) == "False 1 False"


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_no_work_at_import(path):
    """Module level holds definitions only (ui/__init__ sets what gradio reads when it is imported)."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If)
    for node in ast.parse(path.read_text("utf-8")).body[1:]:
        if name_of(path) == "ui/__init__" and ast.unparse(node).startswith("os.environ"):
            continue
        assert isinstance(node, allowed), f"{path.name} line {node.lineno}"
        if isinstance(node, ast.If):
            assert "__main__" in ast.unparse(node.test) or "TYPE_CHECKING" in ast.unparse(node.test)


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def test_no_path_of_a_machine_in_what_ships():
    for path in [*ROOT.glob("presets/**/*"), *ROOT.glob("*.md"), *ROOT.glob("dev/*")]:
        if path.is_file() and path.suffix not in (".safetensors", ".pyc"):
            assert not re.search(r"/(?:home|root|work|tmp|Users)/", path.read_text()), path
