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
from ui.widgets import html, layer_charts
from ui.widgets.components import Chart, MessageBox
from ui.widgets.events import on, on_choice

TensorNames = Callable[[], list[str] | None]  # of the loaded pair; None without one
KINDS = {"attention": "Attention", "mlp": "MLP", "norm": "Norm", "embedding": "Embedding"}
UNIFORM, CUSTOM = "uniform", "custom"  # UNIFORM is the name of one of the ablations
HELP = (
    "Each kind of module gets its factor times t, and each layer its place on the depth curve: 0, 1 rises "
    "from the first layer to the last, 0, 1, 0 peaks in the middle. The named ones are the ablations of "
    "arXiv 2510.10977."
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

    @property
    def told(self) -> list[Any]:
        """The components that say which schedule is in force."""
        return [self.name, self.status, self.preview]

    def connect(self, schedule: gr.State, tensor_names: TensorNames) -> Callable[..., Dependency]:
        """Write each edit into `schedule`. `tensor_names` gives None while no pair is loaded.

        Returns a function that draws the schedule again after an event.
        """
        inputs = [*self.values, self.preview_t]
        outputs = [schedule, *self.told]

        def edited(*values) -> dict:
            *chosen, t = values
            try:
                new = schedule_of(chosen)
            except UserError as error:
                return {self.status: html.error(str(error))}
            return {schedule: new, **self.shown(new, t, tensor_names())}

        def choose_ablation(name: str) -> dict:
            names = tensor_names()
            if names is None:
                html.toast(UserError("an ablation needs the layers of a pair; wait until one is loaded"))
                return gr.skip()
            new = recipe.ablations(recipe.count_layers(names)).get(name)
            return gr.skip() if new is None else self.filled(new)

        def redraw_after(event: Callable[..., Dependency]) -> Dependency:
            return on(event, edited, inputs, outputs)

        on_choice(self.name.input, choose_ablation, self.name, self.values)
        for part in inputs:
            on_choice(part.change, edited, inputs, outputs)
        return redraw_after

    def connect_chips(self, chips: list[gr.Button], schedule: gr.State, tensor_names: TensorNames) -> None:
        """The chips of other tabs name the schedule, and a click on one of them resets it."""

        def name_it(new: Schedule) -> list[dict]:
            return [chip_update(new, tensor_names())] * len(chips)

        def reset(t: float) -> dict:
            uniform = Schedule()
            told = self.shown(uniform, t, tensor_names())
            return {schedule: uniform, **self.filled(uniform), **told}

        outputs = [schedule, *self.values, *self.told]
        on(schedule.change, name_it, schedule, chips, trigger_mode="multiple")
        for chip_ in chips:
            on(chip_.click, reset, self.preview_t, outputs)

    def filled(self, schedule: Schedule) -> dict:
        """The values of the form for a schedule."""
        curve = ", ".join(f"{factor:g}" for factor in schedule.depth)
        factors = [getattr(schedule, kind) for kind in KINDS]
        return dict(zip(self.values, [*factors, curve], strict=True))

    def shown(self, schedule: Schedule, t: float, names: list[str] | None) -> dict:
        """What the editor says of the schedule in force. `names`: of the tensors, None without a pair."""
        uniform = schedule == Schedule()
        text = "Every tensor gets t." if uniform else "Compare, Sweep and Export use this schedule."
        updates = {self.name: name_update(schedule, names), self.status: html.quiet(text)}
        if names is not None:
            updates[self.preview] = layer_charts.scheduled(names, schedule, t)
        return updates


def lay_out() -> Editor:
    MessageBox(html.quiet(HELP))
    names = list(recipe.ablations(layers=1))
    with gr.Row(equal_height=True):
        name = gr.Dropdown(
            names, value=names[0], label="Schedule", elem_id="schedule-name", scale=1, min_width=200
        )
        factors = [
            gr.Slider(
                0, 2, 1, step=0.05, label=f"{label} × t", elem_id=f"schedule-{kind}", scale=1, min_width=200
            )
            for kind, label in KINDS.items()
        ]
    with gr.Row(equal_height=True):
        depth = gr.Textbox("1", label="Depth curve", elem_id="schedule-depth", scale=2, min_width=300)
        preview_t = gr.Slider(0, 1, 0.8, step=0.05, label="Preview at t", scale=1, min_width=240)
    status = MessageBox(elem_id="schedule-status")
    preview = Chart(
        elem_id="schedule-preview",
        description="The t of each tensor, by layer and module",
        height=layer_charts.HEIGHT,
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
    flat = curve if set(curve) != {1.0} else (1.0,)
    return check_schedule(Schedule(**by_kind, depth=flat))


# ---- its name


def title(schedule: Schedule, names: list[str] | None) -> str:
    """The name of the ablation that a schedule equals, or else what it changes. `names`: of the tensors."""
    return ablation_of(schedule, names) or short(schedule)


def ablation_of(schedule: Schedule, names: list[str] | None) -> str | None:
    """The name of the ablation that a schedule equals, in a model with these tensors."""
    if schedule == Schedule():
        return UNIFORM
    if names is None:  # an ablation of depth cannot be told yet
        return None
    known = recipe.ablations(recipe.count_layers(names))
    return next((name for name, ablation in known.items() if ablation == schedule), None)


def short(schedule: Schedule) -> str:
    """What a schedule changes, in a few words."""
    kinds = KINDS.items()
    parts = [
        f"{label} × {getattr(schedule, kind):g}" for kind, label in kinds if getattr(schedule, kind) != 1
    ]
    if set(schedule.depth) != {1.0}:
        parts.append("depth curve")
    return ", ".join(parts)


def name_update(schedule: Schedule, names: list[str] | None) -> dict:
    """The drop-down says which schedule is in force; "custom" is offered only while it is true."""
    name = ablation_of(schedule, names)
    offered = list(recipe.ablations(layers=1))
    return gr.update(choices=offered if name else [*offered, CUSTOM], value=name or CUSTOM)


# ---- the chip of other tabs


def chip(elem_id: str) -> gr.Button:
    """Says which schedule is in force, and resets it; hidden while every tensor gets t."""
    return gr.Button(
        "", size="sm", visible=False, elem_id=elem_id, elem_classes="schedule-chip", scale=0, min_width=120
    )


def chip_update(schedule: Schedule, names: list[str] | None) -> dict:
    label = f"Schedule: {title(schedule, names)} – reset"
    return gr.update(value=label, visible=schedule != Schedule())
