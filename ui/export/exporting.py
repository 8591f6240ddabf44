"""Exporting: what a visitor wants, whether it can be had, and the task that writes it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from thinkswitch.errors import UserError
from thinkswitch.export.gguf_kinds import OFFERED
from thinkswitch.recipe import Schedule
from thinkswitch.text import format_bytes
from ui.studio import EXPORTS, Studio

if TYPE_CHECKING:
    from thinkswitch.export.export import Exported
    from thinkswitch.export.formats import Offer
    from thinkswitch.export.point import ExportPoint, ExportRequest

FOLDER, ADAPTER = "Hugging Face folder", "PEFT adapter"  # names of formats, known before torch is imported
FORMAT_NAMES = (FOLDER, ADAPTER, *(f"GGUF {kind}" for kind in OFFERED))
OUR_NAMES = re.compile(rf"({EXPORTS}/)?[\w. -]+-(round-\d+|pair)-t[\d.]+(-\d+)?")
MOST_NAMES = 1000  # tried for a free one


@dataclass(frozen=True)
class Wanted:
    """The values of the form."""

    round: str
    t: float
    with_schedule: bool
    format: str
    folder: str
    replace: bool
    schedule: Schedule

    @property
    def schedule_used(self) -> Schedule:
        return self.schedule if self.with_schedule else Schedule()


@dataclass(frozen=True)
class Done:
    """A finished export and what was asked for."""

    exported: "Exported"
    wanted: Wanted


@dataclass(frozen=True)
class Outlook:
    """What would come of an export: a sentence, and whether it is possible."""

    text: str
    possible: bool = False
    refused: bool = False  # the form says what cannot be done


# ---- where to


def proposed(studio: Studio, choice: str, t: float) -> str:
    """A name for the folder of a point, which nothing has yet."""
    run, number = studio.run_of(choice)
    name = f"{run.name}-round-{number}" if run else f"{studio.preset.name or 'blend'}-pair"
    name = f"{name}-t{t:g}"
    numbered = [name, *(f"{name}-{n}" for n in range(2, MOST_NAMES))]
    free = next((option for option in numbered if not (EXPORTS / option).exists()), name)
    return free if studio.demo else f"{EXPORTS}/{free}"


def target(studio: Studio, folder: str) -> Path:
    """Where to write. In a demo: one plain name inside one folder."""
    name = (folder or "").strip()
    if not name:
        raise UserError("no folder is named; write where the export should go")
    if not studio.demo:
        return Path(name)
    if not re.fullmatch(r"\w[\w.-]{0,79}", name):
        raise UserError(
            f"{name[:80]!r} is not a plain name; use letters, digits, - and _ to name an export in a demo"
        )
    return EXPORTS / name


# ---- what


def language_of(format_: str) -> str:
    """Of the lines that use an export."""
    return "python" if format_ in (FOLDER, ADAPTER) else "shell"


def point_of(studio: Studio, wanted: Wanted) -> "ExportPoint":
    loaded = studio.ready()
    from thinkswitch.export.point import ExportPoint

    round_ = studio.find_round(loaded, wanted.round)
    return ExportPoint(loaded.pair, round_, float(wanted.t), wanted.schedule_used, loaded.preset)


def request_of(studio: Studio, wanted: Wanted) -> "ExportRequest":
    point = point_of(studio, wanted)
    from thinkswitch.export.formats import FORMATS, in_format
    from thinkswitch.export.point import ExportRequest

    replaces = bool(wanted.replace) and not studio.demo
    run, _ = studio.run_of(wanted.round)
    point = in_format(point, FORMATS[wanted.format])
    return ExportRequest(point, target(studio, wanted.folder), replaces, run)


def offers(studio: Studio, wanted: Wanted) -> "list[Offer]":
    """Every format at the point; none while there is no such point."""
    try:
        point = point_of(studio, wanted)
    except UserError:  # `look_ahead` says it
        return []
    from thinkswitch.export import formats

    return formats.offers(point)


def look_ahead(studio: Studio, wanted: Wanted) -> Outlook:
    """What an export would write, or what it waits for, or why it would be refused. Changes nothing."""
    if studio.loaded is None:
        return Outlook("An export needs the pair; the line above the tabs says how far it is.")
    if not (wanted.folder or "").strip():
        return Outlook("Name the folder that the export should go to.")
    from thinkswitch.export import export as exporter

    try:
        if is_done(studio, wanted):
            again = "name another one" if studio.demo else "name another one, or replace it"
            return Outlook(f"This folder has the export; to export again, {again}.")
        plan = exporter.plan_export(request_of(studio, wanted))
    except UserError as error:
        return Outlook(sentence(studio, error), refused=True)
    return Outlook(
        f"{format_bytes(plan.size)} in {plan.tensors} tensors ({plan.dtype}), with tokenizer and chat "
        f"template of the {plan.template} checkpoint. {format_bytes(plan.free)} are free there.",
        possible=True,
    )


def is_done(studio: Studio, wanted: Wanted) -> bool:
    """Whether the folder holds the export that was made last, and is not to be replaced."""
    task = studio.tasks.get("export")
    if task is None or not isinstance(task.result, Done) or (wanted.replace and not studio.demo):
        return False
    from thinkswitch.export.destination import resolve_path

    folder = resolve_path(target(studio, wanted.folder))
    return folder == task.result.exported.folder and folder.exists()


# ---- the task


def begin(studio: Studio, wanted: Wanted, session_hash: str | None = None) -> None:
    """Start an export as a task of the page that asks; refuses before work what cannot be written."""
    loaded = studio.ready()
    from thinkswitch.export import export as exporter

    request = request_of(studio, wanted)
    exporter.plan_export(request)

    def work(cancelled: Callable[[], bool]):
        with studio.using(loaded, wanted.round):
            slots = studio.slots(loaded, wanted.round)
            exported = yield from exporter.export(request, loaded.blend, slots, studio.turn, cancelled)
        return Done(exported, replace(wanted, schedule=wanted.schedule_used))

    studio.task("export", work, session_hash)


def sentence(studio: Studio, error: UserError | str | None) -> str:
    """An error as a sentence; in a demo without paths."""
    text = studio.public(str(error))
    return f"{text[:1].upper()}{text[1:]}."
