"""What a line of a run's files holds. Checked as it is read: a run folder may come from anybody.

A line of events.jsonl, samples.jsonl or scores.jsonl is an object, and so is run.json. These tables say what
its keys must be; keys that they do not name are left alone, since a later version may write more.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from thinkswitch.errors import quote
from thinkswitch.grading import KINDS
from thinkswitch.runs.files import read_lines

MOST = 10**15  # of any number: beyond it arithmetic on times and counts fails
MOST_ROUNDS = 10_000  # the page lists every round up to the last

Check = Callable[[Any], bool]
Table = dict[str, Check]


def is_number(value: Any) -> bool:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and math.isfinite(value) and abs(value) <= MOST


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST


def is_round(value: Any) -> bool:
    return is_count(value) and value <= MOST_ROUNDS


def is_text(value: Any) -> bool:
    """Text that can be written again: half of a surrogate pair cannot."""
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode("utf-8")


def is_text_or_none(value: Any) -> bool:
    return value is None or is_text(value)


def is_checkpoint(value: Any) -> bool:
    return value in ("instruct", "thinking")


def is_kind(value: Any) -> bool:
    return isinstance(value, str) and value in KINDS


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(is_text(key) and is_count(one) for key, one in value.items())


def is_comparison(value: Any) -> bool:
    keys: Table = {"gained": is_count, "lost": is_count, "p": is_number}
    return isinstance(value, dict) and all(is_valid(value.get(key)) for key, is_valid in keys.items())


def are_tags(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_text(tag) and tag for tag in value)


def is_pid(value: Any) -> bool:
    return is_count(value) and 0 < value < 2**31


def is_command(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(is_text, value)))


SUMMARY: Table = {
    "checkpoint": is_checkpoint,
    "n": is_count,
    "correct": is_count,
    "accuracy": is_number,
    "low": is_number,
    "high": is_number,
    "think_rate": is_number,
    "mean_tokens": is_number,
}
EVENT: Table = {
    "time": is_number,
    "round": is_round,
    "phase": is_text,
    "step": is_count,
    "total": is_count,
}
EVENT_OF: dict[str, Table] = {  # what a phase adds
    "distil": {"loss": is_number},
    "strip": {"kept": is_count, "dropped": is_counts},
    "measure": {"checkpoint": is_checkpoint},
}
EVENT_OPTIONAL: Table = {
    **SUMMARY,
    "loss": is_number,
    "tokens_per_s": is_number,
    "writing": is_count,
    "starting": is_text,
    "message": is_text,
    "since_start": is_comparison,
}
SAMPLE: Table = {
    "prompt_index": is_count,
    "sample": is_count,
    "kind": is_kind,
    "prompt": is_text,
    "text": is_text,
    "prefilled": is_flag,
    "tokens": is_count,
    "finish": is_text,
}
SAMPLE_OPTIONAL: Table = {
    "tags": are_tags,
    "engine": is_text,
    "trace": is_text,
    "answer": is_text,
    "said": is_text_or_none,
    "why": is_text_or_none,
    "kept": is_flag,
}
SCORE: Table = {
    "checkpoint": is_checkpoint,
    "question": is_count,
    "correct": is_flag,
    "thought": is_flag,
    "tokens": is_count,
    "said": is_text_or_none,
    "finish": is_text,
}


INFO: Table = {"pid": is_pid, "started": is_number, "heartbeat": is_number}
INFO_OPTIONAL: Table = {
    "ended": is_number,
    "seconds": is_number,
    "joules": is_number,
    "command": is_command,
}


def event_problem(line: dict) -> str:
    """What is wrong with a line of events.jsonl; empty if nothing is."""
    problem = first_problem(line, EVENT) or first_problem(line, EVENT_OPTIONAL, required=False)
    return problem or first_problem(line, needed_of_phase(line))


def needed_of_phase(event: dict) -> Table:
    """What an event must have beside EVENT. While a checkpoint is measured, there may be no figures yet."""
    if event["phase"] == "measure" and event["step"] == event["total"]:
        return SUMMARY
    return EVENT_OF.get(event["phase"], {})


def sample_problem(line: dict) -> str:
    return first_problem(line, SAMPLE) or first_problem(line, SAMPLE_OPTIONAL, required=False)


def score_problem(line: dict) -> str:
    return first_problem(line, SCORE)


def info_problem(info: dict) -> str:
    """What is wrong with the object in run.json."""
    return first_problem(info, INFO) or first_problem(info, INFO_OPTIONAL, required=False)


def first_problem(line: dict, table: Table, required: bool = True) -> str:
    for key, is_valid in table.items():
        if key not in line:
            if required:
                return f"it has no {key!r}"
        elif not is_valid(line[key]):
            return f"{key!r} is {quote(line[key])}"
    return ""


# ---- the files


def read_events(folder: Path) -> Iterator[dict]:
    """Every event of a run. UserError at a damaged line."""
    return read_lines(folder / "events.jsonl", event_problem)


def read_samples(path: Path) -> Iterator[dict]:
    return read_lines(path, sample_problem)


def read_scores(path: Path) -> Iterator[dict]:
    return read_lines(path, score_problem)
