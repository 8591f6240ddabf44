"""Charts as the browser gets them, and the small parts of the theme."""

import json

import pytest

from ui.widgets import charts, html, theme


def drawn(text: str) -> dict:
    """Strict JSON, as the browser reads it: no NaN."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def plain(values) -> list:
    """Numbers of a trace; plotly may pack an array as base64."""
    if isinstance(values, dict):
        import base64

        import numpy as np

        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return list(values)


def distil(round, steps, total):
    return [
        dict(phase="distil", round=round, step=step, total=total, loss=round + 1 / step) for step in steps
    ]


def measure(round, checkpoint, right, n=100):
    from thinkswitch.statistics import wilson

    low, high = wilson(right, n)
    return dict(
        phase="measure",
        round=round,
        checkpoint=checkpoint,
        step=n,
        total=n,
        n=n,
        correct=right,
        accuracy=right / n,
        low=low,
        high=high,
        think_rate=float(checkpoint == "thinking"),
        mean_tokens=40.0,
    )


def test_loss_is_one_line_a_round_and_a_resumed_run_s_steps_count_once():
    """Killed at step 7 of 10, resumed from the save at 5: steps 6 and 7 are told twice."""
    events = [
        dict(phase="think", round=1, step=1, total=2),
        *distil(1, range(1, 8), 10),
        *distil(1, range(6, 11), 10),
        *distil(2, range(1, 4), 10),
    ]
    one, two = drawn(charts.loss(events))["data"]
    assert plain(one["x"]) == list(range(1, 11)) and plain(two["x"]) == [11, 12, 13]
    assert plain(one["y"]) == pytest.approx([1 + 1 / s for s in range(1, 11)]) and plain(
        two["y"]
    ) == pytest.approx([3, 2.5, 2 + 1 / 3])
    assert (one["name"], two["name"]) == ("round 1", "round 2") and one["line"]["color"] != two["line"][
        "color"
    ]


def test_loss_before_anything_was_learnt():
    assert (
        charts.loss([dict(phase="think", round=1, step=1, total=2)]) == ""
    )  # an empty chart says what will be there
    long = drawn(charts.loss(distil(1, range(1, 20_001), 20_000)))["data"][0]
    assert (
        len(plain(long["x"])) <= charts.MOST_POINTS + 1
        and plain(long["x"])[0] == 1
        and plain(long["x"])[-1] == 20_000
    )


@pytest.mark.parametrize("n", [0, 1, 2, 799, 800, 801, 802, 1599, 1600, 1601, 12_345])
def test_thinned_keeps_the_ends(n):
    rows = charts.thinned(list(range(n)))
    assert (
        len(rows) <= charts.MOST_POINTS + 1
        and rows == sorted(set(rows))
        and (rows == list(range(n)) if n <= 800 else len(rows) >= 400)
    )
    assert not n or (rows[0], rows[-1]) == (0, n - 1)


def test_accuracy_bands_hold_their_line():
    """A band goes there and back: the upper edge, then the lower one reversed."""
    measured = [
        measure(r, c, k)
        for r, (i, t) in enumerate([(35, 99), (62, 100), (75, 0)])
        for c, k in (("instruct", i), ("thinking", t))
    ]
    bands = drawn(charts.accuracy(measured))["data"]
    assert [t.get("name") for t in bands[1::2]] == ["instruct", "thinking"]
    for band, line in zip(bands[::2], bands[1::2]):
        x, y = plain(band["x"]), plain(band["y"])
        assert x == [0, 1, 2, 2, 1, 0] and plain(line["x"]) == [0, 1, 2] and band["fill"] == "toself"
        high, low = y[:3], y[:2:-1]
        assert all(0 <= lo <= at <= hi <= 100 for lo, at, hi in zip(low, plain(line["y"]), high)) and all(
            hi - lo > 3 for lo, hi in zip(low, high)
        )
    assert bands[1]["text"][0] == "35/100 = 35.0 % [26.4, 44.7]"
    assert bands[1]["marker"]["symbol"] != bands[3]["marker"]["symbol"]  # told apart without colour, too


def test_every_figure_is_json():
    rows = [dict(measure(0, "instruct", right), t=t) for t, right in ((0.0, 30), (0.5, 5), (1.0, 90))]
    right, think = map(drawn, charts.spectrum({"the pair": rows, "a run · round 1": rows}, [0.5], 0.75))
    assert (
        len(right["data"]) == 4
        and [s["type"] for s in right["layout"]["shapes"]] == ["rect", "line"]
        and right["layout"]["shapes"][0]["x0"] < 0.5 < right["layout"]["shapes"][0]["x1"]
    )
    assert "flip 0.75" in json.dumps(right["layout"]["annotations"]) and len(think["data"]) == 4
    assert (
        charts.spectrum({}, [], None) == ("", "")
        and charts.accuracy([]) == ""
        and len(drawn(charts.tokens([measure(0, "instruct", 3)]))["data"]) == 4
    )
    heat = drawn(charts.heatmap("x", ["q", "k"], [[1.0, None], [float("nan"), 2.0]], "°", "Blues", zmin=0))[
        "data"
    ][0]
    assert heat["z"] == [[1.0, None], [None, 2.0]]
    strip = drawn(charts.probability([0.0, 0.5, 1.0], [0.0, 0.2, 1.0], 0.3))
    assert strip["layout"]["shapes"][0]["x0"] == 0.3 and plain(strip["data"][0]["y"]) == [0, 0.2, 1]


def test_rgba():
    assert charts.rgba("#10ff80", 0.5) == "rgba(16,255,128,0.5)"


def test_the_blend_s_colour_is_as_far_as_t_is():
    assert theme.blend_colour(0) == f"color-mix(in oklab, {theme.INSTRUCT} 100%, {theme.THINKING})"
    assert theme.blend_colour(1) == f"color-mix(in oklab, {theme.INSTRUCT} 0%, {theme.THINKING})"
    assert [theme.blend_colour(t).split("%")[0].split()[-1] for t in (0.25, 0.5, 0.8)] == ["75", "50", "20"]
    assert theme.INSTRUCT != theme.THINKING


@pytest.mark.parametrize(
    "done, total, width", [(0, 0, "0.0"), (0, 4, "0.0"), (1, 3, "33.3"), (9, 4, "100.0")]
)
def test_bars(done, total, width):
    assert f"width:{width}%" in html.progress_bar(done, total)
