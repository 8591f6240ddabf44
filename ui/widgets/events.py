"""Listen to an event the way this page does."""

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.events import Dependency

QUIETLY: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": None,
}


def on(
    event: Callable[..., Dependency], fn: Callable | None, inputs=None, outputs=None, **options: Any
) -> Dependency:
    """`event(fn, inputs, outputs)`: no progress overlay, no API page, any number of calls at a time."""
    return event(fn, inputs, outputs, **{**QUIETLY, **options})


def on_choice(
    event: Callable[..., Dependency], fn: Callable | None, inputs=None, outputs=None, **options: Any
) -> Dependency:
    """`on`, where the last choice must win: Gradio drops an event while an earlier one of it is pending.

    Not for handlers that take gr.SelectData: an event that Gradio repeats later carries none.
    """
    return on(event, fn, inputs, outputs, trigger_mode="always_last", **options)


def follow_news(
    part: str, fn: Callable, inputs=None, outputs=None, *choices: Callable, mode: Any = "always_last"
) -> None:
    """Call `fn` when there is news of this part of the page: pulse.js presses the button then.

    The `choices` that call it, too, are events of the same listener: two of its own could answer in either
    order, and the news of what was chosen before would stand.
    """
    button = gr.Button("", visible="hidden", elem_id=f"pulse-{part}")
    events = [button.click, *choices]
    gr.on(events, fn, inputs, outputs, trigger_mode=mode, **QUIETLY)


def draw_after(event: Callable[..., Dependency], part: str) -> None:
    """Fetch the news of this part once more after an event that has written over some of it."""
    on(event, None, js=f"() => document.querySelector('#pulse-{part}').click()")
