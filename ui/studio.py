"""Studio: what all visitors share – the loaded pair, the model that decodes for them, long tasks, the runs on disk.

Torch comes in only through `load`, in a thread, so the page is up before it.
"""

import itertools
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from thinkswitch import problems, runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, changed_settings, load_preset
from thinkswitch.recipe import Schedule
from ui import scheduling
from ui.scheduling import BackgroundTask, FairLock
from ui.sessions import Session

AT_ONCE = 4  # decodes that share the model; who comes later waits in line
NEWS = 0.15  # seconds between two messages to a page: each costs Gradio's part in the browser 50 ms on a slow machine
SMALL = 50_000_000  # parameters; fewer are decoded by one thread
DEMO_TOKENS = 512  # most new tokens of an answer on a stage
DEMO_PROMPT = 2048  # and of a prompt
EXPORTS = Path("exports")  # the one folder a stage may export into
PAIR = "the pair"  # round 0, without any run


@dataclass(frozen=True)
class Loaded:
    """A pair in memory. `places` says where in the blend's basis an adapter of a run stands: {(run, round): place}."""

    preset: Preset
    pair: object
    start: object  # Round 0
    blend: object
    places: dict = field(default_factory=dict)
    rounds: dict = field(default_factory=dict)  # {(run, round): Round}


