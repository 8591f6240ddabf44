"""The components of Compare, and how they are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from ui.compare import recent_prompts, sampling_form, stages
from ui.compare.clicks import Click
from ui.compare.question import BEFORE_AND_AFTER, SLIDER, read_question
from ui.run_control import PAIR
from ui.studio import Studio
from ui.widgets import schedule_editor, theme
from ui.widgets.components import Answer, AnswerCard, Chart, FrameDots, MessageBox

CHART_DESCRIPTION = "Probability over t that the answer begins with a trace"
EMPTY = "Press Run, or move the slider."


@dataclass(frozen=True)
class View:
    """The components of the tab. `settings` are named as the fields of Question."""

    settings: dict[str, Any]  # components
    run: gr.Button
    stop: gr.Button
    render: gr.Button
    chips: gr.Dataset
    recent: gr.Dropdown
    dots: FrameDots  # its value are the frames of the rendered spectrum
    trace_chart: Component
    status: Component
    schedule_chip: gr.Button
    cards: dict[str, Component]  # {column: its card}, of both views
    follow_up: gr.Textbox
    ask: gr.Button
    new_conversation: gr.Button
    click: gr.Number  # its value is replaced by the number of the click
    asked: gr.JSON  # the last click that the server knows of: {page, click}

    @property
    def inputs(self) -> list[Component]:
        return [self.click, self.dots, self.follow_up, *self.settings.values()]

    def click_of(self, request: gr.Request, number: int, frames: int, follow_up: str, *values: Any) -> Click:
        question = read_question(dict(zip(self.settings, values, strict=True)))
        return Click(str(request.session_hash), number, frames, question, follow_up or "")

    def answer_to(self, click: Click) -> dict[Component, Any]:
        """What tells the browser that a click has arrived."""
        return {self.asked: {"page": click.session_hash, "click": click.number}}


def lay_out(studio: Studio, schedule: gr.State) -> View:
    examples = [problem.prompt for problem in studio.loader.examples]
    prompt, run, stop = prompt_row(examples)
    button: dict[str, Any] = {"size": "md", "scale": 1}
    with gr.Row(elem_classes="controls", elem_id="compare-choices"):
        with gr.Column(scale=4, min_width=240):
            chips = gr.Dataset(
                components=[prompt],
                samples=[[text] for text in examples],
                label="Held-out problems",
                elem_id="compare-examples",
                show_label=False,
                type="values",
            )
        with gr.Column(scale=0, min_width=284):  # columns of their own, or Gradio frames them as one form
            view = gr.Radio([SLIDER, BEFORE_AND_AFTER], value=SLIDER, label="View", elem_id="compare-view")
        with gr.Column(scale=0, min_width=190, elem_classes="slider-view"):
            round_ = round_choice(studio)
        render = gr.Button(
            "Render for scrubbing",
            elem_id="compare-spectrum",
            elem_classes="slider-view",
            min_width=196,
            **button,
        )
    with gr.Column(elem_classes="slider-view", elem_id="compare-axis"):
        t = slider()
        dots = FrameDots(elem_id="compare-dots")
        trace_chart = Chart(elem_id="compare-switch", description=CHART_DESCRIPTION, height=74)
    with gr.Row(elem_classes="controls"):
        status = MessageBox(elem_id="compare-status")
        schedule_chip = schedule_editor.chip("compare-schedule")
    cards = answer_columns()
    stage_settings, stage_cards = stages.lay_out(studio)
    follow_up, ask, new_conversation = follow_up_row()
    with gr.Accordion("Recent prompts, system prompt and sampling", open=False, elem_id="compare-sampling"):
        recent = recent_prompts.lay_out()
        sampling = sampling_form.build(studio.preset.greedy)
    settings = {
        "prompt": prompt,
        "t": t,
        "round": round_,
        "view": view,
        **stage_settings,
        **sampling,
        "schedule": schedule,
    }
    return View(
        settings=settings,
        run=run,
        stop=stop,
        render=render,
        chips=chips,
        recent=recent,
        dots=dots,
        trace_chart=trace_chart,
        status=status,
        schedule_chip=schedule_chip,
        cards={**cards, **stage_cards},
        follow_up=follow_up,
        ask=ask,
        new_conversation=new_conversation,
        click=gr.Number(0, precision=0, visible="hidden", elem_id="compare-click"),
        asked=gr.JSON({}, visible="hidden", elem_id="compare-asked"),
    )


def prompt_row(examples: list[str]) -> tuple[gr.Textbox, gr.Button, gr.Button]:
    """The prompt, and Run, which Stop covers while something is decoded."""
    with gr.Row(elem_classes="controls"):
        prompt = gr.Textbox(
            examples[0] if examples else "",
            label="Prompt",
            elem_id="compare-prompt",
            lines=1,
            max_lines=8,
            scale=6,
            min_width=300,
            placeholder="Ask anything the pair can answer",
            max_length=20_000,
        )
        with gr.Column(elem_id="compare-run-or-stop", scale=1, min_width=120):
            run = gr.Button("Run", variant="primary", elem_id="compare-run", size="md")
            stop = gr.Button("Stop", variant="stop", elem_id="compare-stop", interactive=False, size="md")
    return prompt, run, stop


def slider() -> gr.Slider:
    """As wide as the chart below it, whose x axis it is."""
    return gr.Slider(
        0,
        1,
        0.5,
        step=0.01,
        label="t: 0 = instruct (instinct) · 1 = thinking (deliberation)",
        elem_id="compare-t",
    )


def round_choice(studio: Studio) -> gr.Dropdown:
    return gr.Dropdown(
        studio.choices(),
        value=PAIR,
        label="Round",
        elem_id="compare-round",
        allow_custom_value=True,
        min_width=170,
    )


def answer_columns() -> dict[str, Component]:
    edges = {"instruct": theme.INSTRUCT, "blend": theme.blend_colour(0.5), "thinking": theme.THINKING}
    cards: dict[str, Component] = {}
    with gr.Row(equal_height=True, elem_classes="slider-view"):
        for name, edge in edges.items():
            with gr.Column(min_width=270):  # below each other on a phone
                first = Answer(title=name, empty=EMPTY, edge=edge)
                cards[name] = AnswerCard(first, elem_id=f"compare-{name}")
    return cards


def follow_up_row() -> tuple[gr.Textbox, gr.Button, gr.Button]:
    with gr.Row(elem_classes="controls"):
        follow_up = gr.Textbox(
            label="Follow-up question",
            placeholder="Each column goes on from its own answer",
            elem_id="compare-follow-up",
            lines=1,
            max_lines=4,
            scale=6,
            min_width=300,
            max_length=20_000,
        )
        ask = gr.Button("Ask", elem_id="compare-ask", size="md", scale=1, min_width=100)
        new = gr.Button(
            "New conversation", elem_id="compare-new-conversation", size="md", scale=1, min_width=160
        )
    return follow_up, ask, new
