"""The download of a pair's weights in a process of its own, which can be ended at any moment.

A thread could not: the Hub's client goes on with threads of its own until its files are here.
"""

import atexit
import functools
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from thinkswitch.errors import UserError
from thinkswitch.preset import Preset

if TYPE_CHECKING:
    from thinkswitch.weights.hub import Missing

LOOK_SECONDS = 0.25
END_SECONDS = 5.0  # how long a killed process may take to let go of its files
# What decides, beside the two names, whether a pair is accepted.
PROMPTING = (
    "think_tags",
    "instruct_template_args",
    "thinking_template_args",
    "instruct_system",
    "thinking_system",
)

logger = logging.getLogger(__name__)


class Cancelled(UserError):
    """A person has ended the download."""


class Download:
    """Downloads once; `cancel` ends it from any thread."""

    def __init__(self, command: list[str], missing: list["Missing"]) -> None:
        self.names = " and ".join(one.name.split("/")[-1] for one in missing)
        self.size = sum(one.nbytes for one in missing)
        self._command = command
        self._missing = missing
        self._left_by_others = self._unfinished()
        self._cancelled = threading.Event()

    def run(self, report: Callable[[float], None]) -> None:
        """Return when everything is here; `report` gets how many bytes have arrived, several times a second.

        Raises Cancelled, or a UserError with the child's own sentence.
        """
        with tempfile.TemporaryFile() as stderr:
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, "PYTHONUTF8": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
                **without_window(),
            )
            end_it = functools.partial(end, child)
            atexit.register(end_it)
            try:
                while child.poll() is None and not self._cancelled.wait(LOOK_SECONDS):
                    report(self.arrived())
            finally:
                end(child)
                atexit.unregister(end_it)
            if self._cancelled.is_set():
                raise Cancelled("Download cancelled; files that had arrived whole are kept")
            if child.returncode:
                stderr.seek(0)
                raise failure(self.names, child.returncode, stderr.read().decode("utf-8", "replace"))

    def cancel(self) -> None:
        self._cancelled.set()

    def arrived(self) -> float:
        """How many of the missing bytes are here, in whole and in unfinished files."""
        files = [one.folder / file for one in self._missing for file in one.files]
        return min(self.size, sum(map(size_of, [*files, *(self._unfinished() - self._left_by_others)])))

    def _unfinished(self) -> set[Path]:
        """Files that are being downloaded, by this or another process, or were when it ended."""
        blobs = {one.folder.parents[1] / "blobs" for one in self._missing}
        return {file for folder in blobs for file in folder.glob("*.incomplete")}


def fetch_command(preset: Preset) -> list[str]:
    """`thinkswitch fetch` of a preset's pair, with the settings by which the pair was accepted."""
    default = Preset()
    changed = [key for key in PROMPTING if getattr(preset, key) != getattr(default, key)]
    settings = [f"{key}={getattr(preset, key)}" for key in changed]
    flags = ["--set", *settings] if settings else []
    return [sys.executable, "-m", "thinkswitch", "fetch", preset.instruct, preset.thinking, *flags]


def without_window() -> dict:
    """Arguments of Popen for a child that opens no console on Windows."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW}
    return {}


def end(child: subprocess.Popen) -> None:
    """Kill a download with its own children, and delete the halves of files: nobody goes on with them."""
    if child.poll() is not None:
        return
    family, halves = [], []
    with suppress(psutil.Error):
        process = psutil.Process(child.pid)
        # on Windows the python.exe of a virtual environment only launches the one that works
        family = process.children(recursive=True)
        halves = [half for one in [process, *family] for half in open_halves(one)]
    for one in family:
        with suppress(psutil.Error):
            one.kill()
    child.kill()
    child.wait()
    psutil.wait_procs(family, END_SECONDS)
    for half in halves:
        with suppress(OSError):
            half.unlink()


def open_halves(process: psutil.Process) -> list[Path]:
    """The unfinished files that a process writes. Others of their kind may belong to another download."""
    with suppress(psutil.Error):
        return [Path(file.path) for file in process.open_files() if file.path.endswith(".incomplete")]
    return []


def failure(names: str, exit_code: int, stderr: str) -> UserError:
    """The sentence with which the child has ended; what it printed besides goes to the log."""
    said = [line for line in stderr.splitlines() if line.startswith("error: ")]
    if said:
        return UserError(said[-1].removeprefix("error: "))
    logger.error("the download of %s ended with exit code %d:\n%s", names, exit_code, stderr)
    return UserError(f"the download of {names} ended with exit code {exit_code}; the app's log says more")


def size_of(file: Path) -> int:
    """0 for a file that is not there, or was renamed a moment ago."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
