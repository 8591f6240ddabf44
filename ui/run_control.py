"""Runs as the page sees them: listing, starting, stopping and following them."""

import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, changed_settings, load_preset

PAIR = "Round 0"  # the pair as it came, without any run
RUNNING_SECONDS = 0.5  # how long the answer to "which run is running?" is believed
LISTING_SECONDS = 0.9  # and the listing of all runs
FOLLOWED_RUNS = 8  # runs whose events stay in memory


@dataclass(frozen=True)
class Listing:
    """What the drop-downs offer: rounds of the pair, and runs as (label, name)."""

    choices: list[str]
    runs: list[tuple[str, str]]


class RunControl:
    """One run at a time: two would share one machine's memory. All pages look through this object."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._running: tuple[float, Path | None] | None = None  # (looked up when, the run); None = never
        self._running_lock = threading.Lock()
        self._listing: tuple[float, object, Listing] | None = None  # (looked up when, for what, the listing)
        self._listing_lock = threading.Lock()
        self._followers: OrderedDict[Path, runs.Follower] = OrderedDict()  # the last used one is the last
        self._followers_lock = threading.Lock()

    # ---- starting and stopping

    def running(self) -> Path | None:
        """The run that is going on.

        One look at a time: a slower one would put its older answer over a newer one, and a page that draws
        it then is not told again.
        """
        with self._running_lock:
            now = time.monotonic()
            found = self._running
            if found is None or now - found[0] > RUNNING_SECONDS:
                alive = (folder for folder in runs.runs_in(runs.ROOT) if runs.running_pid(folder))
                found = self._running = (now, next(alive, None))
            return found[1]

    def start(self, preset: Preset, source: str) -> tuple[Path, list[str]]:
        """Start a loop as a child process; returns its folder and the command."""
        with self._starting:
            self._refuse_a_second()
            folder = runs.new_folder(runs.ROOT, preset.name)
            command = ["run", source, "--out", str(folder)]
            changes = changed_settings(load_preset(source), preset)
            if changes:
                command += ["--set", *changes]
            runs.start(command, folder)
            self._running = None
        return folder, command

    def resume(self, folder: Path) -> None:
        with self._starting:
            self._refuse_a_second()
            runs.open_run(folder)
            if runs.state(folder) == "done":
                raise UserError(f"{folder.name} is done; there is nothing to resume")
            runs.start(["resume", str(folder)], folder)
            self._running = None

    def stop(self, folder: Path) -> None:
        runs.request_stop(folder)

    def rename(self, folder: Path, name: str) -> Path:
        with self._starting:
            renamed = runs.rename(folder, name)
            self._forget(folder)
        return renamed

    def delete(self, folder: Path) -> None:
        with self._starting:
            runs.delete(folder)
            self._forget(folder)

    def _forget(self, folder: Path) -> None:
        self._running = None
        with self._listing_lock:
            self._listing = None
        with self._followers_lock:
            self._followers.pop(folder, None)

    def _refuse_a_second(self) -> None:
        self._running = None
        running = self.running()
        if running:
            raise UserError(f"{running.name} is running; stop it first, or wait until it is done")

    # ---- looking

    def listing(self, pair: tuple[str, str]) -> Listing:
        """Rounds of `pair` and all runs; looked up about once a second for all pages together."""
        with self._listing_lock:
            now, folders = time.monotonic(), runs.runs_in(runs.ROOT)
            wanted = (pair, folders)
            stale = self._listing is None or now - self._listing[0] > LISTING_SECONDS
            if self._listing is None or stale or self._listing[1] != wanted:
                labels = [(label_of(folder), folder.name) for folder in folders]
                self._listing = (now, wanted, Listing(self.choices(pair), labels))
            return self._listing[2]

    def choices(self, pair: tuple[str, str]) -> list[str]:
        """`PAIR`, then every finished round of every run of this pair, newest run first."""
        found = [PAIR]
        for folder in runs.runs_in(runs.ROOT):
            stamp = stamp_of(folder / "preset.yaml")
            if stamp and pair_of(folder, stamp) == pair:
                found += [f"{folder.name} · round {n}" for n in range(runs.rounds_done(folder), 0, -1)]
        return found

    def run_of(self, choice: str | None) -> tuple[Path | None, int]:
        """(run folder, round) of a choice. Only listed runs are found: the text comes from outside."""
        if not choice or choice == PAIR:
            return None, 0
        name, _, number = choice.rpartition(" · round ")
        folder = next((folder for folder in runs.runs_in(runs.ROOT) if folder.name == name), None)
        if folder is None or not re.fullmatch(r"[0-9]{1,4}", number):
            raise UserError(f"there is no {choice!r} any more; choose another round")
        return folder, int(number)

    def events(self, folder: Path) -> list[dict]:
        """All events of a run so far; only what is new is read, for the runs that were looked at last."""
        with self._followers_lock:
            if folder not in self._followers:
                self._followers[folder] = runs.Follower(folder / "events.jsonl", runs.event_problem)
            follower = self._followers[folder]
            self._followers.move_to_end(folder)
            while len(self._followers) > FOLLOWED_RUNS:
                self._followers.popitem(last=False)
        return follower.read()


Stamp = tuple[int, int]  # of a file: when it was last written, and its size


def stamp_of(path: Path) -> Stamp | None:
    """None where there is no such file; another visitor may have deleted it just now, or made it a link."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def stamps() -> list[tuple[Stamp | None, Stamp | None]]:
    """Of every run: when it last said something, and when its process was last alive."""
    return [
        (stamp_of(folder / "events.jsonl"), stamp_of(folder / "run.json"))
        for folder in runs.runs_in(runs.ROOT)
    ]


@lru_cache(maxsize=1024)
def pair_of(folder: Path, stamp: Stamp) -> tuple[str, str] | None:
    """The checkpoints of a run; None where its preset is damaged: then only Loop shows it."""
    try:
        preset = runs.open_run(folder)
    except UserError:
        return None
    return preset.instruct, preset.thinking


def state_of(folder: Path) -> str:
    try:
        return runs.state(folder)
    except UserError:
        return "damaged"


def label_of(folder: Path) -> str:
    """A run in the listing: its name, state, last result and date."""
    state = state_of(folder)
    parts = [f"{folder.name} – {state}"]
    events = stamp_of(folder / "events.jsonl")
    if events and state not in ("running", "damaged"):  # a running one would be read anew every second
        parts += result_of(folder, events)
    preset = stamp_of(folder / "preset.yaml")
    if preset:
        parts.append(time.strftime("%Y-%m-%d", time.localtime(preset[0] / 1e9)))
    return " · ".join(parts)


@lru_cache(maxsize=1024)
def result_of(folder: Path, stamp: Stamp) -> list[str]:
    """What the instruct checkpoint could before the first round and after the last one."""
    try:
        measured = runs.measured(runs.read_events(folder))
    except UserError:
        return []
    scores = [100 * event["accuracy"] for event in measured if event["checkpoint"] == "instruct"]
    if len(scores) < 2:
        return []
    return [f"instruct {scores[0]:.1f} → {scores[-1]:.1f} %"]


def newest() -> str | None:
    """The name of the newest run."""
    found = runs.runs_in(runs.ROOT)
    return found[0].name if found else None


def folder_of(name: str | None) -> Path:
    """The folder of a listed run. The name comes from outside: it must not reach other folders."""
    found = next((folder for folder in runs.runs_in(runs.ROOT) if folder.name == name), None)
    if found is None:
        raise UserError(
            f"there is no run {name!r}; choose another one" if name else "start or choose a run first"
        )
    return found
