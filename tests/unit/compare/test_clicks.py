"""What each click of Compare decodes."""

import dataclasses

from thinkswitch.recipe import Schedule
from ui.compare import clicks as clicks_module
from ui.compare.question import (
    BEFORE_AND_AFTER,
    COLUMNS,
    RENDERED_POINTS,
    STAGES,
    Point,
    blend_alone,
    spectrum,
)
from ui.run_control import PAIR
from unit.compare.helpers import ASK, at, last_screen, run, shown


def test_the_slider_decodes_the_blend_alone_where_the_ends_stand(page, clicks, monkeypatch):
    clicks("slider_released", 1, ASK)
    clicks("slider_released", 2, at(0.7))
    clicks("slider_released", 3, dataclasses.replace(at(0.7), seed=1))
    shown(page)
    monkeypatch.setattr(page.loader, "loaded", dataclasses.replace(page.loaded))  # the ends of another pair
    clicks("slider_released", 4, dataclasses.replace(at(0.7), seed=1))
    assert [len(batch.points) for batch in clicks.asked] == [3, 1, 3, 3]


def test_the_slider_shows_the_nearest_frame_of_a_rendered_spectrum(page, clicks):
    clicks("spectrum", 1, ASK)
    frames = len(shown(page).parts["frames"])
    clicks("slider_released", 2, at(0.78), frames)
    screen = shown(page)
    assert screen.parts["blend"]["title"] == "blend · t = 0.8"
    assert "nearest of 11 points" in screen.parts["status"] and len(clicks.asked) == 1
    clicks(
        "slider_released", 3, at(0.78), frames=0
    )  # the browser has forgotten the frames: a prompt was typed
    assert shown(page).parts["frames"] == [] and clicks.asked[1:] == [blend_alone(at(0.78))]


def test_long_answers_wait_for_run(page, clicks, monkeypatch):
    monkeypatch.setattr(clicks_module, "SHORT", 5)
    clicks("setting_changed", 1, ASK)
    assert "Press Run" in shown(page).parts["status"] and clicks.asked == []


def test_stop_stops_the_clicks_before_it(page, clicks, slow):
    clicks("all_columns", 1, ASK)
    clicks("stop", 2, ASK)
    assert "stopped after" in shown(page).parts["status"]


def test_frames_of_another_prompt_are_forgotten_by_every_click(page, clicks):
    """Run on a new prompt that was refused left the old question's frames on the page."""
    clicks("spectrum", 1, ASK)
    assert len(shown(page).parts["frames"]) == 11
    clicks("all_columns", 2, dataclasses.replace(ASK, prompt=" "), frames=0)
    assert shown(page).parts["frames"] == []


def test_the_ends_are_the_checkpoints_whatever_schedule_is_in_force(page, clicks):
    """With all factors at 0 the column called thinking was instruct, and kept the schedule before."""
    zero = dataclasses.replace(ASK, schedule=Schedule(attention=0, mlp=0, norm=0, embedding=0))
    screen = run(page, 1, zero)
    instruct, blend, thinking = (screen.parts[column] for column in COLUMNS)
    assert thinking["trace"] and not instruct["trace"]
    # the blend is instruct, under the preset's template
    assert blend["answer"] == instruct["answer"] and not blend["trace"]
    screen = run(page, 2, zero, spectrum(zero))
    frames = screen.parts["frames"]
    assert [frame["t"] for frame in frames] == RENDERED_POINTS
    assert frames[-1]["title"] == "blend · t = 1" and not frames[-1]["trace"]
    assert screen.parts["thinking"]["trace"] and screen.parts["thinking"]["title"] == "thinking"


def test_a_schedule_that_changes_decodes_the_blend_anew(page, clicks):
    run(page, 1)
    scheduled = dataclasses.replace(ASK, schedule=Schedule(mlp=0))
    clicks("schedule_changed", 2, scheduled)
    last_screen(page)
    assert clicks.asked == [blend_alone(scheduled)]


def test_before_and_after_decodes_its_own_columns_in_one_batch(page, clicks):
    stages = (Point(PAIR, 0.0), Point(PAIR, 0.25), Point(PAIR, 1.0))
    asked = dataclasses.replace(ASK, view=BEFORE_AND_AFTER, stages=stages)
    clicks("all_columns", 1, asked)
    screen = last_screen(page)
    [batch] = clicks.asked
    assert batch.points == list(stages)
    shown = [screen.parts[stage] for stage in STAGES]
    assert [card["title"] for card in shown] == [
        "instruct · round 0",
        "blend · t = 0.25 · round 0",
        "thinking · round 0",
    ]
    assert "7" in shown[2]["answer"] and "trace_chart" not in screen.parts
    assert "Before and after" in screen.parts["status"]
