"""A file of problems dropped on the page: checked, stored, and put into the form of the next run."""

import re
import shutil
from itertools import count
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from thinkswitch import problem_check, problem_files, problems, runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.problem_check import Check
from ui.loop import form
from ui.studio import Studio
from ui.widgets import html
from ui.widgets.components import MessageBox
from ui.widgets.events import on

ROOT = Path("problems")  # where the files go
SHOWN_CHARACTERS = 160  # of a prompt
ROLES = [("Training and held-out, divided", "both"), ("Training", "training"), ("Held-out", "held-out")]
READ = (  # the settings that say how a file is read, and how much of it is used
    *("prompt_template", "answer_column", "kind", "answer_pattern", "tolerance"),
    *("prompts", "held_out"),
    *("fresh", "rounds", "seed", "train_set", "held_out_set"),
)


def build(studio: Studio, settings: dict[str, form.Component]) -> None:
    """Not in a demo, where a file would stay on a machine that is not the visitor's."""
    with gr.Row(elem_id="loop-own"):
        file = gr.File(
            label="Own problems (JSONL, CSV, JSON, Parquet, text)",
            file_types=list(problem_files.SUFFIXES),
            elem_id="loop-own-file",
            height=120,
            scale=3,
            min_width=280,
        )
        role = gr.Radio(
            ROLES, value="both", label="Use the file for", elem_id="loop-own-role", scale=2, min_width=240
        )
    report = MessageBox(elem_id="loop-own-report")
    read = {name: settings[name] for name in READ}

    def take(upload: str | None, chosen: str, *values):
        if not upload:
            return {report: ""}
        path = Path(upload)
        try:
            preset = form.read(studio.preset, dict(zip(read, values, strict=True)))
            stored, found, fitted = accept(path, preset, chosen)
        except UserError as error:
            message = form.with_labels(str(error).replace(upload, path.name))
            return {file: None, report: html.error(message)}
        finally:
            discard(path, Path(file.GRADIO_CACHE))
        changed = dict(zip(read.values(), form.values_of(fitted, read), strict=True))
        return {**changed, file: None, report: told(stored, found, preset, fitted)}

    on(file.upload, take, [file, role, *read.values()], [file, report, *read.values()])


def accept(upload: Path, preset: Preset, role: str) -> tuple[Path, Check, Preset]:
    """Check a file, store it and fit the preset to it; nothing is stored of a file that cannot be used."""
    stored = free_name(upload)
    preset = problem_check.columns_of(upload, preset)
    found = problem_check.check(upload, preset)
    if found.wrong:
        first = "; ".join(found.faults)
        more = f" (and {found.wrong - len(found.faults)} more)" if found.wrong > len(found.faults) else ""
        raise UserError(f"{found.wrong} of {found.rows} rows are wrong, so it is not used: {first}{more}")
    fitted = problem_check.use(preset, str(upload), found, role)
    if all(Path(name).is_file() for name in (fitted.train_set, fitted.held_out_set)):
        problems.train_and_held_out(fitted)  # refuses what is in both
    with runs.atomic_file(stored) as temporary:
        shutil.copyfile(upload, temporary)
    return stored, found, problem_check.use(preset, str(stored.resolve()), found, role)


def free_name(upload: Path) -> Path:
    """A plain name in ROOT that no other file has."""
    suffix = upload.suffix.lower()
    if suffix not in problem_files.SUFFIXES:
        known = ", ".join(problem_files.SUFFIXES)
        raise UserError(f"{upload.name} is none of {known}; save it as one of these")
    if suffix == ".gz" and Path(upload.stem).suffix.lower() in problem_files.SUFFIXES:
        suffix = Path(upload.stem).suffix.lower() + suffix
    stem = re.sub(r"[^0-9A-Za-z_-]+", "-", upload.name[: -len(suffix)]).strip("-")[:60] or "problems"
    first = ROOT / f"{stem}{suffix}"
    numbered = (ROOT / f"{stem}-{number}{suffix}" for number in count(2))
    return first if not first.exists() else next(path for path in numbered if not path.exists())


def discard(upload: Path, cache: Path) -> None:
    """Delete an upload, and the folder that Gradio has made for it; nothing outside of Gradio's folder."""
    path = upload.resolve()
    if not path.is_relative_to(cache.resolve()):
        return
    path.unlink(missing_ok=True)
    if path.parent != cache.resolve() and not any(path.parent.iterdir()):
        path.parent.rmdir()


# ---- what is said of it


def told(stored: Path, found: Check, before: Preset, after: Preset) -> Markup:
    """What the file holds, its first problems, and what has changed in the form."""
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in found.kinds.items())
    doubles = found.rows - found.distinct
    counts = f"{found.rows:,} rows ({kinds}), {found.answered:,} with answers"
    counts += f", {doubles:,} of them double" if doubles else ""
    lines = [Markup("<b>{}</b>: {}").format(stored.as_posix(), counts)]
    lines += [
        html.quiet(f"{problem.prompt[:SHOWN_CHARACTERS]} → {problem.answer or '(no answer)'}")
        for problem in found.first
    ]
    lines.append(Markup("{}").format(changes(before, after)))
    return Markup("<br>").join(lines)


def changes(before: Preset, after: Preset) -> str:
    """What is set for the next run."""
    names = [name for name in READ if getattr(before, name) != getattr(after, name)]
    settings = "; ".join(f"{form.label(name)}: {form.shown(name, getattr(after, name))}" for name in names)
    return f"Set for the next run: {settings}"
