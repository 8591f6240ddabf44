"""What every open page is sent when it changes: how loading goes, new rounds and runs, another preset.

An event of Gradio costs a browser about 100 ms, so none is sent while nothing changes: pulse.js asks a plain
route once a second what is new, and presses the hidden button of what has changed.
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from thinkswitch.preset import Preset
from ui.explore import tab as explore
from ui.export import tab as export
from ui.header import Header, can_cancel, gauges, offer_label
from ui.loop import tab as loop
from ui.models import tab as models
from ui.run_control import PAIR, stamps
from ui.studio import Studio
from ui.widgets.events import follow_news

LOOK_SECONDS = 0.5  # how long a look is believed: ten pages ask ten times a second


@dataclass(frozen=True)
class Shown:
    """What a page shows."""

    status: str
    outcome: str  # of the last load
    offer: str  # what its button says; empty: no button
    can_cancel: bool
    choices: list[str]
    runs: list[tuple[str, str]]
    running: str | None  # the name of the run that is going on
    preset: Preset


def shown_now(studio: Studio) -> Shown:
    choices, listing = studio.board()
    running = studio.running()
    return Shown(
        status=models.status_html(studio),
        outcome=models.outcome_html(studio),
        offer=offer_label(studio),
        can_cancel=can_cancel(studio),
        choices=choices,
        runs=listing,
        running=running.name if running else None,
        preset=studio.preset,
    )


def by_part(studio: Studio) -> dict[str, Any]:
    """What each part of the page shows: all of it, and each tab beyond that. Only compared with what was."""
    shown = shown_now(studio)
    return {
        "page": shown,
        "loop": (shown.runs, shown.running, stamps()),
        "explore": explore.seen_now(studio),
        "export": export.seen_now(studio),
    }


class News:
    """Of each part of the page a number that grows with each change; looked up for all pages together."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._lock = threading.Lock()
        self._shown: dict[str, Any] = {}
        self._versions: Counter[str] = Counter()
        self._looked_at = float("-inf")

    def versions(self) -> dict[str, int]:
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                now = by_part(self._studio)
                self._versions.update(part for part in now if now[part] != self._shown.get(part))
                self._shown = now
                self._looked_at = time.monotonic()
            return dict(self._versions)

    def route(self) -> Route:
        """Where pulse.js asks. How busy the machine is changes all the time, so it comes without an event."""

        def answer(request: Request) -> JSONResponse:
            busy = str(gauges(self._studio.meter.read()))
            return JSONResponse({"versions": self.versions(), "gauges": busy})

        return Route("/pulse", answer)


@dataclass(frozen=True)
class Pulse:
    """Updates of the whole page, from the components that each tab has returned."""

    studio: Studio
    header: Header
    tab: dict[str, dict]

    @property
    def rounds(self) -> list[Component]:
        of_tabs = [self.tab[name]["round"] for name in ("Compare", "Explore", "Export")]
        return [*of_tabs, *self.tab["Compare"]["stage_rounds"]]

    def start(self) -> None:
        shown = gr.State(None)
        loop_tab = self.tab["Loop"]
        outputs = [
            self.header.status,
            self.header.offer,
            self.header.cancel,
            self.tab["Models"]["outcome"],
            self.tab["Compare"]["chips"],
            *self.rounds,
        ]
        outputs += [
            loop_tab["run"],
            loop_tab["overlay"],
            loop_tab["new_run"],
            *loop_tab["form"].settings.values(),
            loop_tab["form"].tools,
            shown,
        ]

        def tick(last: Shown | None, run: str | None, *chosen: str) -> dict[Component, Any]:
            now = shown_now(self.studio)
            return {shown: now, **self.updates(last, now, chosen, run)}

        # Gradio may close its stream on events that have just been sent; the next event opens one again and
        # brings their answers. So this one must come whatever is pending: see test_stream.py.
        follow_news("page", tick, [shown, loop_tab["run"], *self.rounds], outputs, mode="multiple")

    def updates(
        self, last: Shown | None, now: Shown, chosen: tuple[str, ...], run: str | None = None
    ) -> dict[Component, Any]:
        """Only what has changed since `last`. The page has `chosen` these rounds and this run."""
        update = self.of_the_header(last, now)
        if last is None or now.choices != last.choices:
            for component, value in zip(self.rounds, chosen, strict=True):
                kept = value if value in now.choices else PAIR  # else its run was deleted
                update[component] = gr.update(choices=now.choices, value=kept)
        update |= self.of_runs(last, now, run)
        if now.preset != (last.preset if last else self.studio.first_preset):
            update |= self.of_another_preset()
        return update

    def of_runs(self, last: Shown | None, now: Shown, chosen: str | None) -> dict[Component, Any]:
        """The list of runs. Every page goes to a run that somebody starts; it may go back."""
        parts = self.tab["Loop"]
        update: dict[Component, Any] = {}
        if last is None or now.runs != last.runs:
            update[parts["run"]] = gr.update(choices=now.runs)
            update[parts["overlay"]] = gr.update(choices=loop.overlay_choices(now.runs))
        if last is None:
            update[parts["new_run"]] = gr.update(open=not now.runs)  # a run's curves come first
        listed = {name for _, name in now.runs}
        kept = chosen if chosen in listed and (last is not None or chosen != parts["run"].value) else None
        started = now.running is not None and (last is None or now.running != last.running)
        if started and (last is not None or kept is None):
            update[parts["run"]] = gr.update(choices=now.runs, value=now.running)
        elif kept is None and parts["run"] in update:
            update[parts["run"]] = gr.update(choices=now.runs, value=loop.newest())
        elif last is None:
            update[parts["run"]] = gr.update(choices=now.runs, value=kept)
        return update

    def of_the_header(self, last: Shown | None, now: Shown) -> dict[Component, Any]:
        update: dict[Component, Any] = {}
        if last is None or now.status != last.status:
            update[self.header.status] = now.status
        if last is None or now.outcome != last.outcome:
            update[self.tab["Models"]["outcome"]] = now.outcome
        if last is None or now.offer != last.offer:
            update[self.header.offer] = gr.update(value=now.offer, visible=bool(now.offer))
        if last is None or now.can_cancel != last.can_cancel:
            update[self.header.cancel] = gr.update(value="Cancel", visible=now.can_cancel)
        return update

    def of_another_preset(self) -> dict[Component, Any]:
        examples = [[problem.prompt] for problem in self.studio.loader.examples]
        return {
            self.tab["Compare"]["chips"]: gr.Dataset(samples=examples),
            **self.tab["Loop"]["form"].of(self.studio.preset),
        }
