"""What is imported when: the page opens before torch is there, and nothing calls home."""

import os

from conftest import python

NO_TORCH = (
    "thinkswitch.errors",
    "thinkswitch.text",
    "thinkswitch.preset",
    "thinkswitch.recipe",
    "thinkswitch.problems",
    "thinkswitch.grading",
    "thinkswitch.claims",
    "thinkswitch.numerals",
    "thinkswitch.options",
    "thinkswitch.answer_pattern",
    "thinkswitch.think_parser",
    "thinkswitch.think_tags",
    "thinkswitch.statistics",
    "thinkswitch.runs",
    "thinkswitch.cli.main",
    "thinkswitch.cli.terminal",
)


def printed(code: str, cwd) -> str:
    """What a fresh Python prints, in an environment in which nobody has switched anything off."""
    switches = ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY")
    env = {name: value for name, value in os.environ.items() if name not in switches}
    return python("-c", code, cwd=cwd, env=env).stdout.strip()


def test_the_page_is_built_before_torch_is_imported(tmp_path):
    """Importing torch takes seconds, in which the page should already be there."""
    code = """
import sys, app
from thinkswitch.preset import load_preset
from ui.studio import Studio
page = app.build(Studio(load_preset("tiny"), "tiny"))
print(sorted({"torch", "transformers", "peft"} & sys.modules.keys()), len(page.blocks) > 100)
"""
    assert printed(code, tmp_path) == "[] True"
    assert not list(tmp_path.iterdir())  # building the page makes no folders


def test_what_needs_no_torch_imports_none(tmp_path):
    code = (
        f"import sys, {', '.join(NO_TORCH)}\n"
        + "print({'torch', 'transformers', 'gradio'} & sys.modules.keys())"
    )
    assert printed(code, tmp_path) == "set()"


def test_analytics_and_telemetry_are_off_before_gradio_reads_its_environment(tmp_path):
    code = """
import os, sys, ui
print(os.environ["GRADIO_ANALYTICS_ENABLED"], os.environ["HF_HUB_DISABLE_TELEMETRY"], "gradio" in sys.modules)
"""
    assert printed(code, tmp_path) == "False 1 False"


def test_the_page_itself_switches_telemetry_off(tmp_path):
    """app.py imported Gradio first, and that the Hub's library, which reads its environment only once."""
    code = "import app; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    assert printed(code, tmp_path) == "True"
