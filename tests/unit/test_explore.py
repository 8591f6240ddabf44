"""The Explore tab: sweeps, angles, and the schedule editor."""

import dataclasses

import gradio as gr
import pytest

from thinkswitch import recipe
from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset
from thinkswitch.recipe import Schedule
from ui.explore import sweep_charts, sweep_points, sweep_report
from ui.explore import tab as explore
from ui.studio import Studio
from ui.sweeps import Sweep
from ui.widgets import layer_charts, schedule_editor
from unit.test_charts import drawn, measure, sweep_of

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


def view_of(studio: Studio) -> explore.View:
    with gr.Blocks():
        slider = gr.Slider(1, max(2, len(studio.loader.problems)), 100)
        others = [gr.State(None) for _ in dataclasses.fields(explore.View)[1:]]
        return explore.View(slider, *others)


def test_only_what_has_changed_is_sent():
    """The number of problems that a visitor has chosen stays, as long as the preset does."""
    studio = Studio(load_preset("tiny"), "tiny")
    view = view_of(studio)
    first = explore.refresh(studio, view, None, "Round 0")
    assert first[view.frontier] == first[view.accuracy] == first[view.think] == ""
    assert view.problems not in first
    assert view.angles not in first  # no pair is loaded
    assert explore.refresh(studio, view, first[view.seen], "Round 0") == {}
    studio.loader.problems = dict(list(studio.loader.problems.items())[:8])
    later = explore.refresh(studio, view, first[view.seen], "Round 0")
    assert set(later) == {view.seen, view.problems}
    assert (later[view.problems]["maximum"], later[view.problems]["value"]) == (8, 8)


def test_while_a_sweep_runs_another_cannot_be_started():
    studio = Studio(load_preset("tiny"), "tiny")
    view = view_of(studio)
    seen = explore.refresh(studio, view, None, "Round 0")[view.seen]
    studio.tasks["sweep"] = task = Task(1, 10)
    updates = explore.refresh(studio, view, seen, "Round 0")
    assert not updates[view.start]["interactive"]
    assert updates[view.stop]["interactive"]
    task.ended = True
    updates = explore.refresh(studio, view, updates[view.seen], "Round 0")
    assert updates[view.start]["interactive"]
    assert not updates[view.stop]["interactive"]


def test_a_running_sweep_is_drawn_in_place_of_the_earlier_one():
    studio = Studio(load_preset("tiny"), "tiny")
    view = view_of(studio)
    studio.keep_sweep(swept(30, 90))
    seen = explore.refresh(studio, view, None, "Round 0")
    assert seen[view.clear]["visible"]
    studio.running_sweep = dataclasses.replace(swept(20, 80), answered={0.0: 9, 1.0: 7})
    later = explore.refresh(studio, view, seen[view.seen], "Round 0")
    lines = [trace for trace in drawn(later[view.accuracy])["data"] if trace.get("name")]
    assert [line["name"].split(" \u2506")[0] for line in lines] == ["Round 0 (so far)"]
    assert lines[0]["y"] == [20, 80]
    assert view.point not in later  # what can be taken to Compare is complete


def swept(*rights: int, choice: str = "Round 0", schedule: Schedule = Schedule()) -> Sweep:
    """A sweep with so many right answers of 100 at evenly spaced points."""
    table = sweep_of(*rights)
    return Sweep(choice, choice, schedule, ("a", "b"), 100, table)


def test_a_verdict_is_told_in_words_and_its_name_is_text():
    table = [{**measure(0, "instruct", 30), "t": 0.0}, {**measure(0, "thinking", 90), "t": 1.0}]
    said = sweep_report.verdict_html(Sweep(HOSTILE, "Round 0", Schedule(), ("a", "b"), 100, table))
    assert "<script>" not in said
    assert "&lt;script&gt;" in said
    assert "100 problems: best at t = 1 with 90.0 %" in said
    assert "sets in at t = 0.50" in said
    assert "No broken zone" in said


def test_several_sweeps_are_told_side_by_side():
    """Flip and broken zone were those of the last sweep alone."""
    assert sweep_report.findings_html([swept(30, 90)]) == ""
    dip = swept(60, 5, 4, 90, choice=HOSTILE)
    said = sweep_report.findings_html([swept(30, 90), dip])
    assert "<script>" not in said
    assert said.count("<tr>") == 3
    assert "0.333333 to 0.666667" in said
    assert sweep_charts.colour(0) in said and sweep_charts.colour(1) in said


@dataclasses.dataclass
class Task:
    done: int = 0
    total: int = 0
    ended: bool = False
    error: str | None = None
    cancelled: bool = False


def test_the_status_of_a_sweep():
    status = sweep_report.status_html
    assert "Sweeping …" in status(Task(), None, [])  # not: 0 of 0 answers
    assert "Sweeping: 1,000 of 2,000 answers" in status(Task(1000, 2000), None, [])
    failed = status(Task(ended=True, error=HOSTILE), None, [])
    assert 'class="error"' in failed
    assert "<script>" not in failed
    stopped = status(Task(ended=True, error="the sweep was stopped", cancelled=True), None, [])
    assert "The sweep was stopped." in stopped
    assert 'class="error"' not in stopped  # who stops it knows
    assert "A sweep scores points" in status(None, None, [])


