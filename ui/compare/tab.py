"""Compare: the slider. Instruct, blend and thinking answer one prompt side by side, as rows of one batch.

A second view shows what training does: instruct before and after, and thinking after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components import Component  # at run time: Gradio reads the types of handlers

from thinkswitch.errors import UserError
from ui.compare import recent_prompts, screen_stream, stages
from ui.compare.clicks import Click, Handlers
from ui.compare.question import STAGES
from ui.compare.view import View, lay_out
from ui.run_control import PAIR
from ui.studio import Studio
from ui.widgets.assets import asset
from ui.widgets.events import on, on_choice

NO_FRAMES = "() => { window.show('compare-dots', { frames: [] }); return []; }"


def build(studio: Studio, schedule: gr.State) -> dict[str, Any]:
    """The tab; returns what a reload brings back, and what Export takes over."""
    view = lay_out(studio, schedule)
    connect(studio, view)
    settings = view.settings
    kept = [component for name, component in settings.items() if name != "schedule"]

    def opened(after: Callable) -> None:
        connect_opening(studio, view, after)

    def selected(after: Callable) -> None:
        """A sweep may have been made meanwhile: its accuracy lies behind the curve."""
        listen(after, Handlers(studio).curve, view)

    def changed(after: Callable) -> None:
        """Another tab has set round, t or schedule."""
        listen(after, Handlers(studio).setting_changed, view)

    return {
        "kept": kept,
        "opened": opened,
        "selected": selected,
        "changed": changed,
        "chips": view.chips,
        "schedule_chip": view.schedule_chip,
        "prompt": settings["prompt"],
        "t": settings["t"],
        "round": settings["round"],
        "stage_rounds": [settings[f"{stage}_round"] for stage in STAGES],
    }


def connect(studio: Studio, view: View) -> None:
    handlers = Handlers(studio)
    settings = view.settings
    listen(view.run.click, handlers.all_columns, view)
    listen(settings["prompt"].submit, handlers.all_columns, view)
    listen(settings["system"].submit, handlers.all_columns, view)
    chosen = on(view.chips.click, lambda sample: sample[0], view.chips, settings["prompt"])
    listen(chosen.then, handlers.example, view)
    for name in ("round", "template", "how"):
        listen(settings[name].input, handlers.setting_changed, view)
    on_choice(settings["round"].input, known_round(studio), settings["round"], settings["round"])
    settings["schedule"].change(None, None, None, js=NO_FRAMES)
    listen(settings["schedule"].change, handlers.schedule_changed, view)
    # frames of another prompt would mislead
    settings["prompt"].input(None, None, None, js=NO_FRAMES)
    settings["t"].input(None, [settings["t"], view.dots], None, js=asset("scrub.js"))
    listen(settings["t"].release, handlers.slider_released, view)
    listen(view.render.click, handlers.spectrum, view)
    listen(view.stop.click, handlers.stop, view)
    connect_view(studio, view, handlers)
    connect_conversation(studio, view, handlers)
    connect_recent(view, handlers)
    screen_stream.follow(studio, view.asked)


def connect_view(studio: Studio, view: View, handlers: Handlers) -> None:
    """The second view: what it compares, and switching to it."""
    settings = view.settings
    stages.show_chosen_view(settings["view"])
    ready = stages.choose_rounds(studio, settings)
    listen(ready.then, handlers.setting_changed, view)
    for stage in STAGES:
        listen(settings[f"{stage}_round"].input, handlers.setting_changed, view)
        listen(settings[f"{stage}_t"].release, handlers.setting_changed, view)


def connect_conversation(studio: Studio, view: View, handlers: Handlers) -> None:
    """A follow-up becomes the prompt; a new conversation empties it."""
    prompt = view.settings["prompt"]

    def follow_up(request: gr.Request, *values: Any) -> dict[Component, Any]:
        click = view.click_of(request, *values)
        question = handlers.follow_up(click)
        updates = view.answer_to(click)
        if question is not None:
            updates |= {prompt: question.prompt, view.follow_up: ""}
        return updates

    def new_conversation(request: gr.Request, *values: Any) -> dict[Component, Any]:
        click = view.click_of(request, *values)
        handlers.new_conversation(click)
        return {**view.answer_to(click), prompt: "", view.follow_up: ""}

    outputs = [view.asked, prompt, view.follow_up]
    for event in (view.follow_up.submit, view.ask.click):
        numbered(event, follow_up, view, outputs)
    numbered(view.new_conversation.click, new_conversation, view, outputs)


def connect_recent(view: View, handlers: Handlers) -> None:
    """Remember each prompt with its settings in the browser, and bring one back."""
    settings = {name: part for name, part in view.settings.items() if name != "schedule"}
    for event in (view.run.click, settings["prompt"].submit, view.render.click):
        recent_prompts.remember(event, settings, view.recent)
    recalled = recent_prompts.recall(view.recent, settings)
    listen(recalled.then, handlers.example, view)


def known_round(studio: Studio) -> Callable[[str], Any]:
    """A round that does not exist is said to be unknown, and does not stay in the box."""

    def known(choice: str) -> Any:
        try:
            studio.run_of(choice)
        except UserError:
            return PAIR
        return gr.skip()

    return known


def connect_opening(studio: Studio, view: View, after: Callable) -> None:
    """The page opens with answers, where they cost nothing."""
    recent_prompts.show(after, view.recent)
    listen(after, Handlers(studio).greet, view)


def numbered(event: Callable, fn: Callable, view: View, outputs: Any) -> Any:
    """Listen to every click, each with its number: the browser knows their order, the server does not."""
    js = asset("number_click.js")
    return on(event, fn, view.inputs, outputs, js=js, trigger_mode="multiple", queue=False)


def listen(event: Callable, handler: Callable[[Click], None], view: View) -> Any:
    """`handler` starts what a click asks for; it is answered on the screen of the session."""

    def start(request: gr.Request, *values: Any) -> dict[Component, Any]:
        click = view.click_of(request, *values)
        handler(click)
        return view.answer_to(click)

    return numbered(event, start, view, view.asked)
