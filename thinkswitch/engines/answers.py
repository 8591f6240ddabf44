"""The rows of a round, answered by an engine that is started for it and ended after it."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

import torch

from thinkswitch.engines import checkpoint_files
from thinkswitch.engines.engine import Engine
from thinkswitch.engines.serve import EngineServer, Load, engine_server
from thinkswitch.errors import UserError
from thinkswitch.export.llama_cpp import SMALL_BYTES
from thinkswitch.export.point import ExportPoint
from thinkswitch.generate import Chunk, Row
from thinkswitch.remote.probe import check_teacher
from thinkswitch.remote.teacher import ask_teacher
from thinkswitch.weights.device import Machine

ROOM = 1024  # tokens of context that a server has at least: the probe's long text has to fit
SAY_SECONDS = 2.0  # how often it is said how much of a file is written


def ask_engine(
    engine: Engine,
    point: ExportPoint,
    machine: Machine,
    rows: list[Row],
    done: set[int],
    run: Path,
    stopped: Callable[[], bool],
) -> Iterator[Chunk | str]:
    """Yield what is being done until the engine answers, then as `ask_teacher`: last chunks, or a cancel.

    UserError where the engine cannot start, ends in between or is unfit; what has been yielded stays right.
    """
    waiting = [row for i, row in enumerate(rows) if i not in done]
    load = load_of(point, machine, waiting)
    checkpoint_files.refuse_full_disk(engine.name, checkpoint_files.size_of(point), run)
    if engine.name == "llama.cpp" and load.on_cpu:
        checkpoint_files.refuse_full_memory(point, load.slots, load.tokens)
    with engine_server(engine, run) as server:
        yield f"writing the checkpoint for {engine.name}"
        model = yield from written(engine, point, server.scratch, stopped)
        if model:
            yield f"starting {engine.label}"
            for _ in server.start(model, load, stopped):
                pass
        yield from watched(server, point, rows, done, stopped)


def load_of(point: ExportPoint, machine: Machine, waiting: list[Row]) -> Load:
    preset, config = point.preset, point.pair.config
    longest = max(len(row.ids) + row.sampling.max_new_tokens for row in waiting)
    is_small = checkpoint_files.size_of(point) < SMALL_BYTES
    return Load(
        slots=min(preset.rows, len(waiting)),
        tokens=max(longest, ROOM),
        positions=getattr(config, "max_position_embeddings", longest),
        threads=1 if is_small else torch.get_num_threads(),
        dtype=preset.dtype,
        on_cpu=machine["device"] == "cpu",
    )


def written(
    engine: Engine, point: ExportPoint, folder: Path, stopped: Callable[[], bool]
) -> Generator[str, None, Path | None]:
    """Write the checkpoint, saying how far it is; returns what the engine loads, None after a stop."""
    said = time.monotonic()
    with closing(checkpoint_files.write(point, folder)) as steps:
        while not stopped():
            try:
                done, total = next(steps)
            except StopIteration as end:
                return end.value
            if time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                yield f"writing the checkpoint for {engine.name}, {100 * done // total} %"
    return None


def watched(
    server: EngineServer, point: ExportPoint, rows: list[Row], done: set[int], stopped: Callable[[], bool]
) -> Iterator[Chunk]:
    """Ask the server, and look whether it lives: a dead one would be asked five times for every row."""

    def ended() -> bool:
        return stopped() or server.has_ended()

    thinking = point.pair.thinking
    waiting = [row for i, row in enumerate(rows) if i not in done]
    try:
        check_teacher(server.url, server.model, thinking, waiting, ended)
        for chunk in ask_teacher(server.url, server.model, thinking, rows, point.preset.rows, ended, done):
            if chunk.finish == "cancel" and not stopped():
                server.refuse_if_ended()
            yield chunk
    except UserError:
        if not stopped():
            server.refuse_if_ended()
        raise
