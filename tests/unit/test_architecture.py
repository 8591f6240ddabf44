"""What the layout promises: nothing runs at import, and every file says what it is.

import-linter holds the order of the layers (pyproject.toml). What is imported when: process/test_imports.py.
"""

import ast
import re
from pathlib import Path

import pytest

from conftest import ROOT

PRODUCT = [ROOT / "app.py", *sorted(ROOT.glob("thinkswitch/**/*.py")), *sorted(ROOT.glob("ui/**/*.py"))]
IMPORTS = (ast.Import, ast.ImportFrom)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def statements(path: Path) -> list[ast.stmt]:
    """Those at module level, below the docstring."""
    return ast.parse(path.read_text("utf-8")).body[1:]


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_no_work_at_import(path):
    """Module level holds definitions only; ui/__init__ sets what gradio reads when it is imported."""
    for node in statements(path):
        if name_of(path) == "ui/__init__" and ast.unparse(node).startswith("os.environ"):
            continue
        if isinstance(node, ast.If):
            assert re.search("__main__|TYPE_CHECKING|sys.platform|os.name", ast.unparse(node.test)), (
                node.lineno
            )
        else:
            assert isinstance(node, IMPORTS + DEFINITIONS), node.lineno


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def test_no_path_of_the_machine_that_wrote_it_in_what_ships():
    """Scripts write checkpoints, cards and logs; a clone elsewhere must find everything."""
    for path in (ROOT / "presets").rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert not re.search(r"/(?:home|root|work|tmp|Users)/", path.read_text("utf-8")), path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("dev/*.*"), *ROOT.glob("docs/*.*")]:
        assert str(ROOT) not in path.read_text("utf-8"), path