class Studio:
    def __init__(self, preset: Preset, source: str, demo: bool = False):
        self.preset, self.source, self.demo = preset, source, demo  # what is loaded, or will be
        self.first_preset = preset  # what a fresh page is built with
        self.loaded: Loaded | None = None
        self.status, self.failed, self.progress = "The page is up; torch is not imported yet", False, (0, 0)
        self.tasks: dict[str, BackgroundTask] = {}
        self.sweeps: dict[str, list[dict]] = {}  # by what was swept
        self.lane = FairLock()
        self.decoding: list[Callable[[], bool]] = []  # oldest first; each says whether its visitor has given it up
        self.problems: dict[str, problems.Problem] = {}  # held-out ones by key: whose answer is known
        self.examples: list[problems.Problem] = []
        self._visitors: dict[str, Session] = {}
        self._lock, self._door = threading.Lock(), threading.Lock()
        self._followers: dict[Path, runs.Follower] = {}
        self.loading = False
        self._alive: tuple[float, Path | None] | None = None  # (looked up when, the run); None = never
        self._board: tuple | None = None  # (looked up when, for which preset and runs, the listing); None = never
        self._boarding = threading.Lock()
        self._opened = threading.Event()
        self.imported = threading.Event()  # who needs torch waits: two threads that import it at once see halves of it
        self._threads = None
        if Path(preset.held_out_set).is_file():  # a Hub data set waits for `load`
            self._take(problems.held_out(preset))

    # ---- the pair

    def open_soon(self) -> None:
        """Load once the first page has been served, or in two seconds: importing torch would slow its first paint."""
        def wait_and_load():
            self._opened.wait(2.0)
            time.sleep(0.3)
            self.load(self.preset, self.source)
        threading.Thread(target=wait_and_load, daemon=True).start()

    def page_opened(self) -> None:
        self._opened.set()

    def load(self, preset: Preset, source: str) -> None:
        """Read a pair in a thread; the old one goes first, since two may not fit."""
        with self._lock:
            if self.loading:
                raise UserError(f"{self.preset.name or 'a pair'} is still being loaded; wait until it is ready")
            self.loading = True
        threading.Thread(target=self._load, args=(preset, source), daemon=True).start()

    def _load(self, preset: Preset, source: str) -> None:
        try:
            self.failed = False
            self.status = "Importing torch and transformers"
            import torch

            from thinkswitch import evaluate, memory_plan, rounds
            from thinkswitch.weights.device import silence_libraries
            from thinkswitch.weights.live_blend import Blend
            from thinkswitch.weights.pair import open_pair
            self.imported.set()
            silence_libraries()
            self._threads = self._threads or torch.get_num_threads()
            self.status = "Checking the pair"
            pair = open_pair(preset.instruct, preset.thinking)
            held_out = problems.held_out(preset) if preset.held_out_set else []
            where = memory_plan.resolve_machine(pair, preset, memory_plan.LIVE)
            with self._lock:
                self.loaded, self.preset, self.source = None, preset, source  # decodes of the old pair end at their next step
                self.sweeps.clear()
                self._take(held_out)
            with self.lane.turn():
                pass
            self.status = "Reading weights"
            blend = Blend(pair, **where, progress=lambda *at: setattr(self, "progress", at))
            self.status, self.progress = "Measuring the angles between the twins", (0, 0)
            start = rounds.start(pair)
            self.status = "Warming up"  # the first pass through torch costs a second
            evaluate.probability_of_think(blend, pair.instruct, "Hello", [start.point(0.5)] * 2)
            self.loaded = Loaded(preset, pair, start, blend)
            self.status = "Ready"
        except UserError as error:
            self.status, self.failed = str(error), True
        except Exception as error:
            traceback.print_exc()
            self.status, self.failed = f"{type(error).__name__}: {error}", True
        finally:
            self.progress, self.loading = (0, 0), False

    def _take(self, held_out: list[problems.Problem]) -> None:
        self.problems, self.examples = {p.key: p for p in held_out}, pick_examples(held_out)

    def ready(self) -> Loaded:
        if self.loaded is None:
            raise UserError(f"the pair is not loaded: {self.status}" if self.failed else f"the pair is not loaded yet ({self.status.lower()}); a moment")
        return self.loaded

    # ---- rounds and points

    def board(self) -> tuple[list[str], list[tuple[str, str]]]:
        """(rounds to choose, runs with their states): looked up once a second for all pages."""
        with self._boarding:
            now, folders = time.monotonic(), runs.runs_in(runs.ROOT)
            if self._board is None or now - self._board[0] > 0.9 or self._board[1] != (self.preset, folders):
                self._board = (now, (self.preset, folders), (self.choices(), [(f"{f.name} – {state_of(f)}", f.name) for f in folders]))
            return self._board[2]

    def public(self, text: str) -> str:
        """On a stage, without the way to a file: its name only."""
        return re.sub(r"""(?<![\w.<])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'":;,<>]+){2,}""", lambda found: re.split(r"[/\\]", found[0])[-1], text) if self.demo else text

    def choices(self) -> list[str]:
        """`the pair`, then every finished round of every run of this pair, newest run first."""
        found = [PAIR]
        for folder in runs.runs_in(runs.ROOT):
            if (folder / "preset.yaml").is_file() and self._same_pair(folder):
                found += [f"{folder.name} · round {n}" for n in range(runs.rounds_done(folder), 0, -1)]
        return found

    def _same_pair(self, folder: Path) -> bool:
        return pair_of(folder, (folder / "preset.yaml").stat().st_mtime_ns) == (self.preset.instruct, self.preset.thinking)

    def run_of(self, choice: str) -> tuple[Path | None, int]:
        """(run folder, round) of a choice. Only listed ones: the text comes from outside."""
        if not choice or choice == PAIR:
            return None, 0
        name, _, number = choice.rpartition(" · round ")
        folder = next((f for f in runs.runs_in(runs.ROOT) if f.name == name), None)
        if folder is None or not re.fullmatch(r"[0-9]{1,4}", number):
            raise UserError(f"there is no {choice!r} any more; choose another round")
        return folder, int(number)

    def round(self, loaded: Loaded, choice: str):
        """The Round of a choice; its adapters join the live blend the first time."""
        from thinkswitch import rounds
        folder, number = self.run_of(choice)
        if folder is None:
            return loaded.start, []
        key = (folder, number)
        if key not in loaded.rounds:
            loaded.rounds[key] = rounds.read(folder, number)
        round = loaded.rounds[key]
        with self.lane.turn():
            for r, adapter in enumerate(round.adapters, 1):
                if (folder, r) not in loaded.places:
                    loaded.places[folder, r] = loaded.blend.add(adapter)
        return round, [loaded.places[folder, r] for r in range(1, number + 1)]

    def points(self, loaded: Loaded, choice: str, ts: list[float], schedule: Schedule) -> list[dict]:
        """Recipes in the live blend's basis."""
        from thinkswitch import recipe
        round, places = self.round(loaded, choice)
        return [recipe.remap_adapters(round.point(t, schedule), places) for t in ts]

    # ---- decoding, in turns

    def decode(self, loaded: Loaded, rows: list, cancelled: Callable[[], bool]) -> Iterator[dict | int]:
        """Yields how many are ahead in line, then {row: latest Chunk} whenever there is news."""
        from thinkswitch.generate import generate
        gone = lambda: cancelled() or self.loaded is not loaded
        with self._door:
            self.decoding.append(gone)
        pair, chunks = loaded.pair, None
        try:
            while (ahead := self._ahead(gone) - AT_ONCE + 1) > 0 and not gone():
                yield ahead
                time.sleep(0.1)

            stop_ids = pair.instruct.stop_token_ids | pair.thinking.stop_token_ids
            chunks = generate(loaded.blend, pair.instruct.tokenizer, rows, stop_ids, len(rows),
                              cancelled=gone, between_steps=self.lane.pass_on)
            news: dict = {}
            sent_at: float | None = None  # never; a monotonic clock may start anywhere
            while (more := self._burst(chunks)) is not None:
                news |= more
                if sent_at is None or time.monotonic() - sent_at >= NEWS:
                    yield news
                    news, sent_at = {}, time.monotonic()
            if news:
                yield news
        finally:
            if chunks is not None:
                chunks.close()
            with self._door:
                self.decoding.remove(gone)

    def _ahead(self, mine: Callable) -> int:
        with self._door:
            return sum(not other() for other in self.decoding[: self.decoding.index(mine)])

    def _burst(self, chunks) -> dict | None:
        """What came in one turn; None when all has been said."""
        news, until = {}, time.monotonic() + scheduling.TURN_SECONDS
        with self.lane.turn():
            self.pace()
            for chunk in chunks:
                news[chunk.row] = chunk
                if time.monotonic() > until:
                    return news
        return news or None

    def pace(self) -> None:
        """Torch threads beside a busy process stall each other (7 x slower was measured), and small models gain nothing by a second one.

        OpenMP counts per thread, and Gradio calls us from any.
        """
        import torch
        small = self.loaded is not None and self.loaded.pair.parameters < SMALL
        torch.set_num_threads(1 if small or self.running() else self._threads)

    # ---- visitors

    def visitor(self, session: str) -> Session:
        return self._visitors.setdefault(session, Session())

    def left(self, session: str) -> None:
        if session in self._visitors:
            self._visitors.pop(session).stop()

    # ---- long tasks

    def task(self, name: str, work) -> BackgroundTask:
        with self._lock:
            if (old := self.tasks.get(name)) and not old.ended:
                raise UserError(f"{name} is at work already; wait for it, or stop it")
            self.tasks[name] = task = BackgroundTask(name, work)
            return task

    # ---- runs

    def running(self) -> Path | None:
        """The run that is going on, looked up at most twice a second."""
        now = time.monotonic()
        if self._alive is None or now - self._alive[0] > 0.5:
            self._alive = (now, next((f for f in runs.runs_in(runs.ROOT) if runs.running_pid(f)), None))
        return self._alive[1]

    def start(self, preset: Preset) -> tuple[Path, list[str]]:
        """Start a loop as a child process; returns its folder and the command."""
        if self.demo and max(preset.think_tokens, preset.instruct_tokens) > max(DEMO_TOKENS, self.preset.think_tokens, self.preset.instruct_tokens):
            raise UserError(f"on a stage answers have at most {DEMO_TOKENS} tokens; lower think_tokens and instruct_tokens")
        with self._lock:
            self._refuse_a_second()
            folder = runs.new_folder(runs.ROOT, preset.name)
            command = ["run", self.source, "--out", str(folder)]
            changes = changed_settings(load_preset(self.source), preset)
            command += ["--set", *changes] if changes else []
            runs.start(command, folder)
            self._alive = None
        return folder, command

    def resume(self, folder: Path) -> None:
        with self._lock:
            self._refuse_a_second()
            runs.open_run(folder)
            if runs.state(folder) == "done":
                raise UserError(f"{folder.name} is done; there is nothing to resume")
            runs.start(["resume", str(folder)], folder)
            self._alive = None

    def _refuse_a_second(self) -> None:
        self._alive = None
        if self.running():
            raise UserError(f"{self.running().name} is running; stop it first, or wait until it is done")

    def events(self, folder: Path) -> list[dict]:
        return self._followers.setdefault(folder, runs.Follower(folder / "events.jsonl")).read()


@lru_cache(maxsize=1024)
def pair_of(folder: Path, changed: int) -> tuple[str, str] | None:
    """The checkpoints of a run; None where its preset is damaged: it is shown in Loop, but not offered elsewhere."""
    try:
        preset = runs.open_run(folder)
        return preset.instruct, preset.thinking
    except UserError:
        return None


def state_of(folder: Path) -> str:
    try:
        return runs.state(folder)
    except UserError:
        return "damaged"


def pick_examples(problems: list[problems.Problem], n: int = 4) -> list[problems.Problem]:
    """A few problems to click on: the first ones of every kind."""
    kinds = [[p for p in problems if p.kind == kind] for kind in dict.fromkeys(p.kind for p in problems)]
    in_turn = [p for same_place in itertools.zip_longest(*kinds) for p in same_place if p is not None]
    return sorted(in_turn[:n], key=problems.index)
