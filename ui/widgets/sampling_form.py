"""How Compare decodes: the sampling, and whose chat template."""

import gradio as gr
from gradio.components import Component

SAMPLING_CHOICES = ["preset default", "greedy", "custom"]
SAMPLING_HELP = "custom: what is below; min-p and penalties stay the preset's."
TEMPLATE_HELP = "auto: each end its own, blends the preset's. The thinking template opens the trace itself."
TEMPLATES = ("auto", "instruct", "thinking")


def build(greedy: bool) -> dict[str, Component]:
    """The components, named as the fields of Question."""
    with gr.Accordion("Sampling and chat template", open=False, elem_id="compare-sampling"):
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
            temperature = gr.Slider(
                0, 2, 0.6, step=0.05, label="Temperature (custom)", elem_id="compare-temperature"
            )
            top_p = gr.Slider(0.01, 1, 0.95, step=0.01, label="Top-p (custom)", elem_id="compare-top-p")
            top_k = gr.Number(20, precision=0, label="Top-k (custom, 0 = all)", elem_id="compare-top-k")
            limit = gr.Number(
                0, precision=0, label="Most new tokens (0 = the preset's)", elem_id="compare-limit"
            )
            seed = gr.Number(0, precision=0, label="Seed", elem_id="compare-seed")
    return {
        "template": template,
        "how": how,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "limit": limit,
        "seed": seed,
    }
