"""The Explore tab: schedules, the grid of layers, the verdict."""

import pytest

from thinkswitch import recipe
from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from ui.tabs import explore
from ui.widgets import html
from unit.test_charts import measure


def test_explore_names_the_ablations_that_the_engine_has(studio):
    assert tuple(recipe.ablations(4)) == explore.NAMES and explore.NAMES[0] == explore.UNIFORM
    assert explore.ablations(studio) == recipe.ablations(studio.loaded.pair.config.num_hidden_layers)


def test_a_depth_curve_as_people_write_it():
    assert explore.schedule_of((1, 0.5, 1, 0, "0, 0.5;1 ,")) == Schedule(1, 0.5, 1, 0, (0, 0.5, 1))
    assert explore.schedule_of((1, 1, 1, 1, "1")) == Schedule()
    for depth, says in (
        ("0, a", "write numbers with commas"),
        ("", "depth must hold"),
        ("3", "depth must lie between 0 and 2"),
        ("nan", "depth must lie"),
        (None, "write numbers"),
    ):
        with pytest.raises(UserError, match=says):
            explore.schedule_of((1, 1, 1, 1, depth))
    assert (
        explore.short(Schedule(mlp=0.5, depth=(0.0, 1.0))) == "mlp 0.5, depth curve"
        and explore.short(Schedule()) == ""
    )


def test_layers_by_modules_leave_nothing_in_a_layer_out(studio):
    names = studio.loaded.pair.names
    columns, cells = explore.grid({n: float(i) for i, n in enumerate(names)})
    layered = [n for n in names if recipe.layer_of(n) is not None]
    assert sorted(x for row in cells for x in row) == sorted(float(names.index(n)) for n in layered)
    assert len(cells) == studio.loaded.pair.config.num_hidden_layers and {
        "q_proj",
        "down_proj",
        "input_layernorm",
    } <= set(columns)


def test_what_is_not_ours_is_escaped():
    assert (
        html.error('<img src=x onerror="x()"> & co')
        == '<span class="error">&lt;img src=x onerror=&#34;x()&#34;&gt; &amp; co</span>'
    )
    sweep = [dict(measure(0, "instruct", 30), t=0.0), dict(measure(0, "thinking", 90), t=1.0)]
    assert "<script>" not in explore.verdict_html(
        "<script>x</script>", sweep
    ) and "&lt;script&gt;" in explore.verdict_html("<script>x</script>", sweep)
