"""What the command line shows: the loop live, scores, columns side by side. Reads events; knows nothing of the method."""

import time
from collections.abc import Generator, Iterator
from pathlib import Path

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from thinkswitch import runs
from thinkswitch.preset import Preset, changed_settings
from thinkswitch.text import COLOURS, format_accuracy, format_bytes


def console() -> Console:
    return Console(highlight=False)


def show(events: Iterator, preset: Preset, folder: Path) -> str:
    """Draw a run as it happens; returns how it ended: done | stopped."""
    out = console()
    bar = Progress(TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=out)
    whole = bar.add_task(f"round 0 of {preset.rounds}", total=preset.rounds + 1, note="")
    phase, current, ended = None, None, "stopped"
    measured = runs.measured(runs.read_lines(folder / "events.jsonl"))  # by an earlier process, when resumed
    began = time.time()
    with Live(console=out, refresh_per_second=4, transient=False) as live:
        for event in events:
            if current is None and (fitted := [c for c in changed_settings(preset, runs.open_run(folder)) if c != "four_bit=False"]):
                out.print(f"to fit this machine: {', '.join(fitted)}", soft_wrap=True, markup=False)
            ended = event.phase
            if (event.round, event.phase) != current:
                current = (event.round, event.phase)
                if phase is not None:
                    bar.remove_task(phase)
                working = event.phase not in ("done", "stopped", "error")
                phase = bar.add_task(f"  {event.phase}", total=1, note="") if working else None
                bar.update(whole, completed=event.round, description=f"round {event.round} of {preset.rounds}")
            if phase is not None:
                bar.update(phase, total=max(1, event.total), completed=event.step, note=event_note(event))
            if event.phase == "measure" and event.step == event.total:
                measured.append(event.to_dict())
            if event.phase == "done":
                bar.update(whole, completed=preset.rounds + 1)
            live.update(Group(scores(measured), bar))
            if not out.is_terminal and event.step == event.total and phase is not None:  # a log file gets lines, not pictures
                out.print(f"round {event.round} {event.phase} {event.step}/{event.total} {event_note(event)}", soft_wrap=True, markup=False)
    out.print(f"{ended} after {time.time() - began:.0f} s; results in {folder}", soft_wrap=True, markup=False)
    return ended


def event_note(event) -> str:
    data = event.data
    if event.phase == "distil":
        return f"loss {data['loss']:.3f}  lr {data['lr']:.1e}  {data['tokens_per_s']:,} tokens/s"
    if event.phase == "strip":
        dropped = ", ".join(f"{n} {why}" for why, n in data["dropped"].items())
        return f"kept {data['kept']}" + (f", dropped {dropped}" if dropped else "")
    if event.phase == "measure":
        return f"{data['checkpoint']} {format_accuracy(data) if 'accuracy' in data else ''}{writing(data)}"
    return f"{data['tokens_per_s']:,} tokens/s{writing(data)}" if "tokens_per_s" in data else ""


def writing(data: dict) -> str:
    return f"  {data['writing']:,} tokens into the answers at hand" if "writing" in data else ""


def scores(measured: list[dict]) -> Table:
    """Accuracy of both checkpoints by round, with 95 % intervals and the paired test against round 0."""
    table = Table(box=None, pad_edge=False, title_justify="left")
    for heading in ("round", "checkpoint", "accuracy [95 %]", "think rate", "tokens", "gained/lost", "p"):
        table.add_column(heading, no_wrap=True)
    for row in measured:
        paired = row.get("since_start")
        table.add_row(str(row["round"]), Text(row["checkpoint"], COLOURS[row["checkpoint"]]), format_accuracy(row), f"{row['think_rate']:.2f}",
                      f"{row['mean_tokens']:.1f}", f"+{paired['gained']} -{paired['lost']}" if paired else "",
                      f"{paired['p']:.1g}" if paired else "")
    return table


def spectrum(points: list[dict], title: str) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for heading in ("t", "accuracy [95 %]", "think rate", "tokens", ""):
        table.add_column(heading, no_wrap=True)
    for row in points:
        table.add_row(f"{row['t']:g}", format_accuracy(row), f"{row['think_rate']:.3f}", f"{row['mean_tokens']:.1f}",
                      Text("#" * round(30 * row["accuracy"]), COLOURS["thinking" if row["think_rate"] > 0.5 else "instruct"]))
    return table


def memory(phases: list) -> Table:
    """hardware.plan for people."""
    table = Table(box=None, pad_edge=False)
    for heading in ("phase", "needs", "free", "", "made of"):
        table.add_column(heading, no_wrap=heading != "made of")
    for phase in phases:
        made_of = ", ".join(f"{name} {format_bytes(size)}" for name, size in sorted(phase.parts.items(), key=lambda part: -part[1]))
        table.add_row(phase.name, format_bytes(phase.needs), format_bytes(phase.have), f"does not fit: {phase.advice}" if phase.advice else "fits", made_of)
    return table


def progress(steps: Generator, what: str):
    """Drain (done, total) steps behind a bar; returns what the generator returns."""
    with Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True),
                  transient=True) as bar:
        task = bar.add_task(what, total=None)
        while True:
            try:
                done, total = next(steps)
            except StopIteration as end:
                return end.value
            bar.update(task, completed=done, total=total)


def columns(prompt: str, ts: list[float], round: int, chunks: Iterator) -> None:
    """Answers side by side as they are written; the trace dimmed."""
    out = console()
    latest, began, took = {}, time.time(), {}

    def draw():
        panels = []
        for i, t in enumerate(ts):
            c = latest.get(i)
            name, colour = ("instruct", COLOURS["instruct"]) if t == 0 else ("thinking", COLOURS["thinking"]) if t == 1 else ("blend", "#8e7cc3")
            body = Text()
            foot = "..."
            if c:
                body.append(c.trace + ("\n\n" if c.trace and c.answer else ""), "dim italic")
                body.append(c.answer)
                foot = f"{c.tokens} tokens" + (f", {took[i]:.2f} s, {c.finish}" if c.finish else " ...")
            panels.append(Panel(body, title=f"t = {t:g}  {name}", subtitle=foot, border_style=colour,
                                width=max(24, min(60, out.width // max(1, min(len(ts), out.width // 26)) - 1))))
        return Columns(panels, padding=(0, 0))

    out.print(f"[bold]{'round ' + str(round) if round else 'the pair'}:[/] ", Text(prompt), soft_wrap=True)
    with Live(draw(), console=out, refresh_per_second=10) as live:
        for chunk in chunks:
            latest[chunk.row] = chunk
            if chunk.finish:
                took[chunk.row] = time.time() - began
            live.update(draw())
