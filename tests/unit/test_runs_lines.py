"""Lines of a run's files that no run writes: an editor, a script or a half-copied folder does."""

import json
import math

import pytest

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.runs import lines

EVENT = {"time": 1.0, "round": 1, "phase": "think", "step": 1, "total": 4}
MEASURED = {
    **EVENT,
    "phase": "measure",
    "step": 4,
    "checkpoint": "instruct",
    "n": 4,
    "correct": 2,
    "accuracy": 0.5,
    "low": 0.1,
    "high": 0.9,
    "think_rate": 0.0,
    "mean_tokens": 3.5,
}
SAMPLE = {
    "prompt_index": 0,
    "sample": 0,
    "kind": "integer",
    "prompt": "1 + 1?",
    "text": "so</think>2",
    "prefilled": True,
    "tokens": 4,
    "finish": "stop",
}
SCORE = {
    "checkpoint": "instruct",
    "question": 0,
    "correct": True,
    "thought": False,
    "tokens": 3,
    "said": "2",
    "finish": "stop",
}


@pytest.mark.parametrize(
    "event",
    [
        EVENT,
        MEASURED,
        {**EVENT, "phase": "measure", "checkpoint": "thinking"},  # nothing is answered yet
        {**EVENT, "phase": "distil", "loss": 0.5, "lr": 1e-4},
        {**EVENT, "phase": "strip", "kept": 3, "dropped": {"cut off": 1}},
        {**EVENT, "phase": "of a later version", "anything": [1]},
        {**MEASURED, "since_start": {"gained": 1, "lost": 0, "p": 1.0}},
        {**EVENT, "phase": "error", "message": "<b>"},
    ],
)
def test_events_that_runs_write(event):
    assert lines.event_problem(event) == ""


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"phase": ...}, "it has no 'phase'"),  # a KeyError on the page, which lists all runs
        ({"n": ...}, "it has no 'n'"),  # another, in the chart of accuracy
        ({"mean_tokens": ...}, "it has no 'mean_tokens'"),
        ({"time": "now"}, "'time' is 'now'"),
        ({"time": math.nan}, "'time' is nan"),
        ({"round": -1}, "'round' is -1"),
        ({"round": 10**25}, "'round' is 1000"),  # the page listed every round up to it
        ({"round": 1.0}, "'round' is 1.0"),
        ({"step": None}, "'step' is None"),
        ({"step": True}, "'step' is True"),
        ({"accuracy": "half"}, "'accuracy' is 'half'"),
        ({"accuracy": math.inf}, "'accuracy' is inf"),
        ({"checkpoint": 3}, "'checkpoint' is 3"),
        ({"checkpoint": ["thinking"]}, r"'checkpoint' is \['thinking'\]"),
        ({"checkpoint": "th?nking"}, "'checkpoint' is 'th.nking'"),  # the table's colours knew no such name
        ({"since_start": []}, r"'since_start' is \[\]"),
        ({"since_start": {"gained": 1}}, "'since_start' is {'gained': 1}"),
        ({"phase": "strip", "kept": 1, "dropped": {"a": "b"}}, "'dropped' is {'a': 'b'}"),
        ({"phase": "strip", "dropped": {}}, "it has no 'kept'"),
        ({"phase": "distil"}, "it has no 'loss'"),
        ({"message": "\ud800"}, "'message' is "),
        ({"tokens_per_s": [[0.0] * 1000] * 1000}, r"'tokens_per_s' is \[\["),
    ],
)
def test_an_event_of_another_form_is_named_by_its_line(changes, says, tmp_path):
    """status, resume and the page ended in a KeyError or TypeError that named no file."""
    event = {key: value for key, value in {**MEASURED, **changes}.items() if value is not ...}
    runs.write_atomic(tmp_path / "events.jsonl", "".join(_lines(MEASURED, event)))
    with pytest.raises(
        UserError, match=rf"events\.jsonl line 2 is damaged: {says}.*; take that line out"
    ) as refusal:
        list(runs.read_events(tmp_path))
    assert len(str(refusal.value)) < 300
    follower = runs.Follower(tmp_path / "events.jsonl", runs.event_problem)
    with pytest.raises(UserError, match="line 2 is damaged"):
        follower.read()


def _lines(*rows: dict) -> list[str]:
    return [json.dumps(row) + "\n" for row in rows]


@pytest.mark.parametrize(
    "changes",
    [
        *({key: ...} for key in SAMPLE),
        {"prompt_index": "0"},
        {"sample": -1},
        {"text": None},
        {"prefilled": "yes"},
        {"tags": ["<think>"]},
        {"tags": ["", "x"]},
        {"answer": 4},
        {"said": []},
        {"kept": "true"},
        {"prompt": "\ud83d"},
        {"kind": [0.0] * 1000},
        {"kind": "intger"},  # grading knew no such kind
    ],
)
def test_a_sample_of_another_form(changes, tmp_path):
    """Resume ended in "can only concatenate str (not int) to str", the table of samples in a KeyError."""
    sample = {key: value for key, value in {**SAMPLE, **changes}.items() if value is not ...}
    path = tmp_path / "samples.jsonl"
    runs.write_atomic(path, "".join(_lines(SAMPLE, sample)))
    with pytest.raises(UserError, match=r"samples\.jsonl line 2 is damaged: "):
        list(runs.read_samples(path))


@pytest.mark.parametrize(
    "changes", [*({key: ...} for key in SCORE), {"correct": 1}, {"tokens": 1.5}, {"said": 4}]
)
def test_a_score_of_another_form(changes, tmp_path):
    score = {key: value for key, value in {**SCORE, **changes}.items() if value is not ...}
    runs.write_atomic(tmp_path / "scores.jsonl", "".join(_lines(SCORE, score)))
    with pytest.raises(UserError, match=r"scores\.jsonl line 2 is damaged: "):
        list(runs.read_scores(tmp_path / "scores.jsonl"))


@pytest.mark.parametrize("changes", [{}, {"later": 1}, {"said": None}])
def test_scores_that_runs_write(changes, tmp_path):
    assert lines.score_problem({**SCORE, **changes}) == ""


INFO = {"pid": 9, "started": 1.0, "heartbeat": 2.0}


@pytest.mark.parametrize(
    "changes, valid",
    [
        ({}, True),
        ({"command": ["python", "-m"], "seconds": 3, "joules": 0.5, "ended": 4.0}, True),
        ({"command": None}, True),
        ({"pid": -1}, False),  # psutil raises ValueError
        ({"pid": 10**25}, False),  # and OverflowError
        ({"pid": "9"}, False),
        ({"seconds": "long"}, False),  # the heartbeat adds to it
        ({"joules": math.nan}, False),
        ({"command": [1, 2]}, False),  # the page joins it
        ({"command": "run"}, False),
        ({"started": None}, False),
    ],
)
def test_what_a_damaged_record_of_the_process_says_is_not_believed(changes, valid, tmp_path):
    runs.write_atomic(tmp_path / "run.json", _lines({**INFO, **changes})[0])
    assert runs.read_info(tmp_path) == ({**INFO, **changes} if valid else {})
