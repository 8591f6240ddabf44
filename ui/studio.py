"""Studio: what all pages share. One pair, one model that takes turns, tasks, and the runs on disk."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.recipe import Recipe, Schedule
from ui import decoding
from ui.decoding import DecodeQueue, DecodeUpdate, QueuedDecode, Waiting, read_in_turns, rows_that_fit
from ui.live_rounds import LiveRounds
from ui.meter import Meter
from ui.pair_loader import Loaded, PairLoader
from ui.run_control import RunControl
from ui.scheduling import BackgroundTask, FairLock
from ui.sessions import Owners, Sessions
from ui.sweeps import Sweep

if TYPE_CHECKING:
    from thinkswitch.generate import Chunk, Row
    from thinkswitch.rounds import Round

SMALL_PAIR = 50_000_000  # parameters; smaller pairs gain nothing by a second thread
DEMO_TOKENS = 512  # the most new tokens of an answer in a demo
DEMO_PROMPT = 2048  # and of a prompt
A_TASK = {"sweep": "a sweep", "export": "an export", "push": "a push"}
EXPORTS = Path("exports")  # the one folder a demo may export into
SWEEPS_KEPT = 8  # as many as there are colours: of more, no curve could be told from another
DRAIN_SECONDS = 5.0  # how long a new pair waits for those who use the old one
FILE_PATH = re.compile(r"""(?<![\w.<])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'":;,<>]+){2,}""")


