"""The Loop tab: what it says of a run, and what it refuses before a run starts."""

import dataclasses
import json
import os
import re

import gradio as gr
import pytest

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset
from ui.loop import run_menu, run_progress, samples
from ui.loop import tab as loop
from ui.loop import view as run_view
from ui.studio import Studio
from unit.test_charts import measure

HOSTILE = "<img src=x onerror=x()>"
NIGHT = 9 * 3600.0


def event(at: float, phase: str = "distil", number: int = 1, step: int = 1, total: int = 10, **data) -> dict:
    return {"time": at, "round": number, "phase": phase, "step": step, "total": total, **data}


def measured(at: float, number: int) -> dict:
    return {**measure(number, "thinking", 50), "time": at}


def run_of(root, events: list[dict], name: str = "run", **info):
    """A run folder with these events and this run.json."""
    folder = root / name
    runs.create(load_preset("tiny"), folder)
    runs.append(folder / "events.jsonl", *events)
    whole = {"pid": 1, "started": 0.0, "heartbeat": 0.0, "seconds": 0.0, "joules": 0.0, **info}
    runs.write_atomic(folder / "run.json", json.dumps(whole))
    return folder


def told(folder, state: str) -> str:
    return run_progress.progress_html(folder, state, list(runs.read_lines(folder / "events.jsonl")))


# ---- progress


def test_a_run_that_never_began_says_why(root):
    (root / "x").mkdir(parents=True)
    (root / "x" / "run.json").touch()
    (root / "x" / "log.txt").write_text(
        "run folder: x\nerror: <b>rounds</b> must lie between 1 and 100\n\n", encoding="utf-8"
    )
    said = run_progress.progress_html(root / "x", "refused", [])
    assert "x did not start: &lt;b&gt;rounds&lt;/b&gt; must lie" in said
    assert "error:" not in said


@pytest.mark.parametrize("state", ["running", "stopped", "interrupted", "done", "error"])
def test_what_a_run_has_written_stays_text(root, state):
    """Phase and checkpoint went into the page as they were; a run folder may come from anybody."""
    events = [
        event(1, "strip", kept=0, dropped={HOSTILE: 1}),
        event(2, "measure", checkpoint=HOSTILE, accuracy=0.5),
        event(3, HOSTILE, message=HOSTILE),
    ]
    for i in range(1, len(events) + 1):
        said = told(run_of(root, events[:i], name=f"<b>{i}"), state)
        assert "<img" not in said
        assert "<b><b>" not in said


def test_a_run_that_is_resumed_says_so_until_its_first_event(root):
    """It said "stopped 0/0 · about 0 s left" while torch was imported."""
    old = [event(100, "distil", step=5), event(101, "stopped", step=0, total=0)]
    folder = run_of(root, old, started=200.0, seconds=30.0)
    said = told(folder, "running")
    assert "resuming in round 1; torch is being imported" in said
    assert "0/0" not in said
    assert "left" not in said
    runs.append(folder / "events.jsonl", event(210, "distil", step=6))
    assert "round 1 of" in told(folder, "running")


def test_a_killed_run_that_is_resumed_says_so_too(root):
    """Its last event is an ordinary one: only its time says whose it is."""
    folder = run_of(root, [event(100, "distil", step=5)], started=200.0, seconds=30.0)
    assert "resuming" in told(folder, "running")
    assert "interrupted in round 1 (distil 5/10)" in told(folder, "interrupted")


def test_a_process_that_is_about_to_end_is_not_resuming(root):
    folder = run_of(root, [event(100, "stopped", step=0, total=0)], started=50.0)
    assert "stopped in round 1; press Resume" in told(folder, "running")


def test_a_run_that_was_stopped_says_what_it_was_doing(root):
    """It said "stopped in round 0" of one that was measuring the pair before round 1."""
    measuring = event(90, "measure", number=0, step=7, total=30, checkpoint="instruct", accuracy=0.5)
    folder = run_of(root, [measuring, event(100, "stopped", number=0, step=0, total=0)], started=50.0)
    said = told(folder, "stopped")
    assert "stopped before round 1 (measure instruct 7/30); press Resume to continue" in said
    assert "round 0" not in said and "0/0" not in said


