"""Models: which pair to use, whether its checkpoints fit together and into memory, and loading it."""

from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from gradio.components import Component
from markupsafe import Markup

from thinkswitch import catalogue
from thinkswitch.errors import UserError
from thinkswitch.paths import full_path, short_path
from thinkswitch.preset import PRESETS, Preset, load_preset, make_preset
from thinkswitch.text import format_bytes
from ui.meter import machine, pair_bytes
from ui.models.report import report_html
from ui.studio import Studio
from ui.widgets import html
from ui.widgets.assets import asset
from ui.widgets.components import MessageBox, PresetList
from ui.widgets.events import on, on_choice

if TYPE_CHECKING:
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
    """Lay out the tab; returns what a reload brings back, what names the pair, and what a load ends in."""
    names = offered(studio)
    preset, instruct, thinking = pair_boxes(studio, list(names))
    boxes: list[Component] = [preset, instruct, thinking]
    with gr.Row(elem_classes="controls"):
        check = gr.Button("Check", elem_id="models-check", min_width=120)
        load = gr.Button("Load", variant="primary", elem_id="models-load", min_width=120)
        outcome = MessageBox(outcome_html(studio), elem_id="models-outcome")
    with gr.Row(elem_id="models-columns"):
        with gr.Column(min_width=340):
            listing = PresetList(
                {"rows": rows_of(names), "chosen": preset.value}, elem_id="models-list", padding=False
            )
        with gr.Column(min_width=340):
            report = MessageBox(html.quiet(INTRODUCTION), elem_id="models-report")

    def choose(name: str):
        chosen = load_preset(names[name]) if name in names and not studio.demo else Preset()
        return {instruct: short_path(chosen.instruct), thinking: short_path(chosen.thinking)}

    def pick(value: dict):
        name = value.get("chosen") if isinstance(value, dict) else None
        return {preset: name, **choose(name)} if name in names else gr.skip()

    def do_check(*values):
        yield html.quiet("Reading headers …")
        studio.loader.torch_imported.wait(IMPORT_SECONDS)
        try:
            yield report_html(wanted(studio, names, *values))
        except UserError as error:
            yield html.toast(UserError(studio.public(str(error))))

    def do_load(request: gr.Request, *values):
        try:
            asked = wanted(studio, names, *values)
            studio.load(asked, names[values[0]], request.session_hash)
        except UserError as error:
            return html.toast(UserError(studio.public(str(error))))
        return outcome_html(studio)

    on_choice(preset.input, choose, preset, [instruct, thinking])
    on_choice(listing.input, pick, listing, [preset, instruct, thinking])
    on(preset.change, None, [preset, listing], listing, js=asset("preset_chosen.js"))
    for event in (check.click, instruct.submit, thinking.submit):
        on(event, do_check, boxes, report)
    on(load.click, do_load, boxes, outcome)
    return {"kept": [] if studio.demo else boxes, "boxes": boxes, "outcome": outcome}


def pair_boxes(studio: Studio, names: list[str]) -> tuple[gr.Dropdown, gr.Textbox, gr.Textbox]:
    """The preset, and the two checkpoints that it names or somebody has typed."""
    with gr.Row(equal_height=True):
        preset = gr.Dropdown(
            [(Path(name).stem, name) for name in names],
            value=shown_name(studio, studio.source),
            label="Preset",
            info="A pair, its task and its settings.",
            elem_id="models-preset",
            scale=1,
            min_width=240,
        )
        instruct = checkpoint_box(studio, "instruct", studio.preset.instruct)
        thinking = checkpoint_box(studio, "thinking", studio.preset.thinking)
    return preset, instruct, thinking


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


# ---- presets


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


