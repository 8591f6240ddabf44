"""The run folder is the protocol: one process writes it, everybody else only reads. Torch-free.

    preset.yaml    the settings
    run.json       the process and what it has taken (see process.py); .lock is held while it runs
    events.jsonl   progress, one event a line
    stop           its presence asks for a stop
    .engine/       what an engine serves while it labels (see engines/serve.py)
    log.txt        the output of a process that the page started
    rounds/R/      samples.jsonl, adapter/, recipe.json, scores.jsonl

Files that grow are appended by whole lines and flushed; all others are written under a temporary name and
renamed. So a kill at any moment loses at most the line that is being written.
"""

import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, load_preset, to_yaml
from thinkswitch.runs.files import TEMPORARY, is_blank, last_line, patiently, write_atomic
from thinkswitch.runs.lines import event_problem
from thinkswitch.runs.process import running_pid

ROOT = Path("runs")  # where runs go that name no folder
WRITTEN_BEFORE = (
    "run.json",
    "log.txt",
    "stop",
)  # what a new run's folder may hold: its own process was started there
ROUND_FILES = ("recipe.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors")
PLAIN_NAME = re.compile(r"[^\W_][\w .()-]{0,79}")  # no folder, no hidden file, no separator of rounds
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
DELETED = ".deleted-"  # begins the name of a run that is being deleted
ENDED = ("done", "stopped", "error")  # phases of a run's last event


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl. `data` holds what a phase adds: loss, accuracy, kept, message ..."""

    round: int
    phase: str  # think | strip | distil | rebuild | measure | done | stopped | error
    step: int = 0
    total: int = 0
    data: dict = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def to_dict(self) -> dict:
        return {
            "time": round(self.time, 3),
            "round": self.round,
            "phase": self.phase,
            "step": self.step,
            "total": self.total,
            **self.data,
        }


# ---- one run


def create(preset: Preset, folder: Path) -> None:
    """Make a new run folder. Refuses one that already holds anything."""
    if folder.exists():
        if (folder / "preset.yaml").exists():
            raise UserError(f"{folder} is in use: it already holds a run; resume it, or name another folder")
        if not folder.is_dir() or any(not _may_be_there(path) for path in folder.iterdir()):
            raise UserError(f"{folder} is in use: it already holds other files; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        message = f"{folder} cannot be used: a part of its path is a file, not a folder; name another folder"
        raise UserError(message) from None
    write_atomic(folder / "preset.yaml", to_yaml(preset))


def _may_be_there(path: Path) -> bool:
    return path.name in WRITTEN_BEFORE or TEMPORARY.match(path.name) is not None


def open_run(folder: Path) -> Preset:
    """The preset of an existing run. Raises UserError if the folder is not a run."""
    path = folder / "preset.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is no run: it has no preset.yaml")
    return load_preset(path)


def state(folder: Path) -> str:
    """running | done | stopped | error | interrupted | new | refused.

    interrupted: killed, or the machine went down. refused: its process did not begin; log.txt says why.
    Raises UserError if the last event is damaged.
    """
    if running_pid(folder):
        return "running"
    if not (folder / "preset.yaml").is_file():
        return "refused"
    last = last_line(folder / "events.jsonl", event_problem)
    if last is None:
        return "new"
    phase = last.get("phase")
    return phase if phase in ENDED else "interrupted"


def request_stop(folder: Path) -> None:
    """Ask the process that runs this folder to stop; it does so at its next step."""
    owner = running_pid(folder)
    if not owner:
        open_run(folder)  # raises if it is no run at all
        raise UserError(f"{folder} is not running")
    write_atomic(folder / "stop", f"{owner}\n")


def stop_requested(folder: Path) -> bool:
    return (folder / "stop").exists()


def measured(events: Iterable[dict]) -> list[dict]:
    """The events that end a measurement; the others hold intermediate figures."""
    return [event for event in events if event["phase"] == "measure" and event["step"] == event["total"]]


# ---- its name


def rename(folder: Path, name: str) -> Path:
    """Give a run another name within its root; returns the new folder. Refuses a run that is running."""
    name = name.strip()
    _refuse_name(name)
    target = folder.with_name(name)
    if target == folder:
        return folder
    refuse_running(folder, "renamed")
    if target.exists():
        raise UserError(f"there is a {name!r} already; choose another name")
    patiently(lambda: os.rename(folder, target))
    return target


def delete(folder: Path) -> None:
    """Remove a run for good. It disappears at once, since it is moved out of the listing first."""
    refuse_running(folder, "deleted")
    if folder.is_symlink():
        folder.unlink()  # what it points to lies elsewhere and stays
        return
    hidden = folder.with_name(f"{DELETED}{os.getpid()}-{time.time_ns()}-{folder.name}")
    patiently(lambda: os.rename(folder, hidden))
    shutil.rmtree(hidden)


def refuse_running(folder: Path, what: str) -> None:
    if running_pid(folder):
        raise UserError(f"{folder.name} is running, so it cannot be {what}; stop it first")


def _refuse_name(name: str) -> None:
    if not PLAIN_NAME.fullmatch(name) or name.endswith("."):
        wanted = "up to 80 letters, digits, spaces or any of . _ - ( ), beginning with a letter or digit"
        raise UserError(f"a run cannot be called {name[:80]!r}; a name has {wanted}")
    if name.partition(".")[0].upper() in DEVICES:
        raise UserError(f"Windows keeps the name {name!r} for a device; choose another one")


# ---- its rounds


def round_dir(folder: Path, number: int) -> Path:
    return folder / "rounds" / str(number)


def rounds_done(folder: Path) -> int:
    """The last round whose checkpoints exist; 0 is the pair itself."""
    return next((number for number in rounds_written(folder) if not _is_lost(round_dir(folder, number))), 0)


def rounds_written(folder: Path) -> list[int]:
    """All rounds with a recipe.json, the last one first; whether it can be read is not known."""
    names = [path.parent.name for path in folder.glob("rounds/*/recipe.json")]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _is_lost(folder: Path) -> bool:
    """Whether a power failure has left a round's files empty."""
    files = (folder / name for name in ROUND_FILES)
    return any(is_blank(file) for file in files if file.is_file())


# ---- all runs


def runs_in(root: Path) -> list[Path]:
    """Every run in a folder, newest first."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if _is_run(path)]
    return sorted(found, key=_age_key, reverse=True)


def _is_run(folder: Path) -> bool:
    if folder.name.startswith("."):  # one that is being deleted
        return False
    return (folder / "preset.yaml").is_file() or (folder / "run.json").is_file()


def _age_key(folder: Path) -> tuple[float, str]:
    """By the age of preset.yaml, which is written once; a run that was refused has none."""
    path = folder / "preset.yaml"
    try:
        return (path if path.is_file() else folder).stat().st_mtime, folder.name
    except FileNotFoundError:  # deleted since it was listed
        return 0.0, folder.name


def new_folder(root: Path, name: str) -> Path:
    """An unused path for a new run: its preset's name and the time. Nothing is created."""
    plain = re.sub(r"[^0-9A-Za-z_-]+", "-", name).strip("-") or "run"
    first = root / f"{plain}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not first.exists():
        return first
    numbered = (first.with_name(f"{first.name}-{number}") for number in count(2))
    return next(path for path in numbered if not path.exists())
