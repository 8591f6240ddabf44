"""What `check --data` says of a file or Hub set of problems: what was understood, and what is wrong where."""

import json
from dataclasses import asdict

from thinkswitch import problem_check, problems
from thinkswitch.preset import Preset

MOST_ROWS = 10**8
FAULTS = 20  # rows that are wrong and named
SHOWN_CHARACTERS = 200  # of a prompt


def show(source: str, preset: Preset, as_json: bool) -> int:
    """Print the report; returns the exit code: 1 where a row is wrong."""
    source = problems.with_split(source, problems.TRAIN_SPLITS)
    preset = problem_check.columns_of(source, preset)
    found = problem_check.check(source, preset, MOST_ROWS, FAULTS)
    read = {"prompt_template": preset.prompt_template, "answer_column": preset.answer_column}
    if as_json:
        counted = {**vars(found), "first": list(map(asdict, found.first))}
        print(json.dumps({"data": source, **counted, **read}, ensure_ascii=False))
    else:
        print("\n".join(lines(source, preset, found)))
    return int(found.wrong > 0)


def lines(source: str, preset: Preset, found: problem_check.Check) -> list[str]:
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in found.kinds.items()) or "no problem"
    doubles = sum(found.kinds.values()) - found.distinct
    counts = f"{kinds}, {found.answered:,} with answers" + (
        f", {doubles:,} of them double" if doubles else ""
    )
    said = [
        f"{source}: {found.rows:,} rows with {', '.join(found.columns) or 'no columns'}",
        f"read with prompt_template={preset.prompt_template} answer_column={preset.answer_column}",
        f"problems: {counts}",
    ]
    fitting = found.fitting_kind
    if fitting and set(found.kinds) == {"text"}:
        said.append(f"every answer fits the kind {fitting}: --set kind={fitting} compares them as such")
    said += [
        f"{number}. {shortened(problem.prompt)} -> {shortened(problem.answer) or '(no answer)'}"
        for number, problem in enumerate(found.first, 1)
    ]
    if found.wrong:
        said.append(f"wrong: {found.wrong:,} of {found.rows:,} rows")
        said += [f"  {fault}" for fault in found.faults]
        more = found.wrong - len(found.faults)
        said += [f"  and {more:,} more"] if more else []
    return said


def shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]} ..."
