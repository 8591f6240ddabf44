"""What the stages of a run share: its preset, pair, problems and machine, and the events already recorded."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinkswitch import runs
from thinkswitch.distil import check_targets
from thinkswitch.engines import engine as engines
from thinkswitch.engines.engine import TORCH, Engine
from thinkswitch.errors import UserError
from thinkswitch.generate import Chunk, Row, generate
from thinkswitch.memory_plan import LOOP, resolve_machine
from thinkswitch.preset import Preset
from thinkswitch.problems import Problem, train_and_held_out
from thinkswitch.recipe import Recipe
from thinkswitch.remote.probe import check_teacher
from thinkswitch.remote.teacher import ask_teacher
from thinkswitch.rounds import Round
from thinkswitch.runs import Event
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.device import Machine, release
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair, open_pair_of
from thinkswitch.weights.pair_report import about_precision

ROLES = ("instruct", "thinking")
EVENT_SECONDS = 0.25  # shortest time between two events of one stage
PULSE_SECONDS = 5.0  # a long answer reports its length this often

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """A stop was requested."""


@dataclass(frozen=True)
class RunContext:
    """All that a stage needs, checked before work starts."""

    preset: Preset
    folder: Path
    pair: Pair
    train: list[Problem]
    held_out: list[Problem]
    machine: Machine
    origin: dict  # see `open_pair_of_run`
    engine: Engine = TORCH

    def checkpoint(self, role: str) -> Checkpoint:
        """The base checkpoint of a role (instruct | thinking): its tokenizer and chat template."""
        return getattr(self.pair, role)

    def model(self, state: Round, point: Recipe):
        return materialise(self.pair, state.adapters, point, **self.machine)

    def stop_requested(self) -> bool:
        return runs.stop_requested(self.folder)

    def record(self, event: Event) -> Event:
        runs.append(self.folder / "events.jsonl", event.to_dict())
        return event

    def is_recorded(self, number: int, phase: str, checkpoint: str | None = None) -> bool:
        """Whether an earlier process has recorded the end of a stage."""
        for event in runs.read_events(self.folder):
            same = (
                event["round"] == number and event["phase"] == phase and event.get("checkpoint") == checkpoint
            )
            if same and event["step"] == event["total"]:
                return True
        return False

    def answers(self, state: Round, role: str, rows: list[Row], done: set[int]) -> Iterator[Chunk]:
        """One checkpoint of a round answers the rows not in `done`: last chunks, and pulses of long ones."""
        checkpoint = self.checkpoint(role)
        model = self.model(state, getattr(state, role))
        chunks = generate(
            model,
            checkpoint.tokenizer,
            rows,
            checkpoint.stop_token_ids,
            batch=self.preset.rows,
            cancelled=self.stop_requested,
            every=PULSE_SECONDS,
            done=done,
        )
        try:
            yield from _until_stopped(chunks)
        finally:
            chunks.close()  # it holds the model, too
            del model, chunks
            release()

    def labels(self, previous: Round, role: str, rows: list[Row], done: set[int]) -> Iterator[Chunk | Event]:
        """As `answers`, by whoever the preset has label; while an engine starts, events that say so."""
        if role == "thinking" and self.preset.teacher:
            yield from self.teacher_answers(rows, done)
        elif role == "thinking" and self.engine.program:
            yield from self.engine_answers(previous, rows, done)
        else:
            yield from self.answers(previous, role, rows, done)

    def engine_answers(self, previous: Round, rows: list[Row], done: set[int]) -> Iterator[Chunk | Event]:
        from thinkswitch.engines import answers, checkpoint_files  # they import the export

        point = checkpoint_files.thinking_point(self.engine.name, self.pair, previous, self.preset)
        said = answers.ask_engine(
            self.engine, point, self.machine, rows, done, self.folder, self.stop_requested
        )
        for chunk in said:
            if isinstance(chunk, str):
                yield Event(previous.number + 1, "think", len(done), len(rows), {"starting": chunk})
            elif chunk.finish == "cancel":
                raise Stopped
            else:
                yield chunk

    def teacher_answers(self, rows: list[Row], done: set[int]) -> Iterator[Chunk]:
        """As `answers`, by the server that the preset names. It thinks with whatever checkpoint it serves."""
        preset = self.preset
        waiting = [row for i, row in enumerate(rows) if i not in done]
        thinking = self.pair.thinking
        check_teacher(preset.teacher, preset.teacher_model, thinking, waiting, self.stop_requested)
        chunks = ask_teacher(
            preset.teacher,
            preset.teacher_model,
            thinking,
            rows,
            preset.rows,
            self.stop_requested,
            done,
        )
        yield from _until_stopped(chunks)


def _until_stopped(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    for chunk in chunks:
        if chunk.finish == "cancel":
            raise Stopped
        yield chunk


def prepare(preset: Preset, folder: Path) -> RunContext:
    """Open all that a run needs. What can be refused is refused here."""
    owner = runs.running_pid(folder)
    if owner:
        raise UserError(f"{folder} is in use by process {owner}; stop it first: thinkswitch stop {folder}")
    engines.remove_scratch(folder)
    engine = engines.choose(preset)
    train, held_out = train_and_held_out(preset)
    pair, origin = open_pair_of_run(preset, folder)  # last, as it may download gigabytes
    check_targets(preset, pair)
    machine = resolve_machine(pair, preset, LOOP)
    auto_may_gain = preset.engine == "auto" and engines.is_quicker(preset, pair.parameters, machine["device"])
    if engine.program or auto_may_gain:
        from thinkswitch.engines import checkpoint_files  # it imports the export

        if auto_may_gain:
            engine = checkpoint_files.llama_cpp_or_torch(pair, preset, folder)
        else:
            checkpoint_files.check(engine.name, pair, preset, folder)
    for remark in about_precision(pair, preset):
        logger.warning(remark)
    return RunContext(preset, folder, pair, train, held_out, machine, origin, engine)


def open_pair_of_run(preset: Preset, folder: Path) -> tuple[Pair, dict]:
    """The pair with which a run began, or begins, and what it keeps of that: commits, and the date.

    A repository may move while a run is stopped, and chat templates may write the date.
    """
    known = runs.read_origin(folder)
    date = known.get("date") or today()
    pair = open_pair_of(preset, commits=known.get("commits", {}), date=date)
    return pair, {"commits": pair.commits, "date": date}


def today() -> str:
    return time.strftime("%Y-%m-%d")


class ProgressMeter:
    """How fast a stage decodes, and when its next event is due."""

    def __init__(self) -> None:
        self.tokens = 0  # of finished answers
        self.writing: int | None = None  # tokens so far of an answer that is not finished
        self.began = time.monotonic()
        self.reported = self.began

    def read(self, chunk: Chunk) -> None:
        if chunk.finish:
            self.tokens += chunk.tokens
        self.writing = None if chunk.finish else chunk.tokens

    def due(self) -> bool:
        """True at most once per EVENT_SECONDS."""
        now = time.monotonic()
        if now - self.reported < EVENT_SECONDS:
            return False
        self.reported = now
        return True

    @property
    def figures(self) -> dict:
        seconds = max(1e-9, time.monotonic() - self.began)
        figures = {"tokens_per_s": round(self.tokens / seconds)}
        return figures if self.writing is None else {**figures, "writing": self.writing}
