"""Asking Compare a question, and what its page then shows."""

import dataclasses
import json

from thinkswitch.recipe import Schedule
from ui.compare import answering, trace_curve
from ui.compare.question import (
    COLUMNS,
    STAGES,
    Question,
    all_columns,
)
from ui.run_control import PAIR
from ui.sessions import Screen

ASK = Question("What is 4 + 5 - 2?", 0.5, PAIR, "auto", "greedy", 0.6, 0.95, 20, 0, 0, Schedule())


def at(t):
    return dataclasses.replace(ASK, t=t)


def ask(page, click, asked=ASK, batch=None):
    """Begin to answer a click."""
    return answering.answer(page, "s", click, asked, batch or all_columns(asked))


def watch(page):
    return page.sessions.get("s").watch(COLUMNS)


def shown(page) -> Screen:
    """What is shown when all is done."""
    return list(watch(page))[-1]


def run(page, click, asked=ASK, batch=None) -> Screen:
    ask(page, click, asked, batch)
    return shown(page)


def titles(screen):
    return [screen.parts[column]["title"] for column in COLUMNS]


def grow(page, asked=ASK, request=None):
    """The points and probabilities of the curve, each time it is drawn."""
    request = request or page.sessions.get("s").supersede(1, "trace_chart")
    charts = [chart for chart in trace_curve.growing(page, request, asked) if chart]
    figures = [json.loads(chart)["data"][0] for chart in charts]
    return [(figure["x"], figure["y"]) for figure in figures]


def last_screen(page) -> Screen:
    """What is shown when answers and curve are done."""
    return list(page.sessions.get("s").watch((*COLUMNS, *STAGES, "trace_chart")))[-1]