def test_the_bar_stays_where_it_was_when_a_run_is_stopped_or_resumed(root):
    """It fell back to the beginning of the round: the event "stopped" has no steps."""
    steps = [event(90, "distil", step=10, total=10)]
    bar = told(run_of(root, steps, name="a"), "interrupted").partition("width:")[2][:5]
    folder = run_of(root, [*steps, event(100, "stopped", step=0, total=0)], name="b", started=200.0)
    for state in ("stopped", "running"):
        assert told(folder, state).partition("width:")[2].startswith(bar)
    assert "resuming in round 1" in told(folder, "running")


def test_a_stop_that_was_asked_for_is_told_until_it_happens(root):
    folder = run_of(root, [event(100, "distil", step=5)], started=50.0)
    assert "stopping" not in told(folder, "running")
    (folder / "stop").touch()
    assert told(folder, "running").count("stopping at the next step") == 1


def test_a_run_that_never_began_does_not_import_torch_for_ever(root):
    folder = run_of(root, [])
    assert "did not begin; press Resume" in told(folder, "new")
    assert "starting; torch is being imported" in told(folder, "running")


def test_the_clock_of_a_run_never_goes_back(root, monkeypatch):
    """The seconds in which torch is imported are no work: shown as such, they fell from 19 to 13 later."""
    now = 1000.0
    monkeypatch.setattr(run_progress.time, "time", lambda: now)
    folder = run_of(
        root, [event(100, "stopped", step=0, total=0)], started=990.0, heartbeat=990.0, seconds=13.0
    )
    assert "13 s of work" in told(folder, "running")
    runs.append(folder / "events.jsonl", event(999, "think"))
    assert "23 s of work" in told(folder, "running")


def test_a_suspended_machine_does_not_work(monkeypatch):
    """The last heartbeat is hours old: at most two heartbeats of that are taken for work."""
    monkeypatch.setattr(run_progress.time, "time", lambda: 10 * NIGHT)
    info = {"heartbeat": 9 * NIGHT, "seconds": 5.0}
    assert run_progress.worked_seconds(info, counting=True) == 5.0 + 2 * runs.HEARTBEAT_SECONDS
    assert run_progress.worked_seconds(info, counting=False) == 5.0
    assert (
        run_progress.worked_seconds({**info, "heartbeat": 11 * NIGHT}, counting=True) == 5.0
    )  # a clock set back
    assert run_progress.worked_seconds({}, counting=True) == 0.0


# ---- time left


def test_the_time_left_of_a_phase_leaves_out_the_night_between_stop_and_resume():
    """Steps of a second, a night in between: it said "9 h 48 min left"."""
    steps = [event(float(i), step=i, total=20) for i in range(1, 11)]
    later = [event(NIGHT + i, step=i, total=20) for i in range(11, 16)]
    said = run_progress.time_left(2, steps + later, seconds=15.0)
    assert said.startswith("4 s left in this phase")  # the step after the night counts as none


def test_the_time_left_of_a_run_leaves_out_a_night_too():
    events = [
        measured(0, 0),
        measured(60, 1),
        event(NIGHT + 60),
        measured(NIGHT + 120, 2),
        event(NIGHT + 125),
    ]
    assert run_progress.time_left(4, events, seconds=125.0) == "about 1 min 55 s left"


def test_a_pause_after_a_stop_is_none_however_short():
    events = [event(0, step=1), event(1, step=2), event(1.1, "stopped", step=0, total=0), event(8, step=3)]
    assert run_progress.working_times(events, seconds=20.0) == pytest.approx([0, 1, 1.1, 1.1])


def test_a_slow_step_is_no_pause():
    """A step of a large pair takes half a minute; the run's own clock counts it as work."""
    steps = [event(30.0 * i, step=i, total=20) for i in range(1, 11)]
    assert run_progress.time_left(2, steps, seconds=270.0).startswith("5 min 00 s left in this phase")


