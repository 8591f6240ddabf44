"""Models: which pair to use, whether its checkpoints fit together and into memory, and loading it."""

from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from markupsafe import Markup

from thinkswitch.errors import UserError
from thinkswitch.paths import full_path, short_path
from thinkswitch.preset import PRESETS, Preset, load_preset, make_preset
from thinkswitch.text import format_bytes
from ui.studio import Studio
from ui.widgets import html
from ui.widgets.components import MessageBox
from ui.widgets.events import on, on_choice

if TYPE_CHECKING:
    from thinkswitch.memory_plan import Phase
    from thinkswitch.weights.pair import Pair
    from ui.pair_loader import Loaded

INTRODUCTION = (
    "Check reads only file headers and reports whether the pair is compatible and what memory it needs."
)
CHECKPOINT_HELP = {
    "instruct": "A folder or a Hub id.",
    "thinking": "A folder or a Hub id; also a LoRA adapter on the instruct checkpoint.",
}
IMPORT_SECONDS = 300  # torch may be read from a slow disk


def build(studio: Studio) -> dict:
    """Lay out the tab; returns what a reload brings back, and what names the pair."""
    names = offered(studio)
    shown = shown_name(studio, studio.source)
    with gr.Row(equal_height=True):
        preset = gr.Dropdown(
            [(Path(name).stem, name) for name in names],
            value=shown,
            label="Preset",
            info="A pair, its task and its settings.",
            elem_id="models-preset",
            scale=1,
            min_width=240,
        )
        instruct = checkpoint_box(studio, "instruct", studio.preset.instruct)
        thinking = checkpoint_box(studio, "thinking", studio.preset.thinking)
    with gr.Row():
        check = gr.Button("Check", elem_id="models-check")
        load = gr.Button("Load", variant="primary", elem_id="models-load")
    report = MessageBox(html.quiet(INTRODUCTION), elem_id="models-report")
    boxes = [preset, instruct, thinking]

    def choose(name: str):
        chosen = load_preset(names[name]) if name in names and not studio.demo else Preset()
        return {instruct: short_path(chosen.instruct), thinking: short_path(chosen.thinking)}

    def do_check(*values):
        yield html.quiet("Reading headers …")
        studio.loader.torch_imported.wait(IMPORT_SECONDS)
        try:
            yield report_html(wanted(studio, names, *values))
        except UserError as error:
            yield html.toast(UserError(studio.public(str(error))))

    def do_load(request: gr.Request, *values):
        try:
            preset = wanted(studio, names, *values)
            studio.load(preset, names[values[0]], request.session_hash)
        except UserError as error:
            return html.toast(UserError(studio.public(str(error))))
        return html.quiet("Progress is shown above the tabs.")

    on_choice(preset.input, choose, preset, [instruct, thinking])
    for event in (check.click, instruct.submit, thinking.submit):
        on(event, do_check, boxes, report)
    on(load.click, do_load, boxes, report)  # the status above the tabs is updated by the page, not from here
    return {"kept": [] if studio.demo else boxes, "boxes": boxes}


def checkpoint_box(studio: Studio, role: str, value: str) -> gr.Textbox:
    return gr.Textbox(
        "" if studio.demo else short_path(value),
        label=f"{role.capitalize()} checkpoint",
        info=CHECKPOINT_HELP[role],
        elem_id=f"models-{role}",
        visible=not studio.demo,
        scale=2,
        min_width=300,
        max_lines=1,
    )


def offered(studio: Studio) -> dict[str, str]:
    """{preset as it is shown: its name or file}. A demo downloads nothing."""
    shipped = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    own = [] if studio.source in shipped else [studio.source]
    sources = [name for name in [*own, *shipped] if not studio.demo or is_here(load_preset(name))]
    return {shown_name(studio, source): source for source in sources}


def shown_name(studio: Studio, source: str) -> str:
    """A demo shows no folder of a preset file."""
    return Path(source).stem if studio.demo else short_path(source)


def is_here(preset: Preset) -> bool:
    """Whether a preset needs no download."""
    folders = (preset.instruct, preset.thinking)
    return all(Path(folder).is_dir() for folder in folders) and Path(preset.held_out_set).is_file()


def wanted(studio: Studio, names: dict[str, str], name: str, instruct: str, thinking: str) -> Preset:
    """The preset with the checkpoints of the two boxes; in a demo with its own, whatever is sent."""
    if name not in names:
        raise UserError(f"there is no preset {name!r}; choose one of: {', '.join(names)}")
    preset = load_preset(names[name])
    if studio.demo:
        return preset
    values = {"instruct": full_path(str(instruct).strip()), "thinking": full_path(str(thinking).strip())}
    return make_preset(values, "Models", preset)


