"""Documents tell the truth where a test can know it: links, settings, presets, the file tables."""

import importlib.util
import re

import pytest

from conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


def test_settings_are_those_of_the_preset():
    spec = importlib.util.spec_from_file_location("settings_table", ROOT / "dev" / "settings_table.py")
    settings_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(settings_table)
    written = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert written == settings_table.table(), "run: python dev/settings_table.py"


def test_every_preset_that_ships_is_described():
    text = (ROOT / "docs" / "pairs.md").read_text("utf-8")
    for path in ROOT.glob("presets/*.yaml"):
        assert f"`{path.stem}`" in text


def test_the_architecture_names_every_file_of_the_method_and_every_folder():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    files = {path.name for path in ROOT.glob("thinkswitch/*.py")} - {"__init__.py", "__main__.py"}
    folders = {path.parent.name for path in ROOT.glob("thinkswitch/*/__init__.py")}
    assert {name for name in files if f"`{name}`" not in text} == set()
    assert {name for name in folders if f"`thinkswitch/{name}/`" not in text} == set()
