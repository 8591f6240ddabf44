"""The second view of Compare: instruct before and after training, and thinking after, side by side."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from ui.compare.question import BEFORE_AND_AFTER, STAGES
from ui.run_control import PAIR
from ui.studio import Studio
from ui.widgets import theme
from ui.widgets.components import Answer, AnswerCard
from ui.widgets.events import on

FIRST_T = {"before": 0, "after": 0, "after_thinking": 1}
EMPTY = "Press Run."
SHOW_VIEW = "view => { document.body.dataset.compareView = view; }"


def lay_out(studio: Studio) -> tuple[dict[str, Any], dict[str, Component]]:
    """Round and t of each column as settings, and its card."""
    rounds = studio.choices()
    settings: dict[str, Any] = {}
    cards: dict[str, Component] = {}
    with gr.Row(equal_height=True, elem_classes="stages-view"):
        for stage in STAGES:
            first_t = FIRST_T[stage]
            elem_id = f"compare-{stage.replace('_', '-')}"
            with gr.Column(min_width=270):
                with gr.Row(elem_classes="controls"):
                    settings[f"{stage}_round"] = gr.Dropdown(
                        rounds,
                        value=PAIR,
                        label="Round",
                        elem_id=f"{elem_id}-round",
                        allow_custom_value=True,
                        min_width=150,
                    )
                    settings[f"{stage}_t"] = gr.Slider(
                        0, 1, first_t, step=0.01, label="t", elem_id=f"{elem_id}-t", min_width=110
                    )
                title = "thinking" if first_t else "instruct"
                first = Answer(title=title, empty=EMPTY, edge=theme.blend_colour(first_t))
                cards[stage] = AnswerCard(first, elem_id=elem_id)
    return settings, cards


def show_chosen_view(view: gr.Radio) -> None:
    """In the browser: what belongs to the other view is hidden by compare.css."""
    on(view.change, None, view, None, js=SHOW_VIEW)


def choose_rounds(studio: Studio, settings: dict[str, Any]) -> Dependency:
    """When the view is chosen for the first time, the columns after training show the newest round.

    Returns the event, so that others can follow it.
    """
    after = [settings["after_round"], settings["after_thinking_round"]]

    def choose(view: str, of_slider: str, *chosen: str) -> list[Any]:
        if view != BEFORE_AND_AFTER or any(round_ != PAIR for round_ in chosen):
            return [gr.skip()] * len(after)
        newest = next((choice for choice in studio.choices() if choice != PAIR), PAIR)
        wanted = newest if of_slider == PAIR else of_slider
        return [wanted] * len(after)

    return on(settings["view"].input, choose, [settings["view"], settings["round"], *after], after)
