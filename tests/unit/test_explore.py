"""The Explore tab: sweeps, angles, and the schedule editor."""

import dataclasses

import gradio as gr
import pytest

from thinkswitch import recipe
from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset
from thinkswitch.recipe import Schedule
from ui.studio import Studio
from ui.tabs import explore
from ui.widgets import layer_charts, schedule_editor
from unit.test_charts import drawn, measure

HOSTILE = "<script>x</script>"


def by_id(page: gr.Blocks) -> dict:
    return {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}


def built(studio: Studio) -> dict:
    with gr.Blocks() as page:
        explore.build(studio, gr.State(Schedule()))
    return by_id(page)


# ---- sweeps


@pytest.mark.parametrize("held_out", [1, 8, 400])
def test_the_slider_of_problems_offers_what_the_preset_has(held_out):
    """Its least value was 10: with held_out = 8 its value lay below that, and Sweep was refused."""
    preset = dataclasses.replace(load_preset("tiny"), held_out=held_out)
    slider = built(Studio(preset, "tiny"))["explore-problems"]
    assert slider.minimum == 1
    assert slider.minimum <= slider.value <= slider.maximum == max(2, held_out)  # Gradio refuses 1 to 1
    assert slider.preprocess(slider.value) == slider.value


@pytest.mark.parametrize("count, value", [(0, 1), (1, 1), (8, 8), (400, 100)])
def test_the_slider_follows_another_preset(count, value):
    """Its bounds were those of the first preset, as long as the app ran."""
    update = explore.problem_bounds(count)
    assert (update["maximum"], update["value"]) == (max(2, count), value)


def test_only_what_has_changed_is_sent():
    """The number of problems that a visitor has chosen stays, as long as the preset does."""
    studio = Studio(load_preset("tiny"), "tiny")
    with gr.Blocks():
        slider = gr.Slider(1, len(studio.loader.problems), 100)
        others = [gr.State(None) for _ in dataclasses.fields(explore.View)[1:]]
        view = explore.View(slider, *others)
    first = explore.refresh(studio, view, None, "Round 0")
    assert set(first) == {view.seen, view.accuracy, view.think, view.status, view.stop}
    assert explore.refresh(studio, view, first[view.seen], "Round 0") == {}
    studio.loader.problems = dict(list(studio.loader.problems.items())[:8])
    later = explore.refresh(studio, view, first[view.seen], "Round 0")
    assert set(later) == {view.seen, view.problems}
    assert (later[view.problems]["maximum"], later[view.problems]["value"]) == (8, 8)


def test_a_verdict_is_told_in_words_and_its_name_is_text():
    sweep = [{**measure(0, "instruct", 30), "t": 0.0}, {**measure(0, "thinking", 90), "t": 1.0}]
    said = explore.verdict_html(HOSTILE, sweep)
    assert "<script>" not in said
    assert "&lt;script&gt;" in said
    assert "100 problems: best at t = 1 with 90.0 %" in said
    assert "sets in at t = 0.50" in said
    assert "No broken zone" in said


@dataclasses.dataclass
class Task:
    done: int = 0
    total: int = 0
    ended: bool = False
    error: str | None = None
    cancelled: bool = False


def test_the_status_of_a_sweep():
    assert "Sweeping …" in explore.status_html(Task(), {})  # not: 0 of 0 answers
    assert "Sweeping: 1,000 of 2,000 answers" in explore.status_html(Task(1000, 2000), {})
    failed = explore.status_html(Task(ended=True, error=HOSTILE), {})
    assert 'class="error"' in failed
    assert "<script>" not in failed
    stopped = explore.status_html(Task(ended=True, error="the sweep was stopped", cancelled=True), {})
    assert "The sweep was stopped." in stopped
    assert 'class="error"' not in stopped  # who stops it knows
    assert "A sweep scores points" in explore.status_html(None, {})


# ---- layers and modules


