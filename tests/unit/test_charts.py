"""Charts as the browser gets them."""

import json
import math

import pytest

from thinkswitch.statistics import wilson
from ui.explore import sweep_charts
from ui.loop import run_charts
from ui.widgets import charts, layer_charts


def drawn(text: str) -> dict:
    """Strict JSON, as the browser reads it: no NaN."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def distil(number: int, steps, total: int) -> list[dict]:
    return [
        {"phase": "distil", "round": number, "step": step, "total": total, "loss": number + 1 / step}
        for step in steps
    ]


def measure(number: int, checkpoint: str, right: int, n: int = 100) -> dict:
    """The event that ends a measurement."""
    low, high = wilson(right, n)
    return {
        "phase": "measure",
        "round": number,
        "checkpoint": checkpoint,
        "step": n,
        "total": n,
        "n": n,
        "correct": right,
        "accuracy": right / n,
        "low": low,
        "high": high,
        "think_rate": float(checkpoint == "thinking"),
        "mean_tokens": 40.0,
    }


def test_loss_is_one_line_a_round_and_a_resumed_runs_steps_count_once():
    """Killed at step 7 of 10, resumed from the save at 5: steps 6 and 7 are in the events twice."""
    events = [
        {"phase": "think", "round": 1, "step": 1, "total": 2},
        *distil(1, range(1, 8), 10),
        *distil(1, range(6, 11), 10),
        *distil(2, range(1, 4), 10),
    ]
    one, two = drawn(run_charts.loss(events))["data"]
    assert one["x"] == list(range(1, 11))
    assert two["x"] == [11, 12, 13]
    assert one["y"] == pytest.approx([1 + 1 / step for step in range(1, 11)])
    assert two["y"] == pytest.approx([3, 2.5, 2 + 1 / 3])
    assert (one["name"], two["name"]) == ("round 1", "round 2")
    assert one["line"]["color"] != two["line"]["color"]


def test_a_long_round_gets_a_running_mean_with_its_own_steps():
    events = distil(1, range(1, 101), 100)
    single, mean = drawn(run_charts.loss(events))["data"]
    losses = [event["loss"] for event in events]
    n = run_charts.MEAN_STEPS
    assert mean["x"] == list(range(n, 101))
    assert mean["y"] == pytest.approx([sum(losses[end - n : end]) / n for end in range(n, 101)])
    assert single["x"] == list(range(1, 101))
    assert not single["showlegend"]  # one entry a round


def test_there_is_no_loss_before_distillation():
    """An empty value: the chart shows its hint."""
    assert run_charts.loss([{"phase": "think", "round": 1, "step": 1, "total": 2}]) == ""


def test_a_line_has_no_more_points_than_can_be_seen():
    x = drawn(run_charts.loss(distil(1, range(1, 20_001), 20_000)))["data"][0]["x"]
    assert len(x) <= charts.MAX_POINTS + 1
    assert (x[0], x[-1]) == (1, 20_000)


@pytest.mark.parametrize("n", [0, 1, 2, 799, 800, 801, 802, 1599, 1600, 1601, 12_345])
def test_thinning_keeps_order_and_ends(n):
    rows = charts.thinned(list(range(n)))
    assert len(rows) <= charts.MAX_POINTS + 1
    assert rows == sorted(set(rows))
    assert rows == list(range(n)) if n <= charts.MAX_POINTS else len(rows) >= charts.MAX_POINTS // 2
    assert not n or (rows[0], rows[-1]) == (0, n - 1)


def test_accuracy_bands_hold_their_line():
    """A band goes there and back: the upper edge, then the lower one reversed."""
    rights = [(35, 99), (62, 100), (75, 0)]
    measured = [
        measure(number, role, right)
        for number, pair in enumerate(rights)
        for role, right in zip(("instruct", "thinking"), pair, strict=True)
    ]
    traces = drawn(run_charts.accuracy(measured))["data"]
    bands, lines = traces[::2], traces[1::2]
    assert [line["name"] for line in lines] == ["instruct", "thinking"]
    for band, line in zip(bands, lines, strict=True):
        assert band["x"] == [0, 1, 2, 2, 1, 0]
        assert line["x"] == [0, 1, 2]
        assert band["fill"] == "toself"
        high, low = band["y"][:3], band["y"][:2:-1]
        for lower, at, upper in zip(low, line["y"], high, strict=True):
            assert 0 <= lower <= at <= upper <= 100
            assert upper - lower > 3
    assert lines[0]["text"][0] == "35/100 = 35.0 % [26.4, 44.7]"
    assert lines[0]["marker"]["symbol"] != lines[1]["marker"]["symbol"]  # told apart without colour, too


def test_tokens_and_think_rate_have_a_scale_each():
    assert run_charts.accuracy([]) == run_charts.tokens([]) == ""


def test_there_is_no_round_before_round_0():
    """A run's first measurement stood in the middle of an axis from -1 to 1."""
    first, last = measure(0, "instruct", 35), measure(3, "instruct", 62)
    for chart in (run_charts.accuracy, run_charts.tokens):
        assert drawn(chart([first]))["layout"]["xaxis"]["range"] == [-0.2, 1.2]
        assert drawn(chart([first, last]))["layout"]["xaxis"]["range"] == [-0.2, 3.2]
    traces = drawn(run_charts.tokens([measure(0, "instruct", 3), measure(0, "thinking", 9)]))["data"]
    assert len(traces) == 4
    scales = {trace["name"]: trace.get("yaxis", "y") for trace in traces}
    assert scales == {
        "instruct": "y",
        "instruct, think rate": "y2",
        "thinking": "y",
        "thinking, think rate": "y2",
    }
    assert [t["name"] for t in traces if t.get("showlegend", True)] == ["instruct", "thinking"]


