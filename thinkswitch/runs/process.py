"""The process that writes a run: its lock, its record in run.json, how it is started.

The lock on `.lock` says whether a run is running: the system releases it however its owner ends. A pid alone
does not: it may have been given to another process, and every container has its own.
"""

import errno
import json
import logging
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import filelock
import psutil

from thinkswitch import __version__, json_text
from thinkswitch.errors import UserError
from thinkswitch.runs.clock import AwakeClock
from thinkswitch.runs.files import open_to_read, remove_temporary_files, truncate_partial_line, write_atomic
from thinkswitch.runs.lines import info_problem
from thinkswitch.runs.power import gpu_watts

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors")
HEARTBEAT_SECONDS = 5.0
LOST_SECONDS = 60.0  # without a heartbeat a run on another machine counts as ended, where there are no locks
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
LOCK_SECONDS = 0.5  # longer than anybody who only asks holds the lock

logger = logging.getLogger(__name__)


# ---- is it running?


def read_info(folder: Path) -> dict:
    """run.json: pid, started, heartbeat (Unix times), seconds, joules, command, versions, ended.

    Empty if it is missing or damaged; the next process that claims the run writes it anew.
    """
    try:
        path = folder / "run.json"
        if not path.is_file():
            return {}
        with open_to_read(path) as file:
            info = json_text.parse(file.read())
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) and not info_problem(info) else {}


def read_origin(folder: Path) -> dict:
    """What a run keeps from its beginning: {"commits": {Hub id: commit}, "date": "2026-11-29"}.

    What is missing or damaged is left out.
    """
    origin: Any = read_info(folder).get("origin")
    kept: dict = {}
    with suppress(AttributeError, TypeError, KeyError):
        kept["commits"] = {str(name): str(commit) for name, commit in origin["commits"].items()}
    with suppress(TypeError, ValueError, KeyError):
        kept["date"] = date.fromisoformat(origin["date"]).isoformat()
    return kept


def running_pid(folder: Path) -> int | None:
    """The pid of the process that runs this folder, or None. Changes nothing."""
    info = read_info(folder)
    if not info or "ended" in info:
        return None
    if "versions" not in info:  # written by `start`: its process has not claimed the run yet
        return info["pid"] if _is_starting(info) else None
    if not info.get("locked", True):
        return info["pid"] if _is_alive(info) else None
    return info["pid"] if _is_locked(folder) else None


def _is_starting(info: dict) -> bool:
    """Whether the process that `start` has started is still importing torch or opening its pair.

    A process asks this about itself, too; it is then not in its own way. (Its parent may stand for it: the
    python.exe of a virtual environment on Windows only launches the real one.)
    """
    return info["pid"] not in (os.getpid(), os.getppid()) and _is_same_process(info)


def _is_alive(info: dict) -> bool:
    """Whether a run's owner lives, without a lock: its process here, its heartbeat on another machine."""
    if info.get("host") == platform.node():
        return _is_same_process(info)
    return abs(time.time() - info["heartbeat"]) < LOST_SECONDS


def _is_same_process(info: dict) -> bool:
    """Whether the process that run.json names lives; its pid alone may have been given to another one."""
    try:
        process = psutil.Process(info["pid"])
        same = abs(process.create_time() - info["started"]) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


_asking = threading.Lock()  # two threads that ask at once would take each other for the owner


def _is_locked(folder: Path) -> bool:
    """Whether the run's lock is held. The page asks every second for every run: it takes microseconds."""
    with _asking:
        try:
            descriptor = _open_existing(folder / ".lock")
        except OSError:
            return False  # no such file: nobody has claimed the run
        try:
            if not filelock.lock_descriptor(descriptor, blocking=False):
                return True
            filelock.unlock_descriptor(descriptor)
            return False
        except OSError:
            return False  # this file system has no locks, so nobody could claim a run here
        finally:
            os.close(descriptor)


