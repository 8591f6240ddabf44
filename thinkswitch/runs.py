"""The run directory is the protocol: one process writes it, everybody else only reads. Torch-free.

    preset.yaml  run.json  events.jsonl  stop  log.txt (what the process printed, where the page started it)
    rounds/R/{samples.jsonl, adapter/, recipe.json, scores.jsonl}

Files that grow are appended a line at a time and flushed; all others are written beside and renamed. So a kill at
any moment loses at most the line being written, and what is there is whole.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
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


# ---- the folder's life


def create(preset: Preset, folder: Path) -> None:
    """A new run folder; refuses one that already holds anything."""
    def stranger(p: Path) -> bool:
        return p.name not in STARTED and not p.name.startswith(".preset.yaml.")

    if folder.exists() and (not folder.is_dir() or any(map(stranger, folder.iterdir()))):
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
    if not _meant_for_me(folder):
        (folder / "stop").unlink(missing_ok=True)
    for left in folder.rglob(".*.[0-9]*"):  # what a kill left of `write`
        left.unlink()
    for path in [folder / "events.jsonl", *folder.glob("rounds/*/*.jsonl")]:
        mend(path)
    before, me = read_info(folder), psutil.Process()
    info = dict(pid=me.pid, started=me.create_time(), versions={p: version(p) for p in PACKAGES}, heartbeat=time.time(),
                seconds=before.get("seconds", 0.0), joules=before.get("joules", 0.0), command=before.get("command"))
    write(folder / "run.json", json.dumps(info))
    try:
        yield
    finally:
        beat(folder, every=0)
        (folder / "stop").unlink(missing_ok=True)
        write(folder / "run.json", json.dumps({**read_info(folder), "ended": time.time()}))


def _meant_for_me(folder: Path) -> bool:
    """Whether the stop file asks for this process (or the launcher that a Windows venv puts before it)."""
    try:
        return (folder / "stop").read_text().strip() in (str(os.getpid()), str(os.getppid()))
    except OSError:
        return False


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
    if not info or "ended" in info or info["pid"] in (os.getpid(), os.getppid()):  # a Windows venv's launcher is our parent
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
        return info if all(isinstance(info[key], (int, float)) for key in ("pid", "started", "heartbeat")) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def beat(folder: Path, every: float = HEARTBEAT_SECONDS) -> None:
    """Renew the heartbeat, when it is due, and add up what the run has taken so far: seconds, and joules of a GPU that tells."""
    info, now = read_info(folder), time.time()
    if info and now - info["heartbeat"] >= every:
        passed = max(0.0, now - info["heartbeat"])
        drawn = gpu_watts() if every else None
        write(folder / "run.json", json.dumps({**info, "heartbeat": now, "seconds": info.get("seconds", 0.0) + passed,
                                               "joules": info.get("joules", 0.0) + passed * (drawn or 0.0)}))


def gpu_watts() -> float | None:
    """What the NVIDIA cards draw now, together; None where there is none, or none that tells."""
    if not shutil.which("nvidia-smi"):
        return None
    try:
        said = subprocess.run(["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5)
        return sum(map(float, said.stdout.split())) if said.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):  # "[N/A]" on some laptops
        return None


def request_stop(folder: Path) -> None:
    owner = alive(folder)
    if not owner:
        open_run(folder)
        raise UserError(f"{folder} is not running")
    write(folder / "stop", f"{owner}\n")


def stop_requested(folder: Path) -> bool:
    return (folder / "stop").exists()


def state(folder: Path) -> str:
    """running | done | stopped | error | interrupted (killed, or the machine went down) | new | refused (never began: log.txt says why)."""
    if alive(folder):
        return "running"
    if not (folder / "preset.yaml").is_file():
        return "refused"
    last = last_line(folder / "events.jsonl")
    return "new" if last is None else last["phase"] if last["phase"] in ("done", "stopped", "error") else "interrupted"


def measured(events: Iterable[dict]) -> list[dict]:
    """The events that end a measurement; the others tell running figures."""
    return [e for e in events if e["phase"] == "measure" and e["step"] == e["total"]]


def round_dir(folder: Path, round: int) -> Path:
    return folder / "rounds" / str(round)


def rounds_done(folder: Path) -> int:
    """The last round whose checkpoints exist; 0 is the pair itself."""
    return max((int(p.parent.name) for p in folder.glob("rounds/*/recipe.json") if p.parent.name.isdecimal()), default=0)


# ---- a run as a child process


def start(arguments: list[str], folder: Path) -> int:
    """`python -m thinkswitch ARGUMENTS` on its own: it outlives us. What it prints goes to log.txt; returns its pid.

    run.json names the process at once, so everybody sees the run before torch has been imported.
    """
    if alive(folder):
        raise UserError(f"{folder} is in use by process {alive(folder)}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stop").unlink(missing_ok=True)
    threads = str(max(1, (os.cpu_count() or 2) - 1))  # one core is left for the page
    env = {"OMP_NUM_THREADS": threads, "COLUMNS": "160", **os.environ, "PYTHONUNBUFFERED": "1",
           "PYTHONPATH": os.pathsep.join(filter(None, [str(presets.PRESETS.parent), os.environ.get("PYTHONPATH")]))}
    apart = dict(creationflags=subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS) if os.name == "nt" else dict(start_new_session=True)
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        child = subprocess.Popen([sys.executable, "-m", "thinkswitch", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, **apart)
    threading.Thread(target=child.wait, daemon=True).start()  # reaped when it ends
    process = psutil.Process(child.pid)
    if "pid" not in (info := read_info(folder)) or info["pid"] != child.pid:
        totals = {k: info[k] for k in ("seconds", "joules") if k in info}
        command = info.get("command") or ["python", "-m", "thinkswitch", *arguments]
        write(folder / "run.json", json.dumps(dict(pid=child.pid, started=process.create_time(), heartbeat=time.time(), command=command, **totals)))
    return child.pid


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


# ---- files that grow


class Follower:
    """Reads a file of lines as it grows: `lines` holds all so far, and only what is new is read. Safe between threads."""

    def __init__(self, path: Path):
        self.path, self.lines = path, []
        self._at, self._identity, self._lock = 0, None, threading.Lock()

    def read(self) -> list[dict]:
        with self._lock:
            try:
                status = self.path.stat()
            except FileNotFoundError:
                return []
            if status.st_size < self._at or self._identity not in (None, status.st_ino):  # replaced: from its beginning
                self.lines, self._at = [], 0
            self._identity = status.st_ino
            if status.st_size > self._at:
                with open(self.path, "rb") as file:
                    file.seek(self._at)
                    new = file.read()
                whole = new[: new.rfind(b"\n") + 1]
                before, self.lines, self._at = (self.lines, self._at), [], 0  # what is damaged is read anew, it may be mended in place
                parsed = [_parsed(line, self.path, n) for n, line in enumerate(whole.decode("utf-8", "replace").split("\n")[:-1], len(before[0]) + 1)]
                self.lines, self._at = [*before[0], *parsed], before[1] + len(whole)
            return self.lines


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
                    yield _parsed(line, path, number)


def last_line(path: Path, most: int = 1 << 16) -> dict | None:
    """The last whole line, read from the end: pages ask for it every second."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - most))
        lines = file.read().split(b"\n")[:-1]
    return _parsed(lines[-1].decode(), path, 0) if lines else None


def _parsed(line: str, path: Path, number: int) -> dict:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError
        return row
    except ValueError:
        raise UserError(f"{path} {f'line {number}' if number else 'last line'} is damaged: {line[:60]!r}; take that line out") from None


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