def test_layers_by_modules_leave_nothing_in_a_layer_out(studio):
    names = studio.loaded.pair.names
    columns, rows = layer_charts.grid({name: float(i) for i, name in enumerate(names)})
    layered = [name for name in names if recipe.layer_of(name) is not None]
    assert sorted(x for row in rows for x in row) == sorted(float(names.index(name)) for name in layered)
    assert len(rows) == studio.loaded.pair.config.num_hidden_layers
    assert {"q_proj", "down_proj", "input_layernorm"} <= set(columns)
    assert layer_charts.grid({"model.embed_tokens.weight": 1.0}) == ([], [])


def test_the_preview_shows_the_t_that_each_tensor_gets(studio):
    names = studio.loaded.pair.names
    only_mlp = Schedule(attention=0, norm=0, embedding=0)
    heat = drawn(layer_charts.scheduled(names, only_mlp, 0.8))["data"][0]
    for row in heat["z"]:
        by_module = dict(zip(heat["x"], row, strict=True))
        assert by_module["down_proj"] == 0.8
        assert by_module["q_proj"] == by_module["input_layernorm"] == 0


def test_a_preview_counts_the_layers_once(monkeypatch):
    """Counted for each tensor anew, 400 tensors took 117 ms instead of 3 ms at each move of a slider."""
    counted = []
    count = recipe.count_layers
    monkeypatch.setattr(recipe, "count_layers", lambda names: counted.append(1) or count(names))
    layer_charts.scheduled([f"model.layers.{i}.mlp.up_proj.weight" for i in range(40)], Schedule(), 0.5)
    assert counted == [1]


def test_angles_are_those_of_the_gram_matrices(studio):
    start = studio.loaded.start
    chart, said = layer_charts.angles(start)
    name = "model.layers.0.mlp.down_proj.weight"
    cosine = recipe.cosine(start.gram[name], start.instruct[name], start.thinking[name])
    heat = drawn(chart)["data"][0]
    assert heat["z"][0][heat["x"].index("down_proj")] == pytest.approx(recipe.degrees(cosine))
    assert "SLERP and LERP differ" in said


def test_a_tensors_name_is_text(studio):
    """Names of tensors come from the file's header."""
    start = studio.loaded.start
    name, hostile = "model.layers.0.mlp.down_proj.weight", f"model.layers.0.mlp.{HOSTILE}.weight"
    one = dataclasses.replace(
        start,
        gram={hostile: start.gram[name]},
        instruct={hostile: start.instruct[name]},
        thinking={hostile: start.thinking[name]},
    )
    chart, said = layer_charts.angles(one)
    assert "<script>" not in chart + said
    assert "&lt;script&gt;" in said


# ---- the schedule


def test_the_editor_offers_the_ablations_that_the_engine_has():
    page = built(Studio(load_preset("tiny"), "tiny"))
    assert [name for name, _ in page["schedule-name"].choices] == list(recipe.ablations(4))
    factors = [page[f"schedule-{kind}"].value for kind in schedule_editor.KINDS]
    assert schedule_editor.schedule_of([*factors, page["schedule-depth"].value]) == Schedule()


def test_a_factor_goes_to_its_own_kind():
    values = dict(zip(schedule_editor.KINDS, (0.1, 0.2, 0.3, 0.4), strict=True))
    assert schedule_editor.schedule_of([*values.values(), "1"]) == Schedule(**values)


def test_a_depth_curve_as_people_write_it():
    read = schedule_editor.schedule_of
    assert read((1, 0.5, 1, 0, "0, 0.5;1 ,")) == Schedule(1, 0.5, 1, 0, (0, 0.5, 1))
    assert read((1, 1, 1, 1, "1")) == Schedule()


@pytest.mark.parametrize(
    "depth, says",
    [
        ("0, a", "write numbers with commas"),
        ("", "depth must hold"),
        ("3", "depth must lie between 0 and 2"),
        ("nan", "depth must lie"),
        (None, "write numbers"),
    ],
)
def test_an_unreadable_depth_curve_is_refused(depth, says):
    with pytest.raises(UserError, match=says):
        schedule_editor.schedule_of((1, 1, 1, 1, depth))


def test_a_schedule_in_a_few_words():
    assert schedule_editor.short(Schedule(mlp=0.5, depth=(0.0, 1.0))) == "MLP × 0.5, depth curve"
    assert schedule_editor.short(Schedule()) == ""