def test_a_clock_that_was_set_back_adds_nothing():
    times = run_progress.working_times([event(100.0), event(50.0), event(51.0)], seconds=1.0)
    assert times == [0.0, 0.0, 1.0]


def test_before_anything_is_known_nothing_is_promised():
    assert "after round 1" in run_progress.time_left(2, [event(0, step=0)], seconds=0.0)
    assert "after round 1" in run_progress.time_left(2, [event(0, step=1, total=0)], seconds=0.0)


@pytest.mark.parametrize(
    "last, share",
    [
        (event(0, "measure", number=0, checkpoint="thinking"), 0.0),
        (event(0, "think", step=5), 1 / 12),
        (event(0, "distil", step=10), 1 / 3),
        (event(0, "measure", step=10, checkpoint="instruct"), 5 / 12),
        (event(0, "measure", step=10, checkpoint="thinking"), 1 / 2),
        (event(0, "think", number=2, step=0, total=0), 1 / 2),
    ],
)
def test_the_bar_moves_through_rounds_and_phases(last, share):
    assert run_progress.done_share(2, last) == pytest.approx(share)


# ---- costs


@pytest.mark.parametrize(
    "changes, joules, says",
    [
        ({}, 0.0, "of work"),
        ({"price_per_hour": 2.0}, 0.0, "cost 4.000"),
        ({"watts": 500.0, "price_per_kwh": 0.3}, 0.0, "1 kWh, cost 0.3000"),
        ({"watts": 500.0, "price_per_kwh": 0.3}, 7.2e6, "2 kWh (read from the GPU), cost 0.6000"),
    ],
)
def test_a_bill_counts_hours_or_energy(changes, joules, says):
    preset = dataclasses.replace(load_preset("tiny"), **changes)
    said = run_progress.bill(preset, {"joules": joules}, 7200.0)
    assert said.startswith(("2 h 00 min of work", "120 min 00 s of work"))
    assert says in said


def test_nothing_is_said_of_money_where_nothing_is_known():
    """ "cost: set watts or price per hour" read like an order in every run."""
    assert "cost" not in run_progress.bill(load_preset("tiny"), {}, 7200.0)


# ---- scores


def since(gained: int, lost: int, p: float) -> dict:
    return {"since_start": {"gained": gained, "lost": lost, "p": p}}


def test_the_test_against_round_0_is_told_in_words():
    events = [
        measure(0, "instruct", 13),
        measure(0, "thinking", 65),
        {**measure(3, "instruct", 43), **since(112, 20, 1.2e-16)},
        {**measure(3, "thinking", 64), **since(6, 9, 0.607)},
    ]
    instruct, thinking = run_progress.scores_html(events).split("<br>")
    assert re.search(r"instruct</b> round 3: 43\.0 % \[[\d., ]+\], \+112 −20 against round 0", instruct)
    assert instruct.endswith("p = 1e-16: better")
    assert thinking.endswith("+6 −9 against round 0, p = 0.6: no clear change")
    assert "worse" in run_progress.scores_html([{**events[2], **since(2, 30, 1e-6)}])
    assert "against" not in run_progress.scores_html(events[:2])
    assert run_progress.scores_html([]) == ""


# ---- the tab


def view_of() -> run_view.View:
    with gr.Blocks():
        names = [field.name for field in dataclasses.fields(run_view.View)]
        parts = {name: gr.State(None) for name in names} | {"menu": run_menu.build(demo=False)}
        return run_view.View(**parts)


def test_an_idle_page_is_sent_nothing(root):
    run_of(root, [event(1, "done")])
    studio, view = Studio(load_preset("tiny"), "tiny"), view_of()
    first = run_view.refresh(studio, view, "run", None)
    assert {view.progress, view.loss, view.accuracy, view.tokens, view.log, view.command} <= set(first)
    assert run_view.refresh(studio, view, "run", first[view.seen]) == {}
    nothing = run_view.refresh(studio, view, None, first[view.seen])
    assert nothing[view.loss] == "" and "Start runs the loop" in nothing[view.progress]
    assert run_view.refresh(studio, view, None, nothing[view.seen]) == {}
    other = run_view.refresh(studio, view, "run", dataclasses.replace(first[view.seen], name="another"))
    assert set(other) == set(first)


