"""The pair in memory, and how it gets there. Torch is imported in a thread, so the page is up before it."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thinkswitch import problems
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.text import format_bytes_of
from ui.download import Cancelled, Download, fetch_command
from ui.live_rounds import LiveRounds

if TYPE_CHECKING:
    from thinkswitch.rounds import Round
    from thinkswitch.weights.live_blend import Blend
    from thinkswitch.weights.pair import Pair

FIRST_PAGE_SECONDS = 2.0  # how long to wait for a browser before torch is imported
PAINT_SECONDS = 0.3  # and for its first paint, which the import would slow down
LOOK_SECONDS = 0.3  # how often somebody who waits for the pair looks

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A pair in memory."""

    preset: Preset
    pair: Pair
    start: Round  # round 0
    blend: Blend
    rounds: LiveRounds


class PairLoader:
    """Loads one pair at a time. `released` gets the rounds of the old one, before the new is read.

    If that then fails, the old one is read again.
    """

    def __init__(self, preset: Preset, source: str, released: Callable[[LiveRounds], None]) -> None:
        self.preset, self.source = preset, source  # what is loaded, or will be
        self.loaded: Loaded | None = None
        self.status = "The page is up; torch is not imported yet"
        self.failed = self.loading = False
        self.download: Download | None = None  # the one that is going on
        self.cancelled = False  # by a person: `failed`, too, but no error
        self.progress: tuple[float, float] = (0, 0)
        self.problems: dict[str, problems.Problem] = {}  # held-out ones by key: their answers are known
        self.examples: list[problems.Problem] = []
        self.torch_imported = threading.Event()  # importing torch in two threads at once fails
        self.threads: int | None = None  # torch's own choice
        self._reading = False  # weights, which can be stopped
        self._stop_reading = threading.Event()
        self._coming = ""  # the name of what is being loaded
        self._released = released
        self._lock = threading.Lock()
        self._page_opened = threading.Event()
        if Path(preset.held_out_set).is_file():  # a data set on the Hub waits until the pair is loaded
            self._take_problems(problems.held_out(preset))

    def load_soon(self) -> None:
        """Load when the first page has been painted."""

        def wait_and_load() -> None:
            self._page_opened.wait(FIRST_PAGE_SECONDS)
            time.sleep(PAINT_SECONDS)
            self.load(self.preset, self.source)

        threading.Thread(target=wait_and_load, daemon=True).start()

    def page_opened(self) -> None:
        self._page_opened.set()

    def load(self, preset: Preset, source: str) -> None:
        """Read a pair in a thread. A pair that cannot be opened leaves the old one in memory."""
        with self._lock:
            if self.loading:
                raise UserError(f"{self._coming} is still being loaded; wait until it is ready")
            self.loading, self._coming = True, preset.name or "a pair"
        threading.Thread(target=self._load, args=(preset, source), daemon=True).start()

    @property
    def can_cancel(self) -> bool:
        """Downloads and the reading of weights end when they are told to; the steps between are short."""
        return self.download is not None or self._reading

    def cancel(self) -> None:
        download = self.download
        if download is not None:
            download.cancel()
        elif self._reading:
            self._stop_reading.set()

    def wait(self, given_up: Callable[[], bool]) -> None:
        """Until a pair is there or its loading has failed."""
        while self.loaded is None and not self.failed and not given_up():
            time.sleep(LOOK_SECONDS)

    def ready(self) -> Loaded:
        loaded = self.loaded
        if loaded is not None:
            return loaded
        if self.failed:
            raise UserError(f"the pair is not loaded: {self.status}")
        status = self.status[:1].lower() + self.status[1:]
        raise UserError(f"the pair is not loaded yet ({status}); a moment")

    def _load(self, preset: Preset, source: str) -> None:
        before = (self.preset, self.source) if self.loaded is not None else None
        self.failed = self.cancelled = False
        try:
            failure, cancelled = self._try(preset, source)
            if failure and before and self.loaded is None:
                self._try(*before)  # its memory was needed for the new one
            self.status, self.failed, self.cancelled = failure or "Ready", bool(failure), cancelled
        finally:
            self.progress, self.loading = (0, 0), False

    def _try(self, preset: Preset, source: str) -> tuple[str, bool]:
        """(what has failed, or nothing; whether a person cancelled it)."""
        try:
            self._import_torch()
            self._replace_pair(preset, source)
        except Cancelled as cancelled:
            return str(cancelled), True
        except UserError as error:
            return str(error), False
        except Exception as error:
            logger.exception("the pair could not be loaded")
            return load_failure(preset, error), False
        return "", False

    def _import_torch(self) -> None:
        self.status = "Importing torch and transformers"
        import torch

        from thinkswitch import evaluate  # noqa: F401  brings in transformers
        from thinkswitch.weights.device import silence_libraries

        self.torch_imported.set()
        silence_libraries()
        if self.threads is None:
            self.threads = torch.get_num_threads()

    def _replace_pair(self, preset: Preset, source: str) -> None:
        from thinkswitch import evaluate, memory_plan, rounds
        from thinkswitch.weights.device import find_device
        from thinkswitch.weights.live_blend import Blend
        from thinkswitch.weights.pair import open_pair_of

        self.status = "Checking the pair"
        pair = open_pair_of(preset, headers_only=True)
        held_out = problems.held_out(preset) if preset.held_out_set else []
        find_device(preset)  # refuses a device that is not here
        pair = self._with_weights(pair, preset)
        self._release_old()
        self.preset, self.source = preset, source
        self._take_problems(held_out)
        # decided now: what the old pair took is free again
        machine = memory_plan.resolve_machine(pair, preset, memory_plan.LIVE)
        blend = self._read_weights(lambda: Blend(pair, **machine, progress=self._set_progress))
        self.status, self.progress = "Measuring the angles between the checkpoints", (0, 0)
        start = rounds.start(pair)
        self.status = "Warming up"  # the first pass through torch costs a second
        evaluate.probability_of_think(blend, pair.instruct, "Hello", [start.point(0.5)] * 2)
        self.loaded = Loaded(preset, pair, start, blend, LiveRounds(blend))

    def _with_weights(self, pair: Pair, preset: Preset) -> Pair:
        """The pair once its weights are here. Until then the old pair stays in use."""
        from thinkswitch.weights.pair import fetch_missing, missing_weights, open_pair_of

        missing = missing_weights(pair)
        if not missing:
            return fetch_missing(pair)  # nothing is downloaded; an adapter is read
        download = Download(fetch_command(preset), missing)

        def report(arrived: float) -> None:
            self.status = f"Downloading {download.names}: {format_bytes_of(arrived, download.size)}"
            self.progress = (arrived, download.size)

        report(0)
        self.download = download
        try:
            download.run(report)
        finally:
            self.download, self.progress = None, (0, 0)
        self.status = "Checking the pair"
        return open_pair_of(preset)

    def _release_old(self) -> None:
        """Give the old pair's memory back. Decodes of it end at their next step."""
        from thinkswitch.weights.device import release

        old = self.loaded
        self.loaded = None
        if old is not None:
            self._released(old.rounds)
        del old
        release()

    def _read_weights(self, read: Callable[[], Blend]) -> Blend:
        self.status, self._reading = "Reading weights", True
        try:
            return read()
        finally:
            self._reading = False
            self._stop_reading.clear()

    def _set_progress(self, done: int, total: int) -> None:
        self.progress = (done, total)
        if self._stop_reading.is_set():
            raise Cancelled("Loading cancelled")

    def _take_problems(self, held_out: list[problems.Problem]) -> None:
        self.problems = {problem.key: problem for problem in held_out}
        self.examples = pick_examples(held_out)


def load_failure(preset: Preset, error: Exception) -> str:
    """What the status line says of an error that is not the user's."""
    from thinkswitch.weights.device import out_of_memory

    if out_of_memory(error):
        name = preset.name or "the pair"
        return f"{name} does not fit into free memory; close other programs, or take a smaller pair"
    return f"{type(error).__name__}: {error}"


def pick_examples(held_out: list[problems.Problem], count: int = 4) -> list[problems.Problem]:
    """A few problems to click on: the first ones of every kind, in their order."""
    kinds = dict.fromkeys(problem.kind for problem in held_out)
    by_kind = [[problem for problem in held_out if problem.kind == kind] for kind in kinds]
    in_turn = [p for of_each_kind in itertools.zip_longest(*by_kind) for p in of_each_kind if p is not None]
    return sorted(in_turn[:count], key=held_out.index)
