"""What the page is made of: assets, components, short pieces of HTML, the theme."""

import inspect
import re
import shutil
import subprocess
import tomllib

import gradio as gr
import pytest
from markupsafe import Markup

from conftest import ROOT
from thinkswitch.errors import UserError
from ui.widgets import components, html, theme
from ui.widgets.assets import ASSETS, asset
from ui.widgets.components import AnswerCard, Chart, FormatCards, LogBox, MessageBox

NODE = shutil.which("node")
FILES = sorted(ASSETS.iterdir())
TEMPLATES = [path for path in FILES if path.name in ("message.html", "log.html", "chart.html")] + sorted(
    [*ASSETS.glob("answer_card.[hc]*"), *ASSETS.glob("format_cards.[hc]*")]
)
HOSTILE = '<img src=x onerror="x()"> & co'


def made() -> list[gr.HTML]:
    return [
        MessageBox("x", elem_id="message"),
        LogBox(elem_id="log"),
        Chart(elem_id="chart", description="x", height=100),
        AnswerCard({"title": "x"}, elem_id="answer"),
        FormatCards(elem_id="formats"),
    ]


# ---- assets


def test_assets_are_packaged():
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    assert packaged["ui"] == ["assets/*"]
    assert {path.suffix for path in FILES} == {".css", ".js", ".html", ".svg"}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_gradio_finds_nothing_to_evaluate_in_a_template(path):
    """It reads `{{...}}` as Handlebars and `${...}` as JavaScript, in templates of HTML and of CSS."""
    assert len(TEMPLATES) == 7
    assert not re.search(r"\{\{|\$\{|`|\\", path.read_text("utf-8"))


@pytest.mark.skipif(NODE is None, reason="node is not installed, so JavaScript is not checked")
@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.js")), ids=lambda path: path.name)
def test_javascript_is_valid(path):
    done = subprocess.run([NODE, "--check", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_javascript_of_an_event_is_an_expression():
    """Gradio calls `(...)(arguments)` on its text: no semicolon may end it."""
    scripts = [asset(path.name) for path in ASSETS.glob("*.js")]
    functions = [script for script in scripts if re.search(r"^\([\w, .]*\) => \{$", script, re.MULTILINE)]
    assert asset("scrub.js") in functions
    assert all(script.endswith("}") for script in functions)


# ---- components


@pytest.mark.parametrize("component", made(), ids=lambda component: type(component).__name__)
def test_no_name_that_gradio_looks_up_is_quoted_in_javascript(component):
    """gr.HTML takes any attribute that its JavaScript names in quotes for an event, even in its config."""
    looked_up = {
        *inspect.signature(type(component).__init__).parameters,
        *("_selectable", "_undoable", "_retryable", "likeable", "proxy_url"),
    }
    quoted = set(re.findall(r"""['"`]([\w-]+)['"`]""", component.js_on_load))
    assert not quoted & looked_up - {"value"}
    assert not [value for value in component.get_config().values() if callable(value)]


def test_an_update_that_changes_one_property_keeps_the_others():
    """Gradio builds a component anew from its arguments for every update."""
    for component in made():
        again = type(component)(**{**component.constructor_args, "visible": False, "render": False})
        assert again.html_template == component.html_template


def test_nothing_is_kept_in_props():
    """Gradio 6.31 erases a template's props when an event skips the component: charts said "undefined"."""
    assert not any(component.props for component in made())
    chart = Chart(elem_id="chart", description='"a" <b>', height=100, hint="c")
    assert 'aria-label="&#34;a&#34; &lt;b&gt;" data-hint="c" style="height: 100px"' in chart.html_template


def test_components_write_no_stub_beside_their_source():
    """Gradio's metaclass would write components.pyi into the source tree at import."""
    assert not list(ASSETS.parent.rglob("*.pyi"))
    assert all("html_template" in component.get_config() for component in made())
    assert components.__file__.endswith(".py")


def test_a_message_is_text_unless_it_is_markup():
    box = MessageBox(elem_id="message")
    assert box.postprocess(HOSTILE) == "&lt;img src=x onerror=&#34;x()&#34;&gt; &amp; co"
    assert box.postprocess(Markup("<b>{}</b>").format("<")) == "<b>&lt;</b>"
    assert box.postprocess(None) == ""


# ---- HTML


@pytest.mark.parametrize("make", [html.quiet, html.error, html.bold])
def test_what_is_not_ours_is_escaped(make):
    made = make(HOSTILE)
    assert "<img" not in made
    assert "&lt;img" in made
    assert make(make("x")).count("<") == 4  # but markup goes in as it is


def test_tables_escape_their_cells():
    table = html.table([["<i>", html.bold("<b>")]])
    assert table == "<table><tr><td>&lt;i&gt;</td><td><b>&lt;b&gt;</b></td></tr></table>"
    assert html.facts([("<i>", "<b>")]) == "<table><tr><th>&lt;i&gt;</th><td>&lt;b&gt;</td></tr></table>"


@pytest.mark.parametrize(
    "done, total, width", [(0, 0, "0.0"), (0, 4, "0.0"), (1, 3, "33.3"), (9, 4, "100.0")]
)
def test_a_progress_bar_stays_within_its_frame(done, total, width):
    assert f"width:{width}%" in html.progress_bar(done, total)


def test_a_toast_stays_text_and_returns_its_message(monkeypatch):
    shown = []
    monkeypatch.setattr(gr, "Warning", shown.append)
    assert html.toast(UserError(HOSTILE)) == html.error(HOSTILE)
    assert shown == ["&lt;img src=x onerror=&#34;x()&#34;&gt; &amp; co"]
    assert type(shown[0]) is str


# ---- the theme


def test_the_colours_of_the_two_checkpoints_are_variables_of_the_page():
    assert theme.INSTRUCT != theme.THINKING
    assert f"--instruct: {theme.INSTRUCT}" in theme.css()
    assert f"--thinking: {theme.THINKING}" in theme.css()
    styled = [path for path in FILES if path.suffix != ".svg"]  # shown outside of the page
    assert theme.INSTRUCT not in "".join(path.read_text("utf-8") for path in styled)
    icon = (ASSETS / "favicon.svg").read_text("utf-8")
    assert theme.INSTRUCT in icon and theme.THINKING in icon


def test_a_blends_colour_is_as_far_between_the_two_as_t():
    assert theme.blend_colour(0) == f"color-mix(in oklab, {theme.INSTRUCT} 100%, {theme.THINKING})"
    assert theme.blend_colour(1) == f"color-mix(in oklab, {theme.INSTRUCT} 0%, {theme.THINKING})"
    shares = [theme.blend_colour(t).split("%")[0].split()[-1] for t in (0.25, 0.5, 0.8)]
    assert shares == ["75", "50", "20"]
