"""The house: who may import whom, what happens at import, and what the README says is there."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

ENGINE = sorted((ROOT / "thinkswitch").glob("*.py"))
PAGE = [ROOT / "app.py", *sorted((ROOT / "ui").glob("*.py"))]
TABS = ("models", "loop", "compare", "explore", "export")
TORCH_FREE = ("errors", "preset", "tasks", "trace", "runs", "terminal")
name_of = lambda path: str(path.relative_to(ROOT).with_suffix(""))


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


def modules_of_ui(path: Path) -> set[str]:
    """The files of ui/ that a file imports: `from ui import a`, `from ui.a import b`, `from . import a`, `import ui.a`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("ui.")}
        elif isinstance(node, ast.ImportFrom):
            module = ("ui." * bool(node.level) + (node.module or "")).rstrip(".")
            if module == "ui":
                names |= {a.name for a in node.names}
            elif module.startswith("ui."):
                names.add(module.split(".")[1])
    return names


@pytest.mark.parametrize("path", PAGE, ids=name_of)
def test_imports_of_the_page_point_one_way(path):
    """app -> ui -> thinkswitch. A tab is a file that the others do not know; what tabs share knows no tab."""
    assert not imported(path) & {"app", "tests", "bench", "dev"}
    known = modules_of_ui(path)
    if path.name == "app.py":
        assert known >= set(TABS)
    elif path.stem in TABS:
        assert known <= {"studio", "theme", "charts", "form"}
    else:
        assert not known & {*TABS, path.stem}
        assert known <= dict(charts={"theme"}, studio={"turns"}).get(path.stem, set())


def test_every_file_of_ui_is_a_tab_or_shared():
    assert {p.stem for p in PAGE[1:]} == {*TABS, "studio", "turns", "theme", "charts", "form", "__init__"}


def tops(node) -> list:
    """What runs at import: a module's statements, those of its classes and branches, not of its functions."""
    found = []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            found += [child, *tops(child)]
    return found


@pytest.mark.parametrize("path", PAGE, ids=name_of)
def test_the_page_imports_torch_in_functions_only(path):
    heavy = {"torch", "transformers", "peft", "bitsandbytes", "safetensors", "accelerate"}
    for node in tops(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {n.split(".")[0] for n in named} & heavy, f"{path.name} line {node.lineno}"
            engine = {a.name for a in node.names} if ast.unparse(node).startswith("from thinkswitch import") else {n.split(".")[1] for n in named if n.startswith("thinkswitch.")}
            assert engine <= set(TORCH_FREE), f"{path.name} line {node.lineno}: {engine}"


def test_the_page_is_built_before_torch_is_imported(tmp_path):
    """Importing torch takes seconds, in which the page should already be there."""
    code = ("import sys, app\nloaded = lambda: sorted({'torch', 'transformers', 'peft'} & sys.modules.keys())\nat_import = loaded()\n"
            "from thinkswitch import preset\nfrom ui.studio import Studio\npage = app.build(Studio(preset.load('tiny'), 'tiny'))\n"
            "print(at_import, loaded(), len(page.blocks) > 100)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout == "[] [] True\n", done.stderr
    assert not list(tmp_path.iterdir())  # looking at the page makes no folders


def test_words_scores_and_run_files_need_no_torch():
    code = f"import sys\nfrom thinkswitch import {', '.join(TORCH_FREE)}\nprint('torch' in sys.modules, 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False False\n"


@pytest.mark.parametrize("path", ENGINE + PAGE, ids=name_of)
def test_no_work_at_import(path):
    """Module level holds definitions only (and what a command does under `__main__`; ui/ tells gradio to call nobody)."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If)
    for node in ast.parse(path.read_text()).body[1:]:
        if name_of(path) == "ui/__init__" and ast.unparse(node).startswith("os.environ"):
            continue
        assert isinstance(node, allowed), f"{path.name} line {node.lineno}"
        assert not isinstance(node, ast.If) or "__main__" in ast.unparse(node.test)


def test_gradio_is_told_to_call_nobody_before_it_is_imported():
    names = re.findall(r"os\.environ\S*?[\[(]\"(\w+)\"", (ROOT / "ui" / "__init__.py").read_text())
    assert sorted(names) == ["GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"]
    code = "import os, sys\nimport ui\nprint(os.environ['GRADIO_ANALYTICS_ENABLED'], os.environ['HF_HUB_DISABLE_TELEMETRY'], 'gradio' in sys.modules)"
    env = {k: v for k, v in os.environ.items() if k not in names}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True).stdout == "False 1 False\n"


@pytest.mark.parametrize("path", ENGINE + PAGE, ids=name_of)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_readme_s_file_map_is_the_tree():
    """Folder by folder: loop.py and export.py are names of two files each."""
    named, folder = set(), None
    for indent, name in re.findall(r"^( {4}| {6})([\w.]+/?) ", (ROOT / "README.md").read_text(), re.M):
        if name.endswith("/"):
            folder = name
        elif name.endswith((".py", ".yaml")):
            named.add(folder + name if len(indent) == 6 else name)
    there = {str(p.relative_to(ROOT)) for folder in ("thinkswitch", "ui", "bench", "dev", "presets") for p in (ROOT / folder).glob("*.*") if p.suffix in (".py", ".yaml")}
    assert named == there | {"app.py"}


def test_no_path_of_a_machine_in_what_ships():
    for path in [*ROOT.glob("presets/**/*"), *ROOT.glob("*.md"), *ROOT.glob("dev/*")]:
        if path.is_file() and path.suffix not in (".safetensors", ".pyc"):
            assert not re.search(r"/(?:home|root|work|tmp|Users)/", path.read_text()), path
