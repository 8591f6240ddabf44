"""The run directory is the protocol: one process writes it, everybody else only reads. Torch-free.

    preset.yaml  run.json  events.jsonl  stop
    rounds/R/{samples.jsonl, adapter/, recipe.json, scores.jsonl}

Files that grow are appended a line at a time and flushed; all others are written beside and renamed. So a kill at
any moment loses at most the line being written, and what is there is whole.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil

from . import preset as presets
from .errors import UserError
from .preset import Preset

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors")
HEARTBEAT_SECONDS = 5.0


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


# ---- the folder's life


def create(preset: Preset, folder: Path) -> None:
    """A new run folder; refuses one that already holds anything."""
    if folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".preset.yaml.") for p in folder.iterdir())):
        raise UserError(f"{folder} is in use: it already holds " + ("a run; resume it, or name another folder"
                        if (folder / "preset.yaml").exists() else "other files; name another folder"))
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "preset.yaml", presets.to_yaml(preset))


def open_run(folder: Path) -> Preset:
    """The preset of an existing run."""
    if not (folder / "preset.yaml").is_file():
        raise UserError(f"{folder} is no run: it has no preset.yaml")
    return presets.load(folder / "preset.yaml")


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Be the one process that writes this run; refuses while another lives."""
    owner = alive(folder)
    if owner:
        raise UserError(f"{folder} is in use by process {owner}; stop it first: thinkswitch stop {folder}")
    with _locked(folder):
        yield from _owned(folder)


def _owned(folder: Path) -> Iterator[None]:
    (folder / "stop").unlink(missing_ok=True)
    for left in folder.rglob(".*.[0-9]*"):  # what a kill left of `write`
        left.unlink()
    for path in [folder / "events.jsonl", *folder.glob("rounds/*/*.jsonl")]:
        mend(path)
    me = psutil.Process()
    info = dict(pid=me.pid, started=me.create_time(), versions={p: version(p) for p in PACKAGES}, heartbeat=time.time())
    write(folder / "run.json", json.dumps(info))
    try:
        yield
    finally:
        (folder / "stop").unlink(missing_ok=True)
        write(folder / "run.json", json.dumps({**read_info(folder), "ended": time.time()}))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two that start in the same moment: the system lets one have the lock, and takes it back however that one ends."""
    with open(folder / ".lock", "w") as file:
        try:
            if os.name == "nt":
                import msvcrt
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder} is in use by another process that has just started") from None
        yield


def alive(folder: Path) -> int | None:
    """The pid of the process that runs this folder. A pid alone may have been given to another since: its start counts."""
    info = read_info(folder)
    if not info or "ended" in info or info["pid"] == os.getpid():
        return None
    try:
        process = psutil.Process(info["pid"])
        same = abs(process.create_time() - info["started"]) < 2 and process.status() != psutil.STATUS_ZOMBIE
        return process.pid if same else None
    except psutil.NoSuchProcess:
        return None


def read_info(folder: Path) -> dict:
    """run.json; empty where there is none, or where a foreign hand has damaged it (it is made anew at the next claim)."""
    try:
        info = json.loads((folder / "run.json").read_text())
        return info if {"pid", "started", "heartbeat"} <= info.keys() else {}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def beat(folder: Path) -> None:
    """Renew the heartbeat, when it is due."""
    info = read_info(folder)
    if info and time.time() - info["heartbeat"] > HEARTBEAT_SECONDS:
        write(folder / "run.json", json.dumps({**info, "heartbeat": time.time()}))


def request_stop(folder: Path) -> None:
    open_run(folder)
    if not alive(folder):
        raise UserError(f"{folder} is not running")
    (folder / "stop").touch()


def stop_requested(folder: Path) -> bool:
    return (folder / "stop").exists()


def state(folder: Path) -> str:
    """running | done | stopped | error | interrupted (killed, or the machine went down) | new."""
    if alive(folder):
        return "running"
    last = next(reversed(list(read_lines(folder / "events.jsonl"))), None)
    return "new" if last is None else last["phase"] if last["phase"] in ("done", "stopped", "error") else "interrupted"


def measured(events: Iterable[dict]) -> list[dict]:
    """The events that end a measurement; the others tell running figures."""
    return [e for e in events if e["phase"] == "measure" and e["step"] == e["total"]]


def round_dir(folder: Path, round: int) -> Path:
    return folder / "rounds" / str(round)


def rounds_done(folder: Path) -> int:
    """The last round whose checkpoints exist; 0 is the pair itself."""
    return max((int(p.parent.name) for p in folder.glob("rounds/*/recipe.json")), default=0)


# ---- files that grow


def append(path: Path, *rows: dict) -> None:
    """Whole lines or nothing: what a full disk cut short is taken back."""
    text = "".join(map(to_line, rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        mend(path)
        raise


def to_line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_lines(path: Path) -> Iterator[dict]:
    """Every whole line; a last one that is still being written is left out."""
    if path.is_file():
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n"):
                    try:
                        yield json.loads(line)
                    except json.JSONDecodeError:
                        raise UserError(f"{path} line {number} is damaged: {line[:60]!r}; take that line out") from None


def mend(path: Path) -> None:
    """Cut off a last line that a kill or a full disk left half written."""
    if path.is_file():
        with open(path, "rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


# ---- files that are whole or absent


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, that takes its name when it is full."""
    beside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)  # from a killed try
    beside.mkdir(parents=True)
    try:
        yield beside
        shutil.rmtree(path, ignore_errors=True)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
