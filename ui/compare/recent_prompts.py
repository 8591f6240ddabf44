"""The last prompts with their settings, kept in the visitor's browser alone."""

import json
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.events import Dependency

from ui.widgets.events import on


def lay_out() -> gr.Dropdown:
    return gr.Dropdown(
        [],
        value=None,
        label="Recent prompts",
        info="The last 20, with their settings. Kept in this browser only.",
        elem_id="compare-recent",
        interactive=True,
    )


def remember(event: Callable[..., Dependency], settings: dict[str, Any], recent: gr.Dropdown) -> None:
    """Keep prompt and settings as they are at `event`."""
    on(event, None, list(settings.values()), recent, js=_script("remember", settings))


def show(event: Callable[..., Dependency], recent: gr.Dropdown) -> None:
    """Offer what the browser has kept."""
    on(event, None, None, recent, js=_script("show", {}))


def recall(recent: gr.Dropdown, settings: dict[str, Any]) -> Dependency:
    """Bring back the chosen prompt and its settings. Returns the event, so that others can follow it."""
    outputs = [recent, *settings.values()]
    return on(recent.input, None, [recent, *settings.values()], outputs, js=_script("recall", settings))


def _script(verb: str, settings: dict[str, Any]) -> str:
    names = json.dumps(list(settings))
    return f"(...values) => window.recentPrompts.{verb}({names}, values)"
