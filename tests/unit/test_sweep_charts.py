"""Charts of sweeps: accuracy against tokens, accuracy and think rate over t."""

from ui.explore import sweep_charts
from ui.explore.sweep_charts import Curve
from unit.test_charts import drawn, sweep_of


def curve(name: str, *rights: int, flip: float | None = None, zone: list[float] | None = None) -> Curve:
    rows = sweep_of(*rights)
    costs = [{**row, "mean_tokens": 10.0 * (i + 1)} for i, row in enumerate(rows)]
    return Curve(name, costs, flip, zone or [], costs[-1])


def test_without_sweeps_the_charts_show_their_hints():
    assert sweep_charts.figures([]) == ("", "", "")


def test_the_frontier_has_a_line_per_sweep_a_point_per_t_and_a_star():
    lines = drawn(sweep_charts.frontier([curve("Round 0", 30, 5, 90), curve("a run", 50, 90)]))["data"]
    first, second, *stars = lines
    assert (first["x"], first["y"]) == ([10, 20, 30], [30, 5, 90])
    assert first["name"] == "Round 0 ★ t = 1"
    assert second["x"] == [10, 20]
    assert [(star["x"], star["y"]) for star in stars] == [([30], [90]), ([20], [90])]
    assert [star["marker"]["line"]["color"] for star in stars] == [
        line["line"]["color"] for line in lines[:2]
    ]
    assert "t = 0.5: 5.0 %" in first["hovertext"][1] and "20 tokens" in first["hovertext"][1]


def test_a_sweep_that_goes_on_has_no_star():
    going_on = Curve("Round 0 (so far)", sweep_of(30, 90), None, [], None)
    [line] = drawn(sweep_charts.frontier([going_on]))["data"]
    assert line["name"] == "Round 0 (so far)"


def test_m19_each_sweep_has_its_own_flip_and_broken_zone_in_its_colour():
    """Of two sweeps only the last one's were marked, and "flip 0.61" stood across the curve."""
    one = curve("one", 30, 5, 90, flip=0.75, zone=[0.5])
    two = curve("two", 40, 60, 90, flip=0.25)
    three = curve("three", 60, 5, 6, 90, zone=[0.3, 0.6])
    figure = drawn(sweep_charts.accuracy([one, two, three]))
    lines = figure["data"][1::2]
    names = [line["name"] for line in lines]
    assert names == [
        "one ┆ flip 0.75 ▒ broken zone 0.5",
        "two ┆ flip 0.25",
        "three ▒ broken zone 0.3 to 0.6",
    ]
    of_one, flip_of_one, flip_of_two, of_three = figure["layout"]["shapes"]
    assert (of_one["type"], flip_of_one["type"], of_three["type"]) == ("rect", "line", "rect")
    assert of_one["x0"] < 0.5 < of_one["x1"]
    assert (flip_of_one["x0"], flip_of_two["x0"]) == (0.75, 0.25)
    colours = [line["line"]["color"] for line in lines]
    assert [flip_of_one["line"]["color"], flip_of_two["line"]["color"]] == colours[:2]
    assert of_one["fillcolor"] != of_three["fillcolor"]
    assert "annotations" not in figure["layout"]  # nothing is written across the curves


def test_think_rate_and_tokens_have_a_scale_each():
    rate, tokens = drawn(sweep_charts.thinking([curve("Round 0", 30, 90)]))["data"]
    assert (rate.get("yaxis", "y"), tokens["yaxis"]) == ("y", "y2")
    assert tokens["y"] == [10, 20]