def test_a_running_sweep_says_how_far_each_point_is():
    running = dataclasses.replace(swept(20, 80), answered={0.0: 25, 1.0: 100})
    said = sweep_report.status_html(Task(125, 200), running, [])
    assert "125 of 200 answers" in said
    assert "drawn are the 100 of 100 problems, longest first" in said
    assert '--share:0.250" title="t = 0: 25 of 100 answers"' in said
    assert '--share:1.000" title="t = 1: 100 of 100 answers"' in said


# ---- a point for other tabs


def test_the_cheapest_point_of_the_newest_sweep_is_offered_first():
    cheap = swept(30, 90, 90)  # equal tokens: the least t among the best
    offered = sweep_points.choices([swept(1, 2, choice="a run · round 1"), cheap])
    assert offered[0] == ("Round 0, t = 0.5: 90.0 %, 40 tokens (cheapest within 1 point)", "0.5 Round 0")
    assert len(offered) == 5
    known = {"Round 0": cheap}
    assert sweep_points.find(known, offered[0][1]) == (cheap, 0.5)


@pytest.mark.parametrize("value", [None, "", "0.7 Round 0", "0.5 another", "nan Round 0", HOSTILE])
def test_a_point_that_is_gone_is_refused(value):
    with pytest.raises(UserError, match="this sweep was cleared meanwhile"):
        sweep_points.find({"Round 0": swept(30, 90, 90)}, value)


def test_a_sweep_is_found_by_round_schedule_and_pair():
    """Compare draws the accuracy of this round under this schedule behind its curve."""
    preset = load_preset("tiny")
    studio = Studio(preset, "tiny")
    pair = (preset.instruct, preset.thinking)
    half = Schedule(mlp=0.5)
    mine, scheduled = swept(30, 90), swept(20, 80, schedule=half)
    scheduled = dataclasses.replace(scheduled, name="Round 0 (half)")
    for sweep in (mine, scheduled):
        studio.keep_sweep(dataclasses.replace(sweep, pair=pair))
    assert studio.sweep_of("Round 0", Schedule()) == mine.table
    assert studio.sweep_of("Round 0", half) == scheduled.table
    assert studio.sweep_of("a run · round 1", half) is None
    studio.keep_sweep(dataclasses.replace(swept(1, 2), pair=("other", "pair")))
    assert studio.sweep_of("Round 0", Schedule()) is None


# ---- layers and modules


def test_layers_by_modules_leave_nothing_in_a_layer_out(studio):
    names = studio.loaded.pair.names
    columns, rows = layer_charts.grid({name: float(i) for i, name in enumerate(names)})
    layered = [name for name in names if recipe.layer_of(name) is not None]
    assert sorted(x for row in rows for x in row) == sorted(float(names.index(name)) for name in layered)
    assert len(rows) == studio.loaded.pair.config.num_hidden_layers
    assert {"self_attn.q_proj", "mlp.down_proj", "input_layernorm"} <= set(columns)
    assert layer_charts.grid({"model.embed_tokens.weight": 1.0}) == ([], [])


def test_modules_stand_in_the_order_of_a_layer():
    """They stood in the order of the alphabet: down_proj, gate_proj, k_proj."""
    qwen3 = [
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        *("input_layernorm", "self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm"),
    ]
    values = {f"model.layers.0.{module}.weight": 1.0 for module in sorted(qwen3)}
    columns, rows = layer_charts.grid(values)
    assert columns == qwen3
    names, edges = layer_charts.kinds_above(columns)
    assert [(name["text"], name["x"]) for name in names] == [("attention", 1.5), ("MLP", 5), ("norms", 8.5)]
    assert [edge["x0"] for edge in edges] == [3.5, 6.5]
    heat = drawn(layer_charts.heatmap("x", columns, rows, "t", [[0, "#fff"], [1, "#000"]]))
    assert heat["data"][0]["x"][-1] == "post_attention_<br>layernorm"  # in one line it was cut off
    assert not heat["layout"]["xaxis"]["showgrid"] and not heat["layout"]["yaxis"]["showgrid"]


def test_modules_of_other_families_have_their_place():
    of_lfm2 = ["feed_forward.w2", "conv.out_proj", "feed_forward.w1", "conv.in_proj", "ffn_norm", "conv.conv"]
    placed = sorted([*of_lfm2, "self_attn.q_proj.bias", "mlp.unknown"], key=layer_charts.place_in_layer)
    assert placed == [
        *("self_attn.q_proj.bias", "conv.in_proj", "conv.conv", "conv.out_proj"),
        *("feed_forward.w1", "feed_forward.w2", "mlp.unknown", "ffn_norm"),
    ]


def test_the_preview_shows_the_t_that_each_tensor_gets(studio):
    names = studio.loaded.pair.names
    only_mlp = Schedule(attention=0, norm=0, embedding=0)
    heat = drawn(layer_charts.scheduled(names, only_mlp, 0.8))["data"][0]
    for row in heat["z"]:
        by_module = dict(zip(heat["x"], row, strict=True))
        assert by_module["down_proj"] == 0.8
        assert by_module["q_proj"] == by_module["input_<br>layernorm"] == 0


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
