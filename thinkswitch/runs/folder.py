"""The run directory is the protocol: one process writes it, everybody else only reads. Torch-free.

    preset.yaml  run.json  events.jsonl  stop  log.txt (what the process printed, where the page started it)
    rounds/R/{samples.jsonl, adapter/, recipe.json, scores.jsonl}

Files that grow are appended a line at a time and flushed; all others are written beside and renamed. So a kill at
any moment loses at most the line being written, and what is there is whole.
"""

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, load_preset, to_yaml
from thinkswitch.runs.files import write_atomic

ROOT = Path("runs")  # where runs go that name no folder
STARTED = ("run.json", "log.txt", "stop")  # what may wait for the process that `start` starts


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
        return dict(time=round(self.time, 3), round=self.round, phase=self.phase, step=self.step, total=self.total, **self.data)


def create(preset: Preset, folder: Path) -> None:
    """A new run folder; refuses one that already holds anything."""
    def stranger(p: Path) -> bool:
        return p.name not in STARTED and not p.name.startswith(".preset.yaml.")

    if folder.exists() and (not folder.is_dir() or any(map(stranger, folder.iterdir()))):
        raise UserError(f"{folder} is in use: it already holds " + ("a run; resume it, or name another folder"
                        if (folder / "preset.yaml").exists() else "other files; name another folder"))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "preset.yaml", to_yaml(preset))


def open_run(folder: Path) -> Preset:
    """The preset of an existing run."""
    if not (folder / "preset.yaml").is_file():
        raise UserError(f"{folder} is no run: it has no preset.yaml")
    return load_preset(folder / "preset.yaml")


def read_info(folder: Path) -> dict:
    """run.json; empty where there is none, or where a foreign hand has damaged it (it is made anew at the next claim)."""
    try:
        info = json.loads((folder / "run.json").read_text())
        return info if all(isinstance(info[key], (int, float)) for key in ("pid", "started", "heartbeat")) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def stop_requested(folder: Path) -> bool:
    return (folder / "stop").exists()


def measured(events: Iterable[dict]) -> list[dict]:
    """The events that end a measurement; the others tell running figures."""
    return [e for e in events if e["phase"] == "measure" and e["step"] == e["total"]]


def round_dir(folder: Path, round: int) -> Path:
    return folder / "rounds" / str(round)


def rounds_done(folder: Path) -> int:
    """The last round whose checkpoints exist; 0 is the pair itself."""
    return max((int(p.parent.name) for p in folder.glob("rounds/*/recipe.json") if p.parent.name.isdecimal()), default=0)


def runs_in(root: Path) -> list[Path]:
    """Every run below a folder, newest first: by its preset.yaml, which is written once."""
    found = [p for p in root.iterdir() if (p / "run.json").is_file() or (p / "preset.yaml").is_file()] if root.is_dir() else []
    return sorted(found, key=lambda p: (_began(p), p.name), reverse=True)


def _began(folder: Path) -> float:
    path = folder / "preset.yaml"
    return (path if path.is_file() else folder).stat().st_mtime


def new_folder(root: Path, name: str) -> Path:
    """A folder for a new run: its preset's name and the time."""
    first = root / f"{re.sub(r'[^0-9A-Za-z_-]+', '-', name).strip('-') or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
    return next(f for f in (first, *(first.with_name(f"{first.name}-{n}") for n in range(2, 1000))) if not f.exists())
