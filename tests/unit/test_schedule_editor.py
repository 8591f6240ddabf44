"""The schedule in force: its name in the editor, and the chip that other tabs show."""

import gradio as gr
import pytest

from thinkswitch import recipe
from thinkswitch.recipe import Schedule
from ui.widgets import schedule_editor

SIX_LAYERS = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(6)]


@pytest.mark.parametrize("name", list(recipe.ablations(6)))
def test_a_schedule_that_equals_an_ablation_has_its_name(name):
    schedule = recipe.ablations(6)[name]
    assert schedule_editor.title(schedule, SIX_LAYERS) == name
    assert schedule_editor.name_update(schedule, SIX_LAYERS) == gr.update(
        choices=list(recipe.ablations(6)), value=name
    )


def test_an_edited_schedule_is_custom_and_says_what_it_changes():
    schedule = Schedule(attention=0, norm=0.5, embedding=0)
    assert schedule_editor.title(schedule, SIX_LAYERS) == "Attention × 0, Norm × 0.5, Embedding × 0"
    update = schedule_editor.name_update(schedule, SIX_LAYERS)
    assert (update["value"], update["choices"][-1]) == ("custom", "custom")


def test_without_a_pair_an_ablation_of_depth_cannot_be_told():
    schedule = recipe.ablations(6)["last two thirds"]
    assert schedule_editor.title(schedule, None) == "Embedding × 0, depth curve"
    assert schedule_editor.title(Schedule(), None) == "uniform"
    of_another_depth = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(9)]
    assert schedule_editor.ablation_of(schedule, of_another_depth) is None


def test_a_flat_depth_curve_is_no_schedule():
    assert schedule_editor.schedule_of((1, 1, 1, 1, "1, 1, 1")) == Schedule()


def test_the_chip_is_there_only_while_a_schedule_is_in_force():
    update = schedule_editor.chip_update(Schedule(mlp=0.5), SIX_LAYERS)
    assert (update["value"], update["visible"]) == ("Schedule: MLP × 0.5 – reset", True)
    assert not schedule_editor.chip_update(Schedule(), SIX_LAYERS)["visible"]
