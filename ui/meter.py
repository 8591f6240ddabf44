"""How busy this machine is: processor, memory and graphics card, read once for all pages."""

import atexit
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import psutil

from thinkswitch.catalogue import Machine
from thinkswitch.runs.power import TIMEOUT_SECONDS, visible_devices
from ui.download import without_window

SECONDS = 2.0  # how long a reading is believed
QUERY = ["--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
REPEATED = "--loop=2"  # seconds
MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """A graphics card: load in per cent, memory in bytes."""

    load: float
    used: float
    total: float


@dataclass(frozen=True)
class Reading:
    """What the page shows. `cpu` in per cent of all cores, memory in bytes."""

    cpu: float
    used: float
    total: float
    gpu: Gpu | None = None


def percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


class Meter:
    """Reads every few seconds at most, however many pages ask, and never waits for a graphics card."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._reading: Reading | None = None
        self._gpu: Gpu | None = None
        self._gpu_asked = False
        psutil.cpu_percent()  # the next call says what happened since

    def read(self) -> Reading:
        with self._lock:
            if not self._gpu_asked:
                self._gpu_asked = True
                self._follow_gpu()
            now = time.monotonic()
            if self._reading is None or now - self._read_at >= SECONDS:
                memory = psutil.virtual_memory()
                used = float(memory.total - memory.available)
                self._reading = Reading(psutil.cpu_percent(), used, float(memory.total), self._gpu)
                self._read_at = now
            return self._reading

    def _follow_gpu(self) -> None:
        """One nvidia-smi that goes on printing: a new one every second would cost a twentieth of a core."""
        devices, program = visible_devices(), shutil.which("nvidia-smi")
        if not devices or program is None:
            return
        command = [program, f"--id={devices[0]}", *QUERY, REPEATED]
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                errors="replace",
                **without_window(),
            )
        except OSError:  # a driver that is half installed
            return
        atexit.register(child.kill)
        threading.Thread(target=self._take_gpu, args=(child.stdout,), daemon=True).start()

    def _take_gpu(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._gpu = gpu_of(line) or self._gpu
        self._gpu = None  # it has ended


def gpu_of(line: str) -> Gpu | None:
    """A line of nvidia-smi; None for one that says something else. Some laptops report no load."""
    cells = [cell.strip() for cell in line.split(",")]
    try:
        load, used, total = (float(cell) if cell[:1].isdigit() else 0.0 for cell in cells)
    except ValueError:
        return None
    return Gpu(load, used * MIB, total * MIB) if total else None


def pair_bytes(device: str, weights: float) -> float:
    """Memory in use where a pair computes: what torch holds of a card, or this process of the memory."""
    torch = sys.modules.get("torch")
    if device == "cuda" and torch is not None:
        return float(torch.cuda.memory_allocated())
    if device == "cpu":
        return float(psutil.Process(os.getpid()).memory_info().rss)
    return weights


@cache
def machine() -> Machine:
    """What is built into this machine. nvidia-smi is asked once."""
    return Machine(psutil.virtual_memory().total, gpu_total())


def gpu_total() -> float | None:
    devices, program = visible_devices(), shutil.which("nvidia-smi")
    if not devices or program is None:
        return None
    try:
        done = subprocess.run(
            [program, f"--id={devices[0]}", *QUERY],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = gpu_of(done.stdout.splitlines()[0]) if done.stdout.strip() else None
    return found.total if found else None
