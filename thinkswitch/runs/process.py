"""The process that writes a run: its lock, its heartbeat, how it is started and stopped."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil

from thinkswitch.errors import UserError
from thinkswitch.preset import PRESETS
from thinkswitch.runs.files import last_line, truncate_partial_line, write_atomic
from thinkswitch.runs.folder import open_run, read_info
from thinkswitch.runs.power import gpu_watts

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors")
HEARTBEAT_SECONDS = 5.0


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Be the one process that writes this run; refuses while another lives."""
    owner = running_pid(folder)
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
        truncate_partial_line(path)
    before, me = read_info(folder), psutil.Process()
    info = dict(pid=me.pid, started=me.create_time(), versions={p: version(p) for p in PACKAGES}, heartbeat=time.time(),
                seconds=before.get("seconds", 0.0), joules=before.get("joules", 0.0), command=before.get("command"))
    write_atomic(folder / "run.json", json.dumps(info))
    try:
        yield
    finally:
        heartbeat(folder, every=0)
        (folder / "stop").unlink(missing_ok=True)
        write_atomic(folder / "run.json", json.dumps({**read_info(folder), "ended": time.time()}))


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


def running_pid(folder: Path) -> int | None:
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


def heartbeat(folder: Path, every: float = HEARTBEAT_SECONDS) -> None:
    """Renew the heartbeat, when it is due, and add up what the run has taken so far: seconds, and joules of a GPU that tells."""
    info, now = read_info(folder), time.time()
    if info and now - info["heartbeat"] >= every:
        passed = max(0.0, now - info["heartbeat"])
        drawn = gpu_watts() if every else None
        write_atomic(folder / "run.json", json.dumps({**info, "heartbeat": now, "seconds": info.get("seconds", 0.0) + passed,
                                               "joules": info.get("joules", 0.0) + passed * (drawn or 0.0)}))


def request_stop(folder: Path) -> None:
    owner = running_pid(folder)
    if not owner:
        open_run(folder)
        raise UserError(f"{folder} is not running")
    write_atomic(folder / "stop", f"{owner}\n")


def state(folder: Path) -> str:
    """running | done | stopped | error | interrupted (killed, or the machine went down) | new | refused (never began: log.txt says why)."""
    if running_pid(folder):
        return "running"
    if not (folder / "preset.yaml").is_file():
        return "refused"
    last = last_line(folder / "events.jsonl")
    return "new" if last is None else last["phase"] if last["phase"] in ("done", "stopped", "error") else "interrupted"


def start(arguments: list[str], folder: Path) -> int:
    """`python -m thinkswitch ARGUMENTS` on its own: it outlives us. What it prints goes to log.txt; returns its pid.

    run.json names the process at once, so everybody sees the run before torch has been imported.
    """
    if running_pid(folder):
        raise UserError(f"{folder} is in use by process {running_pid(folder)}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stop").unlink(missing_ok=True)
    threads = str(max(1, (os.cpu_count() or 2) - 1))  # one core is left for the page
    env = {"OMP_NUM_THREADS": threads, "COLUMNS": "160", **os.environ, "PYTHONUNBUFFERED": "1",
           "PYTHONPATH": os.pathsep.join(filter(None, [str(PRESETS.parent), os.environ.get("PYTHONPATH")]))}
    apart = dict(creationflags=subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS) if os.name == "nt" else dict(start_new_session=True)
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        child = subprocess.Popen([sys.executable, "-m", "thinkswitch", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, **apart)
    threading.Thread(target=child.wait, daemon=True).start()  # reaped when it ends
    process = psutil.Process(child.pid)
    if "pid" not in (info := read_info(folder)) or info["pid"] != child.pid:
        totals = {k: info[k] for k in ("seconds", "joules") if k in info}
        command = info.get("command") or ["python", "-m", "thinkswitch", *arguments]
        write_atomic(folder / "run.json", json.dumps(dict(pid=child.pid, started=process.create_time(), heartbeat=time.time(), command=command, **totals)))
    return child.pid
