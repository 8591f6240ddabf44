"""What the command line shows: a run as it happens, scores, answers side by side. Torch-free."""

import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from thinkswitch import runs
from thinkswitch.preset import Preset, changed_settings
from thinkswitch.text import COLOURS, format_accuracy, format_bytes

if TYPE_CHECKING:
    from thinkswitch.generate import Chunk
    from thinkswitch.memory_plan import Phase

BLEND_COLOUR = "#8e7cc3"
ACCURACY_BAR = 30  # characters for 100 %
PANEL_WIDTH = (24, 60)  # characters, least and most
T = TypeVar("T")


def console() -> Console:
    return Console(highlight=False)


# ---- a run


def show(events: Iterable[runs.Event], preset: Preset, folder: Path) -> str:
    """Draw a run as it happens; returns how it ended: done | stopped."""
    out = console()
    display = RunDisplay(preset, folder, out)
    began = time.monotonic()
    ended = "stopped"
    first = True
    with Live(console=out, refresh_per_second=4) as live:
        for event in events:
            if first:
                _print_fitted(out, preset, folder)
                first = False
            display.update(event)
            live.update(display.render())
            ended = event.phase
            if not out.is_terminal and event.step == event.total and event.phase not in runs.ENDED:
                line = f"round {event.round} {event.phase} {event.step}/{event.total} {event_note(event)}"
                _print_plain(out, line)
    if not out.is_terminal:
        out.line()  # on a terminal, Live ends its last line itself
    _print_plain(out, f"{ended} after {time.monotonic() - began:.0f} s; results in {folder}")
    return ended


def _print_fitted(out: Console, preset: Preset, folder: Path) -> None:
    """The settings that were lowered to what this machine's memory holds."""
    changed = changed_settings(preset, runs.open_run(folder))
    fitted = [change for change in changed if change != "four_bit=False"]
    if fitted:
        _print_plain(out, f"to fit this machine: {', '.join(fitted)}")


def _print_plain(out: Console, text: str) -> None:
    """One line, neither wrapped nor read as markup."""
    out.print(text, soft_wrap=True, markup=False)


class RunDisplay:
    """A bar for the rounds, one for the phase that is at work, and the scores so far."""

    def __init__(self, preset: Preset, folder: Path, out: Console) -> None:
        self.rounds = preset.rounds
        self.measured = runs.measured(runs.read_events(folder))  # before this process resumed it
        self.bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=out,
            get_time=runs.AwakeClock(),
        )
        self._whole = self.bars.add_task(self._describe(0), total=self.rounds + 1, note="")
        self._phase: TaskID | None = None
        self._current: tuple[int, str] | None = None  # round and phase

    def update(self, event: runs.Event) -> None:
        if self._current != (event.round, event.phase):
            self._begin_phase(event)
        if self._phase is not None:
            total = max(1, event.total)
            self.bars.update(self._phase, total=total, completed=event.step, note=event_note(event))
        if event.phase == "measure" and event.step == event.total:
            self.measured.append(event.to_dict())
        if event.phase == "done":
            self.bars.update(self._whole, completed=self.rounds + 1)

    def render(self) -> Group:
        return Group(scores(self.measured), self.bars)

    def _begin_phase(self, event: runs.Event) -> None:
        self._current = (event.round, event.phase)
        if self._phase is not None:
            self.bars.remove_task(self._phase)
            self._phase = None
        if event.phase not in runs.ENDED:
            self._phase = self.bars.add_task(f"  {event.phase}", total=1, note="")
        self.bars.update(self._whole, completed=event.round, description=self._describe(event.round))

    def _describe(self, number: int) -> str:
        return f"round {number} of {self.rounds}"


def event_note(event: runs.Event) -> str:
    """What an event says beside its progress."""
    data = event.data
    if event.phase == "distil":
        return f"loss {data['loss']:.3f}  lr {data['lr']:.1e}  {data['tokens_per_s']:,} tokens/s"
    if event.phase == "strip":
        dropped = [f"{count} {why}" for why, count in data["dropped"].items()]
        return f"kept {data['kept']}" + (f", dropped {', '.join(dropped)}" if dropped else "")
    if event.phase == "measure":
        accuracy = format_accuracy(data) if "accuracy" in data else ""
        return f"{data['checkpoint']} {accuracy}{_tokens_so_far(data)}"
    if "starting" in data:
        return data["starting"]
    if "tokens_per_s" in data:
        return f"{data['tokens_per_s']:,} tokens/s{_tokens_so_far(data)}"
    return ""


def _tokens_so_far(data: dict) -> str:
    return f"  {data['writing']:,} tokens generated in this batch" if "writing" in data else ""