def test_start_is_off_while_a_loop_runs_and_the_refusal_ends_with_it(root, monkeypatch):
    """Start stayed bright, and "X is running; stop it first" stayed on after X was done."""
    folder = run_of(root, [event(1, "stopped")])
    studio, view = Studio(load_preset("tiny"), "tiny"), view_of()
    monkeypatch.setattr(studio.runs, "running", lambda: root / "another")
    first = run_view.refresh(studio, view, "run", None)
    assert first[view.start]["interactive"] is False and first[view.resume]["interactive"] is False
    monkeypatch.setattr(studio.runs, "running", lambda: None)
    then = run_view.refresh(studio, view, "run", first[view.seen])
    assert then[view.start]["interactive"] is True and then[view.resume]["interactive"] is True
    assert then[view.refusal] == ""
    assert folder.is_dir()


def test_another_run_is_laid_over_and_followed(root):
    run_of(root, [event(1, loss=1.0), measured(2, 0)])
    control = run_of(root, [event(1, loss=3.0), measured(2, 0)], name="control")
    studio, view = Studio(load_preset("tiny"), "tiny"), view_of()
    alone = run_view.refresh(studio, view, "run", None)
    both = run_view.refresh(studio, view, "run", alone[view.seen], "control")
    assert {view.loss, view.accuracy, view.tokens} < set(both) and view.log not in both
    assert "control" in both[view.loss] and "control" not in alone[view.loss]
    assert run_view.refresh(studio, view, "run", both[view.seen], "control") == {}
    runs.append(control / "events.jsonl", event(3, step=2, loss=2.0))
    assert view.loss in run_view.refresh(studio, view, "run", both[view.seen], "control")
    for nothing in ("run", "../control", HOSTILE, None):
        assert run_view.overlay_of(studio, nothing, "run").events == []


def test_only_what_has_changed_is_sent(root):
    folder = run_of(root, [event(1, "distil", step=1, loss=2.0)])
    studio, view = Studio(load_preset("tiny"), "tiny"), view_of()
    seen = run_view.refresh(studio, view, "run", None)[view.seen]
    runs.append(folder / "events.jsonl", event(2, "distil", step=2, loss=1.0))
    assert set(run_view.refresh(studio, view, "run", seen)) == {view.progress, view.seen, view.loss, view.log}


def test_a_run_that_is_gone_says_so_and_is_not_drawn(root):
    view = view_of()
    updates = run_view.refresh(Studio(load_preset("tiny"), "tiny"), view, HOSTILE, None)
    assert "there is no run" in updates[view.progress]
    studio = Studio(load_preset("tiny"), "tiny")
    assert run_view.refresh(studio, view, HOSTILE, updates[view.seen]) == {}  # told once
    assert "<img" not in updates[view.progress]
    assert updates[view.loss] == updates[view.accuracy] == updates[view.tokens] == ""


@pytest.mark.parametrize("name", ["preset.yaml", "events.jsonl"])
def test_a_damaged_run_says_what_is_damaged(root, name):
    folder = run_of(root, [event(1, loss=1.0)])
    (folder / name).write_text("zebra: 1\n", encoding="utf-8")
    view = view_of()
    updates = run_view.refresh(Studio(load_preset("tiny"), "tiny"), view, "run", None)
    assert name in updates[view.progress]
    assert updates[view.loss] == ""