def rows_of(names: dict[str, str]) -> list[dict]:
    """The list of presets: those that fit come first, smaller ones before larger ones."""
    found = {name: catalogue.entry(source) for name, source in names.items()}
    here = machine()
    fits = {name: catalogue.fit(entry, here) for name, entry in found.items()}

    def rank(name: str) -> tuple:
        entry = found[name]
        return entry.refused, fits[name][0] is False, entry.card or 0, entry.memory or 0, name

    return [row_of(name, found[name], *fits[name]) for name in sorted(found, key=rank)]


def row_of(name: str, entry: catalogue.Entry, fits: bool | None, why: str) -> dict:
    return {
        "name": name,
        "label": entry.name,
        "pair": entry.pair,
        "task": entry.task,
        "size": entry.download or "–",
        "needs": entry.needs or "–",
        "fits": fits,
        "why": why,
    }


def wanted(studio: Studio, names: dict[str, str], name: str, instruct: str, thinking: str) -> Preset:
    """The preset with the checkpoints of the two boxes; in a demo with its own, whatever is sent."""
    if name not in names:
        raise UserError(f"there is no preset {name!r}; choose one of: {', '.join(names)}")
    preset = load_preset(names[name])
    if studio.demo:
        return preset
    values = {"instruct": full_path(str(instruct).strip()), "thinking": full_path(str(thinking).strip())}
    return make_preset(values, "Models", preset)


# ---- what is loaded


def status_html(studio: Studio) -> Markup:
    """In the header: the pair in memory, or how far loading is. A failure only if it left no pair."""
    loader, loaded = studio.loader, studio.loaded
    if loader.loading:
        return loading_html(studio)
    if loaded is not None:
        return chip_html(studio, loaded)
    return failure_html(studio) if loader.failed else Markup("{} …").format(loader.status)


def outcome_html(studio: Studio) -> Markup:
    """Below the buttons: how far loading is, then what it has come to."""
    if studio.loader.loading:
        return loading_html(studio)
    return failure_html(studio) if studio.loader.failed else Markup()


def loading_html(studio: Studio) -> Markup:
    loader, loaded = studio.loader, studio.loaded
    done, total = loader.progress
    bar = html.progress_bar(done, total) if total else Markup()
    usable = f" {name_of(studio, loaded)} stays in use until then." if loaded and loader.download else ""
    return Markup("{} …{}{}").format(studio.public(loader.status), html.detail(usable), bar)


def failure_html(studio: Studio) -> Markup:
    loader = studio.loader
    style = html.quiet if loader.cancelled else html.error
    problem = style(f"{studio.public(loader.status).rstrip('.')}.")
    loaded = studio.loaded
    if loaded is None:
        return problem
    return Markup("{} {}").format(problem, html.quiet(f"{name_of(studio, loaded)} is still loaded."))


def chip_html(studio: Studio, loaded: "Loaded") -> Markup:
    """The pair in memory: its name, size, device, and the memory in use there as measured."""
    blend = loaded.blend
    where = f"{blend.device.type}, {str(blend.dtype).removeprefix('torch.')}"
    memory = pair_bytes(blend.device.type, blend.nbytes)
    in_use = format_bytes(float(f"{memory:.2g}"))  # two digits, or it would change all the time
    facts = f"{sides(loaded.pair)} · {where} · {in_use}"
    return Markup('<span class="chip" title="{} in use"><b>{}</b> is ready{}</span>').format(
        facts, name_of(studio, loaded), html.detail(f" · {facts}")
    )


def sides(pair: "Pair") -> str:
    size = count_of(pair.parameters)
    if pair.same_weights:
        return f"one checkpoint on both sides, {size} parameters"
    return f"{size} parameters and an adapter" if pair.update else f"2 × {size} parameters"


def count_of(parameters: int) -> str:
    """`835,840`, `135 M`, `4.02 B`."""
    if parameters < 1_000_000:
        return f"{parameters:,}"
    return f"{parameters / 1e6:.3g} M" if parameters < 999.5e6 else f"{parameters / 1e9:.3g} B"


def name_of(studio: Studio, loaded: "Loaded") -> str:
    return loaded.preset.name or Path(studio.source).stem