class Studio:
    """What all pages share. `loader` has the pair, `runs` the runs on disk."""

    def __init__(self, preset: Preset, source: str, demo: bool = False) -> None:
        self.demo = demo
        self.first_preset = preset  # what a fresh page is built with
        self.model_lock = FairLock()  # turns on the model
        self.decode_queue = DecodeQueue()
        self.loader = PairLoader(preset, source, released=self._pair_released)
        self.runs = RunControl()
        self.meter = Meter()
        self.sessions = Sessions()
        self.owners = Owners(demo)
        self.tasks: dict[str, BackgroundTask] = {}
        self.sweeps: dict[str, Sweep] = {}  # the finished ones, the newest last
        self.running_sweep: Sweep | None = None  # what it has found so far
        self._tasks_lock = threading.Lock()

    # ---- the pair

    @property
    def preset(self) -> Preset:
        return self.loader.preset

    @property
    def source(self) -> str:
        """The name or file of the preset."""
        return self.loader.source

    @property
    def loaded(self) -> Loaded | None:
        return self.loader.loaded

    def ready(self) -> Loaded:
        return self.loader.ready()

    def tensor_names(self) -> list[str] | None:
        """The tensors of the loaded pair."""
        loaded = self.loaded
        return loaded.pair.names if loaded else None

    def load(self, preset: Preset, source: str, session_hash: str | None = None) -> None:
        """Load another pair for everybody, unless that would take it from somebody who is using it."""
        with self._tasks_lock:
            if self._at_work("export"):
                raise UserError("an export is using the pair in memory; wait for it, or stop it")
            if self.demo:
                self._refuse_to_disturb(session_hash)
            self.loader.load(preset, source)

    def _refuse_to_disturb(self, session_hash: str | None) -> None:
        others = self.owners.others(session_hash)
        busy = [name for name in list(self.tasks) if self._at_work(name) and task_thing(name) in others]
        if busy or self.decode_queue.of_others(session_hash):
            raise UserError("another visitor is using this pair; load yours when they are done")

    def _pair_released(self, old: LiveRounds) -> None:
        old.drain(DRAIN_SECONDS)  # decodes, charts and sweeps end at their next step
        self.sweeps.clear()

    # ---- rounds and points

    @contextmanager
    def using(self, loaded: Loaded, choice: str) -> Iterator[None]:
        """Use the pair at this round: its adapters stay in memory, and another pair waits until this ends."""
        with loaded.rounds.pin(self.round_key(choice)):
            yield

    def round_key(self, choice: str) -> tuple[Path, int] | None:
        folder, number = self.runs.run_of(choice)
        return (folder, number) if folder else None

    def find_round(self, loaded: Loaded, choice: str) -> Round:
        key = self.round_key(choice)
        return loaded.rounds.find(key) if key else loaded.start

    def points(self, loaded: Loaded, choice: str, ts: list[float], schedule: Schedule) -> list[Recipe]:
        """Recipes in the basis of the live blend, which then holds the round's adapters. See `using`."""
        from thinkswitch import recipe

        found = self.find_round(loaded, choice)
        slots = self.slots(loaded, choice)
        return [recipe.remap_adapters(found.point(t, schedule), slots) for t in ts]

    def slots(self, loaded: Loaded, choice: str) -> list[int]:
        """Where the live blend holds the round's adapters, which it does from now on. See `using`."""
        key = self.round_key(choice)
        if key is None:
            return []
        found = self.find_round(loaded, choice)
        with self.model_lock.turn():
            return loaded.rounds.use(key, found)

    # ---- decoding

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A turn on the model, with as many threads as it may have."""
        with self.model_lock.turn():
            self.pace()
            yield

    def pace(self) -> None:
        """One thread beside a busy process or for a small pair, else torch's own choice.

        Beside a busy process several threads wait for each other at every step: seven times slower was
        measured. OpenMP counts per thread, and Gradio calls from any, so this is set at every turn.
        """
        import torch

        loaded = self.loaded
        small = loaded is not None and is_small(loaded)
        single_thread = small or self.running()
        torch.set_num_threads(1 if single_thread else self.loader.threads or 1)

    def decode(
        self,
        loaded: Loaded,
        rows: list[Row],
        cancelled: Callable[[], bool],
        session_hash: str | None = None,
    ) -> Iterator[Waiting | DecodeUpdate]:
        """Decode `rows` in turns with other visitors, as batches that fit into memory."""
        from thinkswitch.generate import generate

        def given_up() -> bool:
            return cancelled() or self.loaded is not loaded

        pair = loaded.pair
        decode = QueuedDecode(given_up, session_hash)
        with self.decode_queue.join(decode):
            yield from self.decode_queue.wait(decode)
            steps = generate(
                loaded.blend,
                pair.instruct.tokenizer,
                rows,
                pair.instruct.stop_token_ids | pair.thinking.stop_token_ids,
                rows_that_fit(loaded, rows),
                cancelled=given_up,
                between_steps=self.model_lock.yield_turn,
            )
            with closing(cast("Generator[Chunk, None, None]", steps)) as chunks:
                every = decoding.UPDATE_SECONDS if is_small(loaded) else decoding.SLOW_UPDATE_SECONDS
                yield from read_in_turns(chunks, self.turn, every)

    # ---- long tasks

    def task(self, name: str, work: Callable, session_hash: str | None = None) -> BackgroundTask:
        """Start `work` in the background; one task of a name at a time. It belongs to the page that asks."""
        with self._tasks_lock:
            if self.loader.loading and (name == "export" or self.loader.download is None):
                raise UserError("a pair is being loaded; wait until it is ready")  # it would end an export
            if self._at_work(name):
                raise UserError(f"{A_TASK.get(name, name)} is running already; wait for it, or stop it")
            self.owners.take(task_thing(name), session_hash)
            self.tasks[name] = BackgroundTask(name, work)
            return self.tasks[name]

    def cancel(self, name: str, session_hash: str | None = None) -> None:
        task = self.tasks.get(name)
        if task is not None and not task.ended:
            self.owners.check(task_thing(name), session_hash)
            task.cancel()

    def _at_work(self, name: str) -> bool:
        task = self.tasks.get(name)
        return task is not None and not task.ended

    def keep_sweep(self, sweep: Sweep, session_hash: str | None = None) -> None:
        """It replaces an earlier one of its name; the oldest go."""
        self.sweeps.pop(sweep.name, None)
        self.sweeps[sweep.name] = sweep
        for name in list(self.sweeps)[:-SWEEPS_KEPT]:
            self.sweeps.pop(name, None)
        if session_hash is not None and self.sessions.is_open(session_hash):
            # what a closed page owned, nobody could clear
            self.owners.take(sweep_thing(sweep.name), session_hash)

    def sweep_of(self, choice: str, schedule: Schedule) -> list[dict] | None:
        """The scores of a round of the loaded pair under a schedule, if they were swept: [{t, **Summary}]."""
        pair = (self.preset.instruct, self.preset.thinking)
        wanted = (choice, schedule, pair)
        found = (s.table for s in list(self.sweeps.values()) if (s.choice, s.schedule, s.pair) == wanted)
        return next(found, None)

    def clear_sweeps(self, session_hash: str | None = None) -> None:
        """Forget the finished sweeps; in a demo only those that belong to nobody else."""
        others = self.owners.others(session_hash) if self.demo else set()
        for name in [name for name in list(self.sweeps) if sweep_thing(name) not in others]:
            self.sweeps.pop(name, None)

    # ---- runs

    def running(self) -> Path | None:
        return self.runs.running()

    def events(self, folder: Path) -> list[dict]:
        return self.runs.events(folder)

    def run_of(self, choice: str | None) -> tuple[Path | None, int]:
        return self.runs.run_of(choice)

    def start(self, preset: Preset, session_hash: str | None = None) -> tuple[Path, list[str]]:
        """Start a loop as a child process; returns its folder and the command."""
        if self.demo:
            self._refuse_long_answers(preset)
        folder, command = self.runs.start(preset, self.source)
        self.owners.take(run_thing(folder), session_hash)
        return folder, command

    def _refuse_long_answers(self, preset: Preset) -> None:
        allowed = max(DEMO_TOKENS, self.preset.think_tokens, self.preset.instruct_tokens)
        if max(preset.think_tokens, preset.instruct_tokens) > allowed:
            raise UserError(
                f"in a demo answers have at most {allowed} tokens; lower think_tokens and instruct_tokens"
            )

    def resume(self, folder: Path, session_hash: str | None = None) -> None:
        self.owners.check_run(run_thing(folder), session_hash)
        self.runs.resume(folder)
        self.owners.take(run_thing(folder), session_hash)

    def stop_run(self, folder: Path, session_hash: str | None = None) -> None:
        self.owners.check_run(run_thing(folder), session_hash)
        self.runs.stop(folder)

    def rename_run(self, folder: Path, name: str, session_hash: str | None = None) -> Path:
        thing = run_thing(folder)
        self.owners.check_own(thing, session_hash)
        self._refuse_used(folder)
        renamed = self.runs.rename(folder, name)
        self._forget_rounds(folder)
        self.owners.take(run_thing(renamed), session_hash)
        return renamed

    def may_delete(self, folder: Path, session_hash: str | None = None) -> None:
        """Refuse what `delete_run` would refuse."""
        self.owners.check_own(run_thing(folder), session_hash)
        self._refuse_used(folder)
        runs.refuse_running(folder, "deleted")

    def delete_run(self, folder: Path, session_hash: str | None = None) -> None:
        self.may_delete(folder, session_hash)
        self.runs.delete(folder)
        self._forget_rounds(folder)

    def _refuse_used(self, folder: Path) -> None:
        loaded = self.loaded
        used = loaded.rounds.pinned() if loaded is not None else set()
        if any(key is not None and key[0] == folder for key in used):
            raise UserError(
                f"{folder.name} is in use by Compare, a sweep or an export; wait until it is done"
            )

    def _forget_rounds(self, folder: Path) -> None:
        loaded = self.loaded
        if loaded is not None:
            with self.model_lock.turn():
                loaded.rounds.forget(folder)

    def choices(self) -> list[str]:
        return self.runs.choices((self.preset.instruct, self.preset.thinking))

    def board(self) -> tuple[list[str], list[tuple[str, str]]]:
        """(rounds to choose, runs with their states)."""
        listing = self.runs.listing((self.preset.instruct, self.preset.thinking))
        return listing.choices, listing.runs

    # ---- pages

    def page_closed(self, session_hash: str) -> None:
        self.sessions.close(session_hash)
        self.owners.release(session_hash)

    def public(self, text: str) -> str:
        """`text` as visitors may read it: a demo shows the names of files, but not their folders."""
        return redact_paths(text) if self.demo else text


def is_small(loaded: Loaded) -> bool:
    return loaded.pair.parameters < SMALL_PAIR


def redact_paths(text: str) -> str:
    """Replace every file path by its last part."""
    return FILE_PATH.sub(lambda found: re.split(r"[/\\]", found[0])[-1], text)


def run_thing(folder: Path) -> str:
    return f"run {folder.name}"


def task_thing(name: str) -> str:
    return f"the {name}"


def sweep_thing(name: str) -> str:
    return f"the sweep of {name}"
