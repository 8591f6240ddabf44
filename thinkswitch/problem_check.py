"""A file of problems that somebody brings: what it holds, what is wrong in it, and a preset that fits it.

Torch-free.
"""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from thinkswitch import problem_files
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.problems import Problem, make_problem

MOST_ROWS = 200_000  # a small Parquet file can unpack to millions
SHOWN = 3  # problems and faults that are reported
PROMPT_COLUMNS = ("prompt", "problem", "question", "instruction", "input")
ANSWER_COLUMNS = ("answer", "final_answer", "solution", "output", "target", "label")
HELD_OUT_SHARE = 4  # of one set for both, a quarter at most is held out
ONE_COLUMN = re.compile(r"\{(\w+)\}")
ROLES = ("both", "training", "held-out")


@dataclass
class Check:
    """What a file holds."""

    rows: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    distinct: int = 0
    first: list[Problem] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # the first ones
    wrong: int = 0  # how many rows have one


def check(path: Path, preset: Preset) -> Check:
    """Read every row with the preset's template, column and kind; faults are counted, not raised.

    Raises UserError for a file that cannot be read at all, or is too long.
    """
    found = Check()
    keys = set()
    for where, row in problem_files.entries(path):
        found.rows += 1
        if found.rows > MOST_ROWS:
            raise UserError(f"{path} has more than {MOST_ROWS:,} rows; take a part of it")
        try:
            if isinstance(row, UserError):
                raise row
            problem = make_problem(
                row,
                where,
                preset.prompt_template,
                preset.answer_column,
                preset.kind,
                preset.answer_pattern,
                preset.tolerance,
            )
        except UserError as error:
            found.wrong += 1
            found.faults += [str(error)] if found.wrong <= SHOWN else []
            continue
        found.kinds[problem.kind] += 1
        found.answered += bool(problem.answer)
        found.first += [problem] if len(found.first) < SHOWN else []
        keys.add(problem.key)
    if not found.rows:
        raise UserError(f"{path} holds no problems; give it at least one row with a prompt")
    found.distinct = len(keys)
    return found


def columns_of(path: Path, preset: Preset) -> Preset:
    """The preset with the file's columns, where its own are missing and a usual name is there."""
    rows = [row for _, row in islice(problem_files.entries(path), 1) if isinstance(row, dict)]
    columns = {column for row in rows for column in row}
    prompt = next((name for name in PROMPT_COLUMNS if name in columns), None)
    answer = next((name for name in ANSWER_COLUMNS if name in columns), None)
    asked = ONE_COLUMN.fullmatch(preset.prompt_template)
    if prompt and asked and asked[1] not in columns:
        preset = replace(preset, prompt_template=f"{{{prompt}}}")
    if answer and preset.answer_column not in columns:
        preset = replace(preset, answer_column=answer)
    return preset


def use(preset: Preset, source: str, found: Check, role: str) -> Preset:
    """The preset with this file as its training set, its held-out set, or both; numbers only get smaller."""
    if role not in ROLES:
        raise UserError(f"use a file as one of {', '.join(ROLES)}, not as {role!r}")
    if role != "training" and found.answered < found.rows:
        missing = found.rows - found.answered
        raise UserError(
            f"{missing} of {found.rows} problems have no '{preset.answer_column}'; held-out problems need "
            "answers, so use the file for training"
        )
    if role == "held-out":
        return replace(preset, held_out_set=source, held_out=min(preset.held_out, found.distinct))
    if role == "training":
        return _fewer_prompts(replace(preset, train_set=source), found.distinct)
    if found.distinct < 2:
        raise UserError("one problem cannot be divided into training and held-out; bring two or more")
    held = min(preset.held_out, max(1, found.distinct // HELD_OUT_SHARE))
    both = replace(preset, train_set=source, held_out_set=source, held_out=held)
    return _fewer_prompts(both, found.distinct - held)


def _fewer_prompts(preset: Preset, there_are: int) -> Preset:
    if preset.fresh and preset.prompts * preset.rounds > there_are:
        preset = replace(preset, fresh=False)
    return replace(preset, prompts=min(preset.prompts, there_are))