def _open_existing(path: Path) -> int:
    """A descriptor of a file, writable if possible: NFS locks no others."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError:
        return os.open(path, os.O_RDONLY)


# ---- the owner


@contextmanager
def claim(folder: Path, origin: dict | None = None, engine: dict | None = None) -> Iterator[None]:
    """Be the one process that writes this run. Raises UserError while another one does.

    `origin`: what the run keeps from its beginning; see `read_origin`. `engine`: what labels, if not torch.
    """
    owner = running_pid(folder)
    if owner:
        raise UserError(f"{folder} is in use by process {owner}; stop it first: thinkswitch stop {folder}")
    with _locked(folder) as locked:
        if not _stop_is_for_me(folder):
            (folder / "stop").unlink(missing_ok=True)
        remove_temporary_files(folder)
        for path in (folder / "events.jsonl", *folder.glob("rounds/*/*.jsonl")):
            truncate_partial_line(path)
        info = _new_info(read_info(folder), locked) | {"origin": origin or read_origin(folder)}
        if engine:
            info["engine"] = engine
        heartbeat = Heartbeat(folder, info, AwakeClock(), gpu_watts)
        heartbeat.start()
        logger.debug("process %d writes %s", os.getpid(), folder)
        try:
            yield
        finally:
            heartbeat.end()
            (folder / "stop").unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the run's lock; False where the file system has none (Lustre, some NFS and FUSE)."""
    lock = filelock.FileLock(
        folder / ".lock",
        timeout=LOCK_SECONDS,
        poll_interval=0.01,
        thread_local=False,  # the loop is a generator, which another thread may close
        fallback_to_soft=False,  # a lock that a kill leaves behind is none
    )
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"{folder} is in use by another process; wait until it has ended") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("%s is on a file system without file locks; start this run only once", folder)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _stop_is_for_me(folder: Path) -> bool:
    """Whether the stop file names this process, or the launcher that Windows puts before it."""
    try:
        asked = (folder / "stop").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return False
    return asked in (str(os.getpid()), str(os.getppid()))


def _new_info(before: dict, locked: bool) -> dict:
    """run.json of a process that begins; seconds, joules and the first command carry over from `before`."""
    me = psutil.Process()
    return {
        "pid": me.pid,
        "host": platform.node(),
        "locked": locked,
        "started": me.create_time(),
        "versions": {"thinkswitch": __version__} | {name: _version(name) for name in PACKAGES},
        "heartbeat": time.time(),
        "seconds": before.get("seconds", 0.0),
        "joules": before.get("joules", 0.0),
        "command": before.get("command"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # bitsandbytes, say, is optional


class Heartbeat:
    """Keeps run.json current: when the process last worked, its seconds of work and its joules so far.

    It works in a thread, since nvidia-smi may take seconds. Its clock stands still while a laptop sleeps.
    """

    def __init__(
        self,
        folder: Path,
        info: dict,
        clock: Callable[[], float],
        read_watts: Callable[[], float | None],
    ) -> None:
        self.folder = folder
        self.info = info
        self._clock = clock
        self._read_watts = read_watts
        self._watts: float | None = None  # as last read
        self._counted_until = clock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write run.json, which must succeed, then keep it current."""
        write_atomic(self.folder / "run.json", json.dumps(self.info))
        self._thread.start()

    def end(self) -> None:
        """Count the last interval, which is shorter, at the power that was last read; record the end."""
        self._ended.set()
        self._thread.join()
        self.info["ended"] = time.time()
        self._count()

    def beat(self) -> None:
        """Count the interval that ends now, at the power drawn now."""
        self._watts = self._read_watts()
        self._count()

    def _run(self) -> None:
        self._watts = self._read_watts()
        while not self._ended.wait(HEARTBEAT_SECONDS):
            self.beat()

    def _count(self) -> None:
        now = self._clock()
        passed = now - self._counted_until
        self._counted_until = now
        self.info["heartbeat"] = time.time()
        self.info["seconds"] += passed
        self.info["joules"] += passed * (self._watts or 0.0)
        try:
            write_atomic(self.folder / "run.json", json.dumps(self.info))
        except OSError as error:  # a full disk ends the run where results are written, not here
            logger.warning("run.json could not be renewed: %s", error)


# ---- starting one


def start(arguments: list[str], folder: Path) -> int:
    """Start `python -m thinkswitch ARGUMENTS` as a process that outlives this one; returns its pid.

    Its output is appended to log.txt. run.json names it at once, so that everybody sees the run while torch
    is being imported.
    """
    owner = running_pid(folder)
    if owner:
        raise UserError(f"{folder} is in use by process {owner}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stop").unlink(missing_ok=True)
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "thinkswitch", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_child_environment(),
            **_detached(),
        )
    started = psutil.Process(child.pid).create_time()  # before a thread reaps a child that ends at once
    threading.Thread(target=child.wait, daemon=True).start()
    info = read_info(folder)
    if info.get("pid") != child.pid:  # else it has been quicker and has claimed the run
        kept = {key: info[key] for key in ("seconds", "joules", "origin") if key in info}
        command = info.get("command") or ["python", "-m", "thinkswitch", *arguments]
        record = {"pid": child.pid, "started": started, "heartbeat": time.time(), "command": command, **kept}
        write_atomic(folder / "run.json", json.dumps(record))
    return child.pid


def _child_environment() -> dict[str, str]:
    threads = max(1, usable_cpus() - 1)  # one is left for the page
    defaults = {"OMP_NUM_THREADS": str(threads), "COLUMNS": "160"}
    return {**defaults, **os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def _detached() -> dict:
    """Arguments of Popen for a child that neither a closed terminal nor Ctrl-C ends."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}
    return {"start_new_session": True}


def usable_cpus() -> int:
    """How many CPUs this process may run on: fewer than there are under taskset or a batch scheduler."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
