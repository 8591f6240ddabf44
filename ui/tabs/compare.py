"""Compare: the slider. Instruct, blend and thinking answer one prompt side by side, as rows of one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component  # at run time: Gradio reads the types of handlers
from markupsafe import Markup, escape

from thinkswitch.errors import UserError
from ui.answering import COLUMNS, EndColumns, answer, answer_when_loaded
from ui.question import RENDERED_POINTS, Question, read_question, trace_chart
from ui.run_control import PAIR
from ui.sessions import Screen, Session
from ui.studio import Studio
from ui.widgets import html, sampling_form, schedule_editor, theme
from ui.widgets.assets import asset
from ui.widgets.components import Answer, AnswerCard, Chart, FrameDots, MessageBox
from ui.widgets.events import on, on_choice

SHORT = 256  # answers of at most so many tokens are decoded without being asked for
CHART_DESCRIPTION = "Probability, for this prompt, of opening a trace over t"
EMPTY = "Press Run, or move the slider."
NO_FRAMES = "() => [[], {frames: []}]"  # neither kept nor shown


@dataclass(frozen=True)
class View:
    """The components of the tab. `settings` are named as the fields of Question."""

    settings: dict[str, Any]  # components
    run: gr.Button
    stop: gr.Button
    render: gr.Button
    chips: gr.Dataset
    dots: Component
    trace_chart: Component
    status: Component
    schedule_chip: gr.Button
    instruct: Component
    blend: Component
    thinking: Component
    frames: gr.JSON  # the frames of the rendered spectrum
    click: gr.Number  # its value is replaced by the number of the click
    asked: gr.Number  # the last click that the server knows of

    @property
    def inputs(self) -> list[Component]:
        return [self.click, self.frames, *self.settings.values()]

    @property
    def outputs(self) -> list[Component]:
        return [self.instruct, self.blend, self.thinking, self.status, self.frames, self.stop]

    def question(self, values: tuple) -> Question:
        return read_question(dict(zip(self.settings, values, strict=True)))

    def values(self, screen: Screen) -> dict[Component, Any]:
        """As Gradio takes them: a component that is left out stays as it is."""
        values = {getattr(self, part): value for part, value in screen.parts.items()}
        return values | {self.stop: gr.update(interactive=screen.stoppable)}


def build(studio: Studio, schedule: gr.State) -> dict[str, Any]:
    """The tab; returns what a reload brings back, and what Export takes over."""
    view = lay_out(studio, schedule)
    connect(studio, view)
    settings = view.settings
    kept = [component for name, component in settings.items() if name != "schedule"]

    def opened(after: Callable) -> None:
        connect_opening(studio, view, after)

    def changed(after: Callable) -> None:
        connect_changes(studio, view, after)

    return {
        "kept": kept,
        "opened": opened,
        "changed": changed,
        "chips": view.chips,
        "schedule_chip": view.schedule_chip,
        "prompt": settings["prompt"],
        "t": settings["t"],
        "round": settings["round"],
    }


def lay_out(studio: Studio, schedule: gr.State) -> View:
    examples = [problem.prompt for problem in studio.loader.examples]
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
        button: dict[str, Any] = {"size": "md", "scale": 1}
        run = gr.Button("Run", variant="primary", elem_id="compare-run", min_width=100, **button)
        stop = gr.Button("Stop", elem_id="compare-stop", interactive=False, min_width=100, **button)
    with gr.Row(elem_classes="controls"):
        with gr.Column(scale=6, min_width=300):
            chips = gr.Dataset(
                components=[prompt],
                samples=[[text] for text in examples],
                label="Held-out problems",
                elem_id="compare-examples",
                show_label=False,
                type="values",
            )
        round_ = round_choice(studio)
        render = gr.Button("Render 11 points", elem_id="compare-spectrum", min_width=180, **button)
    t = slider()
    dots = FrameDots(elem_id="compare-dots")
    trace_chart = Chart(elem_id="compare-switch", description=CHART_DESCRIPTION, height=74)
    with gr.Row(elem_classes="controls"):
        status = MessageBox(elem_id="compare-status")
        schedule_chip = schedule_editor.chip("compare-schedule")
    cards = answer_columns()
    settings = {
        "prompt": prompt,
        "t": t,
        "round": round_,
        **sampling_form.build(studio.preset.greedy),
        "schedule": schedule,
    }
    return View(
        settings=settings,
        run=run,
        stop=stop,
        render=render,
        chips=chips,
        dots=dots,
        trace_chart=trace_chart,
        status=status,
        schedule_chip=schedule_chip,
        **cards,
        frames=gr.JSON([], visible="hidden", elem_id="compare-film"),
        click=gr.Number(0, precision=0, visible="hidden", elem_id="compare-click"),
        asked=gr.Number(0, precision=0, visible="hidden", elem_id="compare-asked"),
    )


def slider() -> gr.Slider:
    """As wide as the chart below it, whose x axis it is."""
    return gr.Slider(
        0,
        1,
        0.5,
        step=0.01,
        label="t: 0 = instruct, instinct · 1 = thinking, deliberation",
        elem_id="compare-t",
    )


def round_choice(studio: Studio) -> gr.Dropdown:
    return gr.Dropdown(
        studio.choices(),
        value=PAIR,
        label="Round",
        elem_id="compare-round",
        allow_custom_value=True,
        scale=2,
        min_width=180,
    )


def answer_columns() -> dict[str, Component]:
    edges = {"instruct": theme.INSTRUCT, "blend": theme.blend_colour(0.5), "thinking": theme.THINKING}
    cards: dict[str, Component] = {}
    with gr.Row(equal_height=True):
        for name, edge in edges.items():
            with gr.Column(min_width=270):  # below each other on a phone
                first = Answer(title=name, empty=EMPTY, edge=edge)
                cards[name] = AnswerCard(first, elem_id=f"compare-{name}")
    return cards


# ---- events


def connect(studio: Studio, view: View) -> None:
    handlers = Handlers(studio)
    settings = view.settings

    def answer_on(event: Callable) -> None:
        listen(event, handlers.all_three, view)
        listen_trace_chart(event, handlers, view)

    answer_on(view.run.click)
    answer_on(settings["prompt"].submit)
    answer_on(on(view.chips.click, lambda sample: sample[0], view.chips, settings["prompt"]).then)
    for name in ("round", "template", "how"):
        listen(settings[name].input, handlers.setting_changed, view)
        listen_trace_chart(settings[name].input, handlers, view)
    schedule = settings["schedule"]
    schedule.change(None, None, [view.frames, view.dots], js=NO_FRAMES)
    listen_trace_chart(schedule.change, handlers, view)
    # frames of another prompt would mislead
    settings["prompt"].input(None, None, [view.frames, view.dots], js=NO_FRAMES)
    settings["t"].input(None, [settings["t"], view.frames], view.blend, js=asset("scrub.js"))
    listen(settings["t"].release, handlers.slider_released, view)
    view.frames.change(None, view.frames, view.dots, js="frames => ({frames})")
    listen(view.render.click, handlers.spectrum, view)
    listen(view.stop.click, handlers.stop, view)
    show_answers(studio, view)


def connect_opening(studio: Studio, view: View, after: Callable) -> None:
    """The page opens with answers, where they cost nothing."""
    handlers = Handlers(studio)
    greeted = listen(after, handlers.greet, view)
    listen_trace_chart(greeted.then, handlers, view)


def connect_changes(studio: Studio, view: View, after: Callable) -> None:
    """Another tab has set round, t or schedule."""
    handlers = Handlers(studio)
    listen(after, handlers.setting_changed, view)
    listen_trace_chart(after, handlers, view)


def numbered(event: Callable, fn: Callable, inputs: list[Any], outputs: Any, **options: Any) -> Any:
    """Listen to every click, each with its number: the browser knows their order, the server does not."""
    js = asset("number_click.js")
    return on(event, fn, inputs, outputs, js=js, trigger_mode="multiple", **options)


def listen(event: Callable, handler: Callable[[Click], None], view: View) -> Any:
    """`handler` starts what a click asks for; it is answered on the screen of the session."""

    def start(request: gr.Request, number: int, frames: int, *values: Any) -> int:
        handler(Click(str(request.session_hash), number, frames, view.question(values)))
        return number

    return numbered(event, start, view.inputs, view.asked, queue=False)


def show_answers(studio: Studio, view: View) -> None:
    """Carry the session's screen to the browser, from a click until everything is answered.

    This is one event for all clicks; while it goes on, Gradio lets a later click wait ("always_last"). Two
    events that write to the same component would not do: Gradio delivers their messages in any order, the
    last one a second time, and nulls for a generator that has said nothing.
    """

    def watch(request: gr.Request) -> Iterator[dict[Component, Any]]:
        for screen in studio.sessions.get(str(request.session_hash)).watch(COLUMNS):
            for sentence in screen.warnings:
                gr.Warning(escape(sentence))
            yield view.values(screen)

    on_choice(view.asked.change, watch, None, view.outputs)


def listen_trace_chart(event: Callable, handlers: Handlers, view: View) -> Any:
    def draw(request: gr.Request, number: int, frames: int, *values: Any) -> Any:
        chart = handlers.trace_chart(Click(str(request.session_hash), number, frames, view.question(values)))
        return gr.skip() if chart is None else chart

    return numbered(event, draw, view.inputs, view.trace_chart)


@dataclass(frozen=True)
class Click:
    """A click of a page, and what the page shows when it comes."""

    session_hash: str
    number: int  # in the order of the page's clicks
    frames: int  # how many frames of a rendered spectrum the browser has
    question: Question


@dataclass(frozen=True)
class Handlers:
    """What a click asks for."""

    studio: Studio

    def session(self, click: Click) -> Session:
        """The session, whose screen forgets rendered frames that the browser has forgotten."""
        session = self.studio.sessions.get(click.session_hash)
        if not click.frames and session.shows("frames"):
            session.write(None, {"frames": []})
        return session

    def answer_at(self, click: Click, ts: list[float]) -> None:
        self.session(click)
        answer(self.studio, click.session_hash, click.number, click.question, ts)

    def all_three(self, click: Click) -> None:
        self.answer_at(click, [0.0, click.question.t, 1.0])

    def spectrum(self, click: Click) -> None:
        self.answer_at(click, RENDERED_POINTS)

    def setting_changed(self, click: Click) -> None:
        if self.studio.preset.think_tokens <= SHORT:
            self.all_three(click)
        else:
            status = html.quiet("Press Run to see it with these settings.")
            self.session(click).write(None, {"status": status})

    def slider_released(self, click: Click) -> None:
        """Decode only the blend where the end columns stand, and nothing where the spectrum is rendered."""
        question = click.question
        session = self.session(click)
        columns: EndColumns | None = session.end_columns
        frames = session.shows("frames")
        if columns is None or not columns.of(self.studio.loaded):
            self.all_three(click)
        elif frames and columns.rendered and question.same_but_for_t(columns.question):
            nearest = min(frames, key=lambda frame: abs(frame["t"] - question.t))
            session.write(None, {"blend": nearest, "status": rendered_line(question.t)})
        elif question.same_end_columns(columns.question):
            self.answer_at(click, [question.t])
        else:
            self.all_three(click)

    def greet(self, click: Click) -> None:
        """The page opens with answers, where they cost nothing."""
        answer_when_loaded(self.studio, click.session_hash, click.number, click.question, SHORT)

    def stop(self, click: Click) -> None:
        self.session(click).stop(click.number)

    def trace_chart(self, click: Click) -> str | None:
        asked = self.studio.sessions.get(click.session_hash).supersede(click.number, "trace_chart")
        self.studio.loader.wait(asked.superseded)  # a page may open before the pair is there
        try:
            return trace_chart(self.studio, click.question, asked.superseded)
        except UserError:  # the status line has said it
            return None


def rendered_line(t: float) -> Markup:
    points = len(RENDERED_POINTS)
    return html.quiet(f"Rendered: the nearest of {points} points is shown. Run decodes t = {t:g} itself.")