# ---- messages


def status_html(studio: Studio) -> Markup:
    """The line above the tabs: what is loaded, or how far loading is."""
    loader, loaded = studio.loader, studio.loaded
    style = html.quiet if loader.cancelled else html.error
    problem = style(studio.public(loader.status)) if loader.failed else Markup()
    if loaded is None and loader.failed:
        return problem
    if loaded is None or loader.loading:
        done, total = loader.progress
        bar = html.progress_bar(done, total) if total else Markup()
        usable = f" {name_of(studio, loaded)} stays in use until then." if loaded and loader.download else ""
        return Markup("{} …{}{}").format(loader.status, html.detail(usable), bar)
    blend = loaded.blend
    pair = loaded.pair
    where = f"{blend.device.type}, {str(blend.dtype).removeprefix('torch.')}"
    memory = format_bytes(blend.nbytes)
    size = f"{sides(pair)} of {pair.parameters:,} parameters"
    facts = f": {size} in one live model ({where}), {memory} in memory."
    ready = Markup("<b>{}</b> is ready{}").format(name_of(studio, loaded), html.detail(facts))
    return Markup("{}<br>{}").format(problem, ready) if problem else ready


def sides(pair: "Pair") -> str:
    if pair.same_weights:
        return "one checkpoint on both sides"
    return "a checkpoint and an adapter on it" if pair.update else "two checkpoints"


def name_of(studio: Studio, loaded: "Loaded") -> str:
    return loaded.preset.name or Path(studio.source).stem


def report_html(preset: Preset) -> Markup:
    """From file headers: what the pair is and what differs; and what memory it needs on this machine."""
    from thinkswitch.weights.pair import about_same_weights, differences, open_headers
    from thinkswitch.weights.prompting import prompting_of

    pair = open_headers(preset.instruct, preset.thinking, prompting_of(preset))
    found = differences(pair)
    facts = [
        ("Verdict", verdict_html(found)),
        ("Architecture", architecture(pair)),
        ("Size", size(pair)),
        ("Chat templates", templates_html(pair)),
        *(("Note", remark) for remark in pair.remarks),
    ]
    if pair.same_weights:
        facts.append(("Weights", about_same_weights(pair)))
    if pair.instruct.vision or pair.thinking.vision:
        facts.append(("Vision", "left out: the text model alone is used"))
    if not found:
        facts.append(("Memory", memory_html(pair, preset)))
    return html.facts(facts)


def verdict_html(found: list[str]) -> Markup:
    return html.error(f"cannot be interpolated: {'; '.join(found)}") if found else html.bold("compatible")


def architecture(pair: "Pair") -> str:
    config = pair.config
    embeddings = "tied" if config.tie_word_embeddings else "untied"
    return (
        f"{config.model_type}, {config.num_hidden_layers} layers, hidden {config.hidden_size}, "
        f"vocabulary {config.vocab_size:,}, {embeddings} embeddings"
    )


def size(pair: "Pair") -> str:
    entries = [entry for side in (pair.instruct, pair.thinking) for entry in side.entries.values()]
    dtypes = ", ".join(sorted({entry.dtype for entry in entries}))
    return f"{pair.parameters:,} parameters in {len(pair.names)} tensors each ({dtypes})"


def templates_html(pair: "Pair") -> Markup:
    """Whether each template opens the trace itself."""
    lines = []
    for role, side in (("instruct", pair.instruct), ("thinking", pair.thinking)):
        verb = "opens" if side.template_opens_think else "does not open"
        tag = side.think_tags.open
        lines.append(Markup('<b class="{}">{}</b> {} the trace ({})').format(role, role, verb, tag))
    return Markup(" · ").join(lines)


def memory_html(pair: "Pair", preset: Preset) -> Markup:
    """The memory plan for this machine, one line per phase."""
    from thinkswitch import memory_plan

    return html.table(map(memory_row, memory_plan.plan_memory(pair, preset)))


def memory_row(phase: "Phase") -> list[str]:
    verdict = html.error(f"does not fit: {phase.advice}") if phase.advice else "fits"
    free = f"of {format_bytes(phase.have)} free"
    return [phase.name, format_bytes(phase.needs), free, verdict, html.quiet(largest(phase))]


def largest(phase: "Phase") -> str:
    """The three largest parts of a phase."""
    parts = sorted(phase.parts.items(), key=lambda part: part[1], reverse=True)
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in parts[:3])
