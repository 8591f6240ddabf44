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


TEXT_CALLS = ("open", "read_text", "write_text", "fdopen", "NamedTemporaryFile", "TextIOWrapper")
CHILDREN = ("run", "Popen", "check_output")


def calls_without_an_encoding(source: str) -> list[int]:
    """Lines that open a text, or read a child's output as text, in the code page of the machine."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        texts = [
            arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        ]
        on = ast.unparse(call.func)
        if name in CHILDREN and on.startswith("subprocess."):
            is_text = given.get("text") == "True" or given.get("universal_newlines") == "True"
        elif name in TEXT_CALLS and on not in ("os.open", "gzip.open", "webbrowser.open", "self._open"):
            mode = given.get("mode", next((text for text in texts if set(text) <= set("rwaxbt+")), "r"))
            is_text = "b" not in mode
        else:
            continue
        if is_text and "encoding" not in given and not {"utf-8", "utf-8-sig"} & set(texts):
            found.append(call.lineno)
    return found


@pytest.mark.parametrize(
    "source, lines",
    [
        ("open(p)", [1]),
        ("open(p, 'a')", [1]),
        ("open(p, 'rb')", []),
        ("open(p, 'w', encoding='utf-8')", []),
        ("p.read_text()", [1]),
        ("p.read_text('utf-8')", []),
        ("x = 1\np.write_text(t)", [2]),
        ("subprocess.run(c, text=True)", [1]),
        ("subprocess.run(c, text=True, encoding='utf-8')", []),
        ("subprocess.run(c)", []),
        ("subprocess.Popen(c, universal_newlines=True)", [1]),
        ("os.open(p, f)", []),
    ],
)
def test_what_reads_in_the_machine_s_code_page_is_seen(source, lines):
    assert calls_without_an_encoding(source) == lines


OPENS = (
    "ui/explore/tab",
    "ui/explore/point_taker",
    "app",
    "thinkswitch/think_parser",
)  # methods of their own


@pytest.mark.parametrize("path", [path for path in PRODUCT if name_of(path) not in OPENS], ids=name_of)
def test_files_are_utf_8_whatever_the_machine_s_code_page(path):
    """CASES 4: on a German Windows open() reads cp1252: a preset with an umlaut comes out as another text."""
    assert calls_without_an_encoding(path.read_text("utf-8")) == []
