"""Short pieces of HTML. Whatever is put into them is escaped, unless it is `Markup` already."""

from collections.abc import Iterable

import gradio as gr
from markupsafe import Markup, escape

from thinkswitch.errors import UserError


def quiet(text: str) -> Markup:
    """Secondary text."""
    return Markup('<span class="quiet">{}</span>').format(text)


def no_run(text: str) -> Markup:
    """What stands in the place of a run where there is none; loop.css hides the empty charts then."""
    return Markup('<span class="quiet no-run">{}</span>').format(text)


def detail(text: str) -> Markup:
    """What a phone has no room for."""
    return Markup('<span class="detail">{}</span>').format(text) if text else Markup()


def error(text: str) -> Markup:
    return Markup('<span class="error">{}</span>').format(text)


def bold(text: str) -> Markup:
    return Markup("<b>{}</b>").format(text)


def progress_bar(done: float, total: float) -> Markup:
    percent = 100 * min(1, done / total) if total else 0
    return Markup('<div class="progress-bar" role="progressbar"><i style="width:{:.1f}%"></i></div>').format(
        percent
    )


def table(rows: Iterable[Iterable[str]]) -> Markup:
    """Rows of cells."""
    return Markup("<table>{}</table>").format(
        _join("<tr>{}</tr>", (_join("<td>{}</td>", row) for row in rows))
    )


def facts(rows: Iterable[tuple[str, str]]) -> Markup:
    """A table of (heading, text)."""
    lines = [Markup("<tr><th>{}</th><td>{}</td></tr>").format(heading, text) for heading, text in rows]
    return Markup("<table>{}</table>").format(Markup().join(lines))


def _join(tag: str, contents: Iterable[str]) -> Markup:
    return Markup().join(Markup(tag).format(content) for content in contents)


def toast(failure: UserError) -> Markup:
    """Show the sentence of an error as a toast; returns it for a message box, where it stays."""
    gr.Warning(str(escape(str(failure))))
    return error(str(failure))
