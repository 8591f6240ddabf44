"""A file of problems that somebody brings: what it holds, what is wrong in it, and a preset that fits it.

Torch-free.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from thinkswitch import problems
from thinkswitch.errors import UserError
from thinkswitch.grading import canonical
from thinkswitch.preset import Preset
from thinkswitch.problems import Problem, make_problem

MOST_ROWS = 200_000  # that a page takes: a small Parquet file can unpack to millions
SHOWN = 3  # problems and faults that are reported
HELD_OUT_SHARE = 4  # of one set for both, a quarter at most is held out
NARROW_KINDS = ("integer", "choice")  # that can be told from an answer alone
ROLES = ("both", "training", "held-out")


@dataclass
class Check:
    """What a file or Hub data set holds."""

    rows: int = 0
    columns: list[str] = field(default_factory=list)  # of its first rows
    kinds: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    distinct: int = 0
    first: list[Problem] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # the first ones
    wrong: int = 0  # how many rows have one
    fits: Counter[str] = field(default_factory=Counter)  # how many answers could be of a narrower kind

    @property
    def fitting_kind(self) -> str:
        """The kind that all answers could have; empty: none but text, or there are no answers."""
        return next((kind for kind, fit in self.fits.items() if fit == self.answered), "")


def check(source: Path | str, preset: Preset, most_rows: int = MOST_ROWS, shown: int = SHOWN) -> Check:
    """Read every row with the preset's template, column and kind; faults are counted, not raised.

    Raises UserError for a source that cannot be read at all, or is too long.
    """
    first, entries = problems.peek(problems.rows_of(str(source)))
    found = Check(columns=list(dict.fromkeys(str(column) for row in first for column in row)))
    keys = set()
    for where, row in entries:
        found.rows += 1
        if found.rows > most_rows:
            raise UserError(f"{source} has more than {most_rows:,} rows; take a part of it")
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
            found.faults += [str(error)] if found.wrong <= shown else []
            continue
        found.kinds[problem.kind] += 1
        found.answered += bool(problem.answer)
        found.fits.update(kind for kind in NARROW_KINDS if problem.answer and canonical(problem.answer, kind))
        found.first += [problem] if len(found.first) < SHOWN else []
        keys.add(problem.key)
    if not found.rows:
        raise UserError(f"{source} holds no problems; give it at least one row with a prompt")
    found.distinct = len(keys)
    return found


def columns_of(source: Path | str, preset: Preset) -> Preset:
    """The preset with the file's columns, where its own are missing and a usual name is there."""
    rows, _ = problems.peek(problems.rows_of(str(source)))
    template, answer = problems.fitting_columns(rows, preset.prompt_template, preset.answer_column)
    return replace(preset, prompt_template=template, answer_column=answer)


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
