"""The schedule editor: how much of t each kind of module and each layer gets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from thinkswitch import recipe
from thinkswitch.errors import UserError
from thinkswitch.preset import check_schedule
from thinkswitch.recipe import Schedule
from ui.widgets import charts, html, layer_charts
from ui.widgets.components import Chart, MessageBox
from ui.widgets.events import on, on_choice

KINDS = {"attention": "Attention", "mlp": "MLP", "norm": "Norm", "embedding": "Embedding"}
DEPTH_HELP = (
    "Factors from the first to the last layer, interpolated. 0, 1 rises; 0, 1, 0 peaks in the middle."
)


@dataclass(frozen=True)
class Editor:
    name: gr.Dropdown
    factors: list[gr.Slider]
    depth: gr.Textbox
    preview_t: gr.Slider
    status: MessageBox
    preview: Chart

    @property
    def values(self) -> list[Any]:
        """The components that make a schedule."""
        return [*self.factors, self.depth]

    def connect(self, schedule: gr.State, tensor_names: Callable[[], list[str]]) -> Callable[..., Dependency]:
        """Write each edit into `schedule`. `tensor_names` refuses with a UserError while no pair is loaded.

        Returns a function that draws the schedule again after an event.
        """
        inputs = [*self.values, self.preview_t]
        outputs = [schedule, self.status, self.preview]

        def edited(*values) -> dict:
            *chosen, t = values
            try:
                new = schedule_of(chosen)
            except UserError as error:
                return {self.status: html.error(str(error))}
            text = "Every tensor gets t." if new == Schedule() else "Compare and Sweep use this schedule."
            updates = {schedule: new, self.status: html.quiet(text)}
            try:
                return {**updates, self.preview: layer_charts.scheduled(tensor_names(), new, t)}
            except UserError:  # the line above the tabs says that the pair is not loaded
                return updates

        def ablation(name: str) -> dict:
            try:
                new = recipe.ablations(recipe.count_layers(tensor_names()))[name]
            except UserError as error:
                html.toast(error)
                return gr.skip()
            curve = ", ".join(f"{factor:g}" for factor in new.depth)
            factors = [getattr(new, kind) for kind in KINDS]
            return dict(zip(self.values, [*factors, curve], strict=True))

        def redraw_after(event: Callable[..., Dependency]) -> Dependency:
            return on(event, edited, inputs, outputs)

        on_choice(self.name.input, ablation, self.name, self.values)
        for part in inputs:
            on_choice(part.change, edited, inputs, outputs)
        return redraw_after


def lay_out() -> Editor:
    with gr.Row(equal_height=True):
        names = list(recipe.ablations(layers=1))
        name = gr.Dropdown(
            names,
            value=names[0],
            label="Published ablations",
            info="From arXiv 2510.10977.",
            elem_id="schedule-name",
            scale=1,
            min_width=240,
        )
        factors = [
            gr.Slider(
                0, 2, 1, step=0.05, label=f"{label} × t", elem_id=f"schedule-{kind}", scale=1, min_width=200
            )
            for kind, label in KINDS.items()
        ]
    with gr.Row(equal_height=True):
        depth = gr.Textbox(
            "1", label="Depth curve", info=DEPTH_HELP, elem_id="schedule-depth", scale=2, min_width=300
        )
        preview_t = gr.Slider(0, 1, 0.8, step=0.05, label="Preview at t", scale=1, min_width=240)
    status = MessageBox(elem_id="schedule-status")
    preview = Chart(
        elem_id="schedule-preview",
        description="The t of each tensor, by layer and module",
        height=charts.HEATMAP_HEIGHT,
    )
    return Editor(name, factors, depth, preview_t, status, preview)


def schedule_of(values: Sequence) -> Schedule:
    """The schedule of an editor: a factor for each of KINDS, then the depth curve as text."""
    *factors, depth = values
    try:
        curve = tuple(float(part) for part in str(depth).replace(";", ",").split(",") if part.strip())
    except ValueError:
        message = f"the depth curve is {depth!r}; write numbers with commas between them, such as 0, 0.5, 1"
        raise UserError(message) from None
    by_kind = dict(zip(KINDS, map(float, factors), strict=True))
    return check_schedule(Schedule(**by_kind, depth=curve))


def short(schedule: Schedule) -> str:
    """What a schedule changes, in a few words."""
    parts = [f"{kind} {getattr(schedule, kind):g}" for kind in KINDS if getattr(schedule, kind) != 1]
    if set(schedule.depth) != {1.0}:
        parts.append("depth curve")
    return ", ".join(parts)
