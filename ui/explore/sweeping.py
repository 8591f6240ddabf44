"""Sweeping: one task for all pages, in turns with those who use the model."""

import time
from collections.abc import Callable
from dataclasses import replace

from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from ui.pair_loader import Loaded
from ui.studio import Studio
from ui.sweeps import Sweep
from ui.widgets import schedule_editor

DRAWN_EVERY = 0.5  # seconds between two tables of a running sweep


def begin(
    studio: Studio,
    choice: str,
    points: int,
    count: int,
    schedule: Schedule,
    session_hash: str | None = None,
) -> None:
    """Start a sweep as a task of the page that asks; it joins `studio.sweeps` when it is complete."""
    loaded = studio.ready()
    problems = list(studio.loader.problems.values())[:count]
    if not problems:
        raise UserError("the preset names no held-out problems, and a sweep needs some; set held_out_set")
    ts = [round(i / (points - 1), 4) for i in range(points)]
    studio.find_round(loaded, choice)  # refused now, not in the task
    title = schedule_editor.title(schedule, loaded.pair.names)
    sweep = Sweep(
        name=choice if schedule == Schedule() else f"{choice} ({title})",
        choice=choice,
        schedule=schedule,
        pair=(loaded.preset.instruct, loaded.preset.thinking),
        problems=len(problems),
        table=[],
    )

    def work(cancelled):
        try:
            table = yield from steps(studio, loaded, sweep, ts, problems, cancelled)
        finally:
            studio.running_sweep = None
        studio.keep_sweep(replace(sweep, table=table), session_hash)

    studio.task("sweep", work, session_hash)


def steps(
    studio: Studio,
    loaded: Loaded,
    sweep: Sweep,
    ts: list[float],
    problems: list,
    cancelled: Callable[[], bool],
):
    """Yields the progress of a sweep and returns its table; `studio.running_sweep` has it so far."""
    from thinkswitch import evaluate

    def stopped() -> bool:
        return cancelled() or studio.loaded is not loaded

    scores: dict[float, list] = {}
    template = getattr(loaded.pair, loaded.preset.template)
    lend = studio.model_lock.yield_turn
    drawn = time.monotonic()
    with studio.using(loaded, sweep.choice):
        by_t = dict(zip(ts, studio.points(loaded, sweep.choice, ts, sweep.schedule), strict=True))
        progress = evaluate.sweep(
            loaded.blend, template, by_t, problems, loaded.preset, stopped, lend, scores=scores
        )
        while True:
            with studio.turn():
                try:
                    done, total = next(progress)
                except StopIteration as end:
                    return end.value
                except UserError as error:
                    if studio.loaded is not loaded:
                        raise UserError("another pair was loaded, which ended the sweep") from error
                    raise
            if time.monotonic() - drawn >= DRAWN_EVERY:
                answered = {t: len(scores[t]) for t in ts}
                studio.running_sweep = replace(sweep, table=evaluate.so_far(scores), answered=answered)
                drawn = time.monotonic()
            yield "sweep", done, total
