"""Listen to an event the way this page does."""

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.events import Dependency


def on(
    event: Callable[..., Dependency], fn: Callable | None, inputs=None, outputs=None, **options: Any
) -> Dependency:
    """`event(fn, inputs, outputs)`: no progress overlay, no API page, any number of calls at a time."""
    settings = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None, **options}
    return event(fn, inputs, outputs, **settings)


def on_choice(
    event: Callable[..., Dependency], fn: Callable | None, inputs=None, outputs=None, **options: Any
) -> Dependency:
    """`on`, where the last choice must win: Gradio drops an event while an earlier one of it is pending.

    Not for handlers that take gr.SelectData: an event that Gradio repeats later carries none.
    """
    return on(event, fn, inputs, outputs, trigger_mode="always_last", **options)


def follow_news(part: str, fn: Callable, inputs=None, outputs=None, mode: Any = "always_last") -> None:
    """Call `fn` when there is news of this part of the page: pulse.js presses the button then."""
    button = gr.Button("", visible="hidden", elem_id=f"pulse-{part}")
    on(button.click, fn, inputs, outputs, trigger_mode=mode)
