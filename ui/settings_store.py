"""What a visitor has set survives a reload: it stays in the visitor's browser.

Only what differs from the page's first values is stored, under a hash of the preset. So a preset that was
edited since is shown as it is now, and not as some browser remembers it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import gradio as gr

from thinkswitch.preset import Preset, to_yaml
from ui.widgets.assets import asset

if TYPE_CHECKING:
    from gradio.components import Component


def storage_key(preset: Preset) -> str:
    return "thinkswitch-" + hashlib.sha256(to_yaml(preset).encode()).hexdigest()[:16]


def browser_state(preset: Preset) -> gr.BrowserState:
    return gr.BrowserState(None, storage_key=storage_key(preset), secret="thinkswitch")


def by_elem_id(components: list[Component]) -> dict[str, Component]:
    named = {component.elem_id: component for component in components}
    if None in named or len(named) < len(components):
        raise ValueError("a component whose value is stored needs an elem_id of its own")
    return {str(name): component for name, component in named.items()}


def keep(stored: gr.BrowserState, components: list[Any]) -> None:
    """Store what differs from the first values whenever a component changes."""
    first = {name: component.value for name, component in by_elem_id(components).items()}
    js = asset("store_changed.js").replace("FIRST", json.dumps(first))
    changes = [component.change for component in components]
    gr.on(changes, None, components, stored, js=js, api_visibility="private")


def restored(stored: Any, components: list[Component]) -> dict[Component, Any]:
    """The components that are to change. The text comes from outside; what is unknown is ignored."""
    changed = stored.get("changed") if isinstance(stored, dict) else None
    if not isinstance(changed, dict):
        return {}
    named = by_elem_id(components)
    return {named[name]: value for name, value in changed.items() if name in named}