# ---- tables


def scores(measured: list[dict]) -> Table:
    """Accuracy of both checkpoints by round, with 95 % intervals and the paired test against round 0."""
    table = _table("round", "checkpoint", "accuracy [95 %]", "think rate", "tokens", "gained/lost", "p")
    for row in measured:
        paired = row.get("since_start")
        table.add_row(
            str(row["round"]),
            Text(row["checkpoint"], COLOURS[row["checkpoint"]]),
            Text(format_accuracy(row)),
            f"{row['think_rate']:.2f}",
            f"{row['mean_tokens']:.1f}",
            f"+{paired['gained']} -{paired['lost']}" if paired else "",
            f"{paired['p']:.1g}" if paired else "",
        )
    return table


def spectrum(points: list[dict], title: str) -> Table:
    """A sweep over t, with a bar for the accuracy in the colour of what the point mostly does."""
    table = _table("t", "accuracy [95 %]", "think rate", "tokens", "")
    table.title = title
    for row in points:
        role = "thinking" if row["think_rate"] > 0.5 else "instruct"
        table.add_row(
            f"{row['t']:g}",
            Text(format_accuracy(row)),
            f"{row['think_rate']:.3f}",
            f"{row['mean_tokens']:.1f}",
            Text("#" * round(ACCURACY_BAR * row["accuracy"]), COLOURS[role]),
        )
    return table


def memory(phases: "list[Phase]") -> Table:
    """A memory plan: what each phase needs, what there is, and what to change where it does not fit."""
    table = _table("phase", "needs", "free", "")
    table.add_column("made of")
    for phase in phases:
        largest_first = sorted(phase.parts.items(), key=lambda part: part[1], reverse=True)
        table.add_row(
            phase.name,
            format_bytes(phase.needs),
            format_bytes(phase.have),
            f"does not fit: {phase.advice}" if phase.advice else "fits",
            ", ".join(f"{name} {format_bytes(size)}" for name, size in largest_first),
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left")
    for heading in headings:
        table.add_column(Text(heading), no_wrap=True)
    return table


# ---- work in progress


def progress(steps: Generator[tuple[int, int], None, T], what: str) -> T:
    """Run a generator of (done, total) to its end behind a bar; returns what it returns."""
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        get_time=runs.AwakeClock(),
    ) as bar:
        task = bar.add_task(what, total=None)
        while True:
            try:
                done, total = next(steps)
            except StopIteration as end:
                return end.value
            bar.update(task, completed=done, total=total)


def columns(prompt: str, ts: list[float], number: int, chunks: "Iterator[Chunk]") -> None:
    """Draw answers side by side as they are written, the trace dimmed. `number` is the round."""
    out = console()
    heading = f"round {number}" if number else "the pair"
    out.print(f"[bold]{heading}:[/] ", Text(prompt), soft_wrap=True)
    latest: dict[int, Chunk] = {}
    seconds: dict[int, float] = {}  # of finished answers
    began = time.monotonic()

    def draw() -> Columns:
        panels = [
            _panel(t, latest.get(row), seconds.get(row), _panel_width(out.width, len(ts)))
            for row, t in enumerate(ts)
        ]
        return Columns(panels, padding=(0, 0))

    with Live(draw(), console=out, refresh_per_second=10) as live:
        for chunk in chunks:
            latest[chunk.row] = chunk
            if chunk.finish:
                seconds[chunk.row] = time.monotonic() - began
            live.update(draw())


def _panel_width(screen: int, panels: int) -> int:
    """As many side by side as there is room for."""
    least, most = PANEL_WIDTH
    side_by_side = max(1, min(panels, screen // (least + 2)))
    return max(least, min(most, screen // side_by_side - 1))


def _panel(t: float, chunk: "Chunk | None", seconds: float | None, width: int) -> Panel:
    name = _point_name(t)
    body = Text()
    foot = "..."
    if chunk:
        between = "\n\n" if chunk.trace and chunk.answer else ""
        body.append(chunk.trace + between, "dim italic")
        body.append(chunk.answer)
        foot = f"{chunk.tokens} tokens ..."
    if chunk and seconds is not None:
        foot = f"{chunk.tokens} tokens, {seconds:.2f} s, {chunk.finish}"
    colour = COLOURS.get(name, BLEND_COLOUR)
    return Panel(body, title=f"t = {t:g}  {name}", subtitle=foot, border_style=colour, width=width)


def _point_name(t: float) -> str:
    if t == 0:
        return "instruct"
    return "thinking" if t == 1 else "blend"
