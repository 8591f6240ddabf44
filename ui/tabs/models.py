"""Models: which pair, whether it fits together, and loading it."""

from html import escape
from pathlib import Path

import gradio as gr

from thinkswitch.errors import UserError
from thinkswitch.preset import PRESETS, Preset, load_preset, make_preset
from thinkswitch.text import format_bytes
from ui.studio import Studio
from ui.widgets import html
from ui.widgets.components import MessageBox


def build(studio: Studio) -> dict:
    shipped = sorted(p.stem for p in PRESETS.glob("*.yaml"))
    names = shipped if studio.source in shipped else [studio.source, *shipped]
    names = [name for name in names if not studio.demo or is_here(load_preset(name))]  # a stage fetches nothing
    labels = [(Path(name).stem, name) for name in names]
    with gr.Row(equal_height=True):
        preset = gr.Dropdown(labels, value=studio.source, label="Preset", elem_id="models-preset", scale=1, min_width=240, info="a pair, its task and its knobs")
        instruct = gr.Textbox("" if studio.demo else studio.preset.instruct, label="Instruct checkpoint", elem_id="models-instruct", scale=2, min_width=300, info="a folder or a Hub id",
                              visible=not studio.demo, max_lines=1)
        thinking = gr.Textbox("" if studio.demo else studio.preset.thinking, label="Thinking checkpoint", elem_id="models-thinking", scale=2, min_width=300, info="a folder or a Hub id",
                              visible=not studio.demo, max_lines=1)
    with gr.Row():
        check = gr.Button("Check", elem_id="models-check")
        load = gr.Button("Load", variant="primary", elem_id="models-load")
    report = MessageBox(html.quiet("Check reads headers only: it says what the pair is, what differs, and what this machine has."), elem_id="models-report")

    def chosen(name):
        one = load_preset(name) if name in names and not studio.demo else Preset()
        return one.instruct, one.thinking

    def do_check(*values):
        yield html.quiet("Reading headers …")
        studio.imported.wait(300)
        try:
            yield report_html(wanted(studio, names, *values))
        except UserError as error:
            yield html.toast(UserError(studio.public(str(error))))

    def do_load(*values):
        try:
            studio.load(wanted(studio, names, *values), values[0])
        except UserError as error:
            return html.toast(UserError(studio.public(str(error))))
        return html.quiet("The line above the tabs says how far it is.")

    quiet = dict(show_progress="hidden", api_visibility="private", concurrency_limit=None)
    preset.input(chosen, preset, [instruct, thinking], **quiet)
    check.click(do_check, [preset, instruct, thinking], report, **quiet)
    load.click(do_load, [preset, instruct, thinking], report, **quiet)  # the status line is app.beat's alone, or the two would race
    for box in (instruct, thinking):
        box.submit(do_check, [preset, instruct, thinking], report, **quiet)
    return dict(kept=[] if studio.demo else [preset, instruct, thinking])


def is_here(preset: Preset) -> bool:
    """Whether a preset needs no Hub."""
    return all(Path(folder).is_dir() for folder in (preset.instruct, preset.thinking)) and Path(preset.held_out_set).is_file()


def wanted(studio: Studio, names: list[str], name: str, instruct: str, thinking: str) -> Preset:
    """The preset with the pair that the boxes name; on a stage the preset's own, whatever is sent."""
    if name not in names:
        raise UserError(f"there is no preset {name!r}")
    base = load_preset(name)
    return base if studio.demo else make_preset(dict(instruct=str(instruct).strip(), thinking=str(thinking).strip()), "Models", base)


def status_html(studio: Studio) -> str:
    wrong = html.error(studio.public(studio.status)) if studio.failed else ""
    if studio.loaded is None and wrong:
        return wrong
    if studio.loaded is None or studio.loading:
        done, total = studio.progress
        return f"{studio.status} …" + (html.progress_bar(done, total) if total else "")
    loaded = studio.loaded
    where = f"{loaded.blend.device.type}, {str(loaded.blend.dtype).removeprefix('torch.')}"
    return (f"{wrong}{'<br>' if wrong else ''}<b>{escape(loaded.preset.name or Path(studio.source).stem)}</b> is ready: two checkpoints of {loaded.pair.parameters:,} parameters in one live blend ({where}), "
            f"{format_bytes(loaded.blend.nbytes)} in memory.")


def report_html(preset: Preset) -> str:
    """From headers alone: what the pair is and what differs; and the memory of this machine."""
    from thinkswitch.weights.checkpoint import open_checkpoint
    from thinkswitch.weights.pair import Pair, differences
    pair = Pair(*(open_checkpoint(name, headers_only=True) for name in (preset.instruct, preset.thinking)))
    found, config = differences(pair), pair.config
    kinds = sorted({e.dtype for c in (pair.instruct, pair.thinking) for e in c.entries.values()})
    rows = [("Verdict", "<b>compatible</b>" if not found else html.error("cannot be interpolated: " + "; ".join(found))),
            ("Architecture", escape(f"{config.model_type}, {config.num_hidden_layers} layers, hidden {config.hidden_size}, vocabulary {config.vocab_size:,}, "
                                    f"{'tied' if config.tie_word_embeddings else 'untied'} embeddings")),
            ("Size", f"{pair.parameters:,} parameters in {len(pair.names)} tensors each ({', '.join(kinds)})"),
            ("Chat templates", " · ".join(f'<b class="{role}">{role}</b> {"opens" if getattr(pair, role).template_opens_think else "does not open"} the trace'
                                          for role in ("instruct", "thinking"))),
            ("Memory", "" if found else memory_html(pair, preset))]
    return "<table>" + "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in rows) + "</table>"


def memory_html(pair, preset: Preset) -> str:
    """The plan for this machine, a line a phase."""
    from thinkswitch import memory_plan
    rows = "".join(f"<tr><td>{p.name}</td><td>{format_bytes(p.needs)}</td><td>of {format_bytes(p.have)} free</td><td>"
                   + (str(html.error(f"does not fit: {p.advice}")) if p.advice else "fits") + f'</td><td class="quiet">{escape(largest(p))}</td></tr>'
                   for p in memory_plan.plan_memory(pair, preset))
    return f"<table>{rows}</table>"


def largest(phase) -> str:
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in sorted(phase.parts.items(), key=lambda part: -part[1])[:3])