def test_another_run_is_laid_over_dashed_with_its_name():
    hostile = "<b>a control that has a very long name"
    events = [*distil(1, range(1, 4), 3), measure(0, "instruct", 3), measure(0, "thinking", 9)]
    other = run_charts.Overlay(hostile, events)
    measured = events[-2:]
    for chart, alone in (
        (run_charts.loss(events, other), run_charts.loss(events)),
        (run_charts.accuracy(measured, other), run_charts.accuracy(measured)),
        (run_charts.tokens(measured, other), run_charts.tokens(measured)),
    ):
        lines, before = drawn(chart)["data"], drawn(alone)["data"]
        added = lines[len(before) :]
        assert lines[: len(before)] == before
        assert all(line["line"]["dash"] == "dash" for line in added)
        [entry] = [line for line in added if line.get("showlegend", True)]
        assert entry["name"].startswith("&lt;b&gt;a control") and entry["name"].endswith("…")
    assert run_charts.accuracy([], other) == run_charts.tokens([], other) == run_charts.loss([], other) == ""


def test_a_round_tells_what_has_changed_since_round_0():
    row = {**measure(3, "instruct", 43), "since_start": {"gained": 112, "lost": 20, "p": 1e-16}}
    line = drawn(run_charts.accuracy([row]))["data"][1]
    assert line["text"][0].endswith("<br>+112 −20 against round 0, p = 1e-16")


def sweep_of(*rights: int) -> list[dict]:
    ts = [i / (len(rights) - 1) for i in range(len(rights))]
    return [{**measure(0, "instruct", right), "t": t} for t, right in zip(ts, rights, strict=True)]


def test_what_is_not_a_number_leaves_a_gap():
    rows = [[1.0, None], [math.nan, 2.0]]
    heat = drawn(layer_charts.heatmap("x", ["q", "k"], rows, "°", [[0, "#fff"], [1, "#000"]], zmin=0))[
        "data"
    ][0]
    assert heat["z"] == [[1.0, None], [None, 2.0]]


def test_the_strip_shows_where_the_slider_stands():
    strip = drawn(charts.probability([0.0, 0.5, 1.0], [0.0, 0.2, 1.0], 0.3, []))
    assert strip["layout"]["shapes"][0]["x0"] == 0.3
    assert strip["data"][0]["y"] == [0, 0.2, 1]


def test_the_accuracy_of_a_sweep_lies_behind_the_curve():
    strip = drawn(charts.probability([0.0, 1.0], [0.0, 1.0], 0.3, sweep_of(30, 5, 90)))
    accuracy, curve = strip["data"]
    assert accuracy["y"] == [row["accuracy"] for row in sweep_of(30, 5, 90)] and accuracy["opacity"] < 1
    assert curve["y"] == [0.0, 1.0] and "accuracy" in strip["layout"]["annotations"][0]["text"]


def test_names_in_a_chart_are_text():
    """Plotly reads tags in a label, and the name of a run or tensor comes from outside."""
    hostile = '<a href="javascript:x()">x</a>'
    charts_of_it = [
        *sweep_charts.figures([sweep_charts.Curve(hostile, sweep_of(1, 2), 0.5, [0.5], sweep_of(1, 2)[0])]),
        layer_charts.heatmap("x", [hostile], [[1.0]], "°", [[0, "#fff"], [1, "#000"]]),
    ]
    for chart in charts_of_it:
        assert "<a" not in chart
        assert "&lt;a" in chart


def test_rgba():
    assert charts.rgba("#10ff80", 0.5) == "rgba(16,255,128,0.5)"
