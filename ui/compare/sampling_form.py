"""How Compare decodes: the system prompt, the sampling, and whose chat template."""

from typing import Any

import gradio as gr
from gradio.components import Component

from ui.widgets.events import on

SAMPLING_CHOICES = ["preset default", "greedy", "custom"]
SAMPLING_HELP = "custom: what is below; min-p and penalties stay the preset's."
TEMPLATE_HELP = (
    "auto: instruct and thinking use their own, blends the one that the preset names. "
    "A thinking template may open the trace itself."
)
ENABLE_CUSTOM = """how => {
    const update = {__type__: 'update', interactive: how === 'custom'};
    return [update, update, update];
}"""
TEMPLATES = ("auto", "instruct", "thinking")


def build(greedy: bool) -> dict[str, Component]:
    """The components, named as the fields of Question."""
    system = gr.Textbox(
        "",
        label="System prompt",
        info="Empty: the preset's. Enter runs.",
        elem_id="compare-system",
        lines=1,
        max_lines=6,
        max_length=20_000,
    )
    with gr.Row():
        how = gr.Radio(
            SAMPLING_CHOICES,
            value="greedy" if greedy else SAMPLING_CHOICES[0],
            label="Sampling",
            elem_id="compare-how",
            info=SAMPLING_HELP,
        )
        template = gr.Radio(
            list(TEMPLATES),
            value="auto",
            label="Chat template",
            elem_id="compare-template",
            info=TEMPLATE_HELP,
        )
    with gr.Row():
        custom: dict[str, Any] = {"interactive": False}  # until that is chosen
        temperature = gr.Slider(
            0,
            2,
            0.6,
            step=0.05,
            label="Temperature (0 = greedy)",
            elem_id="compare-temperature",
            **custom,
        )
        top_p = gr.Slider(0.01, 1, 0.95, step=0.01, label="Top-p", elem_id="compare-top-p", **custom)
        top_k = gr.Number(20, precision=0, label="Top-k (0 = all)", elem_id="compare-top-k", **custom)
        limit = gr.Number(
            0, precision=0, label="Longest answer in tokens (0 = the preset's)", elem_id="compare-limit"
        )
        seed = gr.Number(0, precision=0, label="Seed", elem_id="compare-seed")
    on(how.change, None, how, [temperature, top_p, top_k], js=ENABLE_CUSTOM)
    return {
        "system": system,
        "template": template,
        "how": how,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "limit": limit,
        "seed": seed,
    }