def test_a_runs_command_can_be_repeated(root):
    folder = run_of(root, [event(1)], command=["python", "-m", "thinkswitch", "run", "a b"])
    assert run_view.command_of(folder) == "python -m thinkswitch run 'a b'"
    other = run_of(root, [event(1)], name="of a terminal")
    assert run_view.command_of(other).startswith("./start.sh run '")


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"held_out": 99_999}, "held_out asks for 99999 problems"),
        ({"prompts": 999_999}, "training prompts are needed"),
    ],
)
def test_more_problems_than_there_are_are_refused_before_a_run_starts(changes, says):
    """The child process said so six seconds later, and left a run that had been refused."""
    with pytest.raises(UserError, match=says):
        loop.check_problems(dataclasses.replace(load_preset("tiny"), **changes))
    loop.check_problems(load_preset("tiny"))
    elsewhere = dataclasses.replace(load_preset("tiny"), held_out_set="owner/name:test", held_out=99_999)
    loop.check_problems(elsewhere)  # nothing is downloaded to find out


# ---- samples


@pytest.fixture
def sampled(root):
    """A run with four samples of round 1, among them a hostile one."""
    folder = run_of(root, [event(1)])
    common = {"sample": 0, "kind": "integer", "prefilled": True, "tokens": 9, "finish": "stop"}
    rows = [
        {"prompt": "1 + 1?", "text": "so 2</think>2", "kept": True, "answer": "2"},
        {"prompt": HOSTILE, "text": f"{HOSTILE}</think>{HOSTILE}", "kept": False, "why": HOSTILE},
        {"prompt": "2 + 2?", "text": "so", "kept": False, "why": "no answer", "answer": ""},
        {"prompt": "3 + 3?", "text": "so 6</think>6"},
    ]
    lines = [{**common, "prompt_index": i, **row} for i, row in enumerate(rows)]
    runs.append(folder / "rounds" / "1" / "samples.jsonl", *lines)
    return folder


def test_the_table_of_samples_shows_dropped_ones_first(sampled):
    rows = samples.table(sampled, "1", "all")
    assert [row[1] for row in rows] == [2, 3, 4, 1]  # it said 1.0, 2.0, 3.0, 0.0
    assert [row[4] for row in rows] == [HOSTILE, "no answer", samples.UNDECIDED, samples.KEPT]
    assert rows[2][3] == "6"  # read from the text, since it has not been stripped yet
    assert [row[1] for row in samples.table(sampled, "1", "kept")] == [1]
    assert len(samples.table(sampled, "1", "dropped")) == 3
    assert len(samples.COLUMNS) == len(rows[0])


def test_samples_are_numbered_prompt_by_prompt():
    assert samples.number_of({"prompt_index": 0, "sample": 0}, 3) == 1
    assert samples.number_of({"prompt_index": 2, "sample": 1}, 3) == 8


@pytest.mark.parametrize("number", [None, "", "bogus", "²", "-1", "1.5", "9" * 5000])
def test_an_odd_round_has_no_samples(sampled, number):
    assert samples.table(sampled, number, "all") == []
    with pytest.raises(UserError, match="no longer exists"):
        samples.details(sampled, number, 1)


def test_a_samples_details_show_what_the_loss_sees(sampled):
    said = samples.details(sampled, 1, 1)
    assert "&lt;think&gt;so 2" in said  # the raw response, with the tag that the template wrote
    assert "grey is masked" in said
    masked, trained = said.count('"token masked"'), said.count('"token trained"')
    assert masked > trained > 0


def test_hostile_samples_stay_text(sampled):
    said = samples.details(sampled, 1, 2)
    assert "<img" not in said
    assert said.count("&lt;img") >= 4  # prompt, response, reason, answer
    with pytest.raises(UserError, match="no longer exists"):
        samples.details(sampled, 1, 8)


def test_the_log_is_read_from_its_end(root):
    folder = run_of(root, [event(1)])
    assert "in a terminal" in run_progress.log_tail(folder)
    (folder / "log.txt").write_bytes(b"first\n" + b"x" * run_progress.LOG_CHARACTERS + b"\xff\nlast\n")
    tail = run_progress.log_tail(folder)
    assert "first" not in tail
    assert tail.endswith("�\nlast\n")
    assert run_progress.last_line(folder) == "last"
    os.truncate(folder / "log.txt", 0)
    assert "without a message" in run_progress.last_line(folder)
