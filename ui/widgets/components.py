"""The page's own components: `gr.HTML` with templates from ui/assets.

Their templates are constant. Gradio evaluates `{{...}}` and `${...}` in a template, so text from outside
reaches the browser in `value` only, and the JavaScript there decides how it is shown.
"""

from abc import ABCMeta
from typing import Any, TypedDict

import gradio as gr
from gradio.component_meta import ComponentMeta, updateable
from markupsafe import Markup, escape

from ui.widgets.assets import asset


def script(*names: str) -> str:
    """Assets put together: they share their names."""
    return "\n\n".join(map(asset, names))


class _WithoutStub(ComponentMeta):
    """Gradio's metaclass writes a .pyi file beside every new component's source; this one does not."""

    def __new__(cls, name, bases, namespace):
        if "__init__" in namespace:
            namespace["__init__"] = updateable(namespace["__init__"])
        return ABCMeta.__new__(cls, name, bases, namespace)


class MessageBox(gr.HTML, metaclass=_WithoutStub):
    """Short HTML, announced to screen readers. Plain text is escaped: only `Markup` is taken as HTML."""

    def __init__(self, value: str = "", **kwargs: Any):
        super().__init__(
            value,
            html_template=asset("message.html"),
            js_on_load=script("message.js", "shown.js"),
            apply_default_css=False,
            **{"elem_classes": ["message-box"], **kwargs},
        )

    def postprocess(self, value: str | None) -> str:
        return str(escape(value or ""))


class LogBox(gr.HTML, metaclass=_WithoutStub):
    """Plain text in a fixed-width font, scrolled to its end."""

    def __init__(self, value: str = "", **kwargs: Any):
        super().__init__(
            value,
            html_template=asset("log.html"),
            js_on_load=asset("log.js"),
            apply_default_css=False,
            **kwargs,
        )


class Chart(gr.HTML, metaclass=_WithoutStub):
    """A Plotly figure as JSON (see charts.py); an empty value shows `hint`.

    A click on a point that has `customdata` is a `select` with it as its value.
    `description` is read to those who cannot see the chart. `height` is in pixels.
    """

    def __init__(self, value: str = "", *, description: str, height: int, hint: str = "", **kwargs: Any):
        # not as props of the template, which Gradio 6.31 erases when an event leaves the component as it is
        template = Markup(asset("chart.html")).format(
            description=description, hint=hint or description, height=height
        )
        super().__init__(
            value,
            html_template=str(template),
            js_on_load=script("chart.js", "chart_tools.js", "shown.js"),
            apply_default_css=False,
            **kwargs,
        )


class EarlierTurn(TypedDict):
    """A question and its answer, earlier in a conversation."""

    prompt: str
    answer: str
    html: str


class Answer(TypedDict, total=False):
    """What an AnswerCard shows. `thinking`: the trace is still being written. `edge`: a CSS colour."""

    title: str
    edge: str
    turns: list[EarlierTurn]
    trace: str
    trace_title: str
    thinking: bool
    answer: str
    html: str  # the answer rendered, see rich_text.py; absent: shown as text
    empty: str  # shown while there is no answer
    mark: str  # ✓, ✗ or nothing
    foot: str
    tokens: int  # drawn as a bar, on one scale with the other cards
    trace_tokens: int  # of these


class AnswerCard(gr.HTML, metaclass=_WithoutStub):
    """One answer beside others, its trace folded. Text of a model is inserted as text, or cleaned HTML."""

    def __init__(self, value: Answer | None = None, **kwargs: Any):
        super().__init__(
            value,
            html_template=asset("answer_card.html"),
            css_template=asset("answer_card.css"),
            js_on_load=script("answer_card.js", "shown.js"),
            apply_default_css=False,
            **kwargs,
        )


class PresetList(gr.HTML, metaclass=_WithoutStub):
    """Presets in a table, of which one is chosen. A click puts its name into `chosen` and is an `input`."""

    def __init__(self, value: dict | None = None, **kwargs: Any):
        super().__init__(
            value,
            html_template=asset("preset_list.html"),
            js_on_load=asset("preset_list.js"),
            apply_default_css=False,
            **kwargs,
        )


class FrameDots(gr.HTML, metaclass=_WithoutStub):
    """The answers of a rendered spectrum as dots on the slider's axis, and a button that plays them."""

    def __init__(self, **kwargs: Any):
        super().__init__(
            {"frames": []},
            html_template=asset("frame_dots.html"),
            css_template=asset("frame_dots.css"),
            js_on_load=script("frame_dots.js", "shown.js"),
            apply_default_css=False,
            **kwargs,
        )


class FormatCards(gr.HTML, metaclass=_WithoutStub):
    """Formats of an export, each with its size or the reason why it is not to be had; see export_report.py.

    A click chooses in the Radio with the id `export-format`, which is hidden.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(
            {"cards": []},
            html_template=asset("format_cards.html"),
            css_template=asset("format_cards.css"),
            js_on_load=asset("format_cards.js"),
            apply_default_css=False,
            **kwargs,
        )


class FormTools(gr.HTML, metaclass=_WithoutStub):
    """A search box over the settings of a form, and marks on those that were changed. See form.py."""

    def __init__(self, value: dict | None = None, **kwargs: Any):
        super().__init__(
            value or {"settings": [], "groups": []},
            html_template=asset("form_tools.html"),
            js_on_load=asset("form_tools.js"),
            apply_default_css=False,
            **kwargs,
        )
