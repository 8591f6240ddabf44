"""Listen to an event the way this page does."""

from collections.abc import Callable
from typing import Any

from gradio.events import Dependency


def on(
    event: Callable[..., Dependency], fn: Callable | None, inputs=None, outputs=None, **options: Any
) -> Dependency:
    """`event(fn, inputs, outputs)`: no progress overlay, no API page, any number of calls at a time."""
    settings = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None, **options}
    return event(fn, inputs, outputs, **settings)
