"""Problems: prompts to train on, and prompts with answers to score. Torch-free.

A source is a file, whose rows are like `{"prompt": ..., "answer": ..., "kind": ...}` (see problem_files.py
for its form, problem_rows.py for its columns), or a Hub data set, written `owner/name[/config][:split]`.
Training uses prompts only, never a human label.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from thinkswitch import answer_pattern, problem_files, problem_rows
from thinkswitch.errors import UserError, quote
from thinkswitch.grading import KINDS, TOLERANCE, canonical
from thinkswitch.paths import exists
from thinkswitch.preset import Preset

HUB_FORM = "write owner/name:split or owner/name/config:split"
ONE_COLUMN = re.compile(r"\{(\w+)\}")  # a prompt template that says no more than where the prompt is
PEEKED = 100  # rows by which columns are recognised: a row may leave one out
TRAIN_SPLITS = ("train", "training", "default")  # where no split is named, in this order
HELD_OUT_SPLITS = ("test", "validation", "valid", "dev", "eval")


@dataclass(frozen=True)
class Problem:
    prompt: str
    answer: str = ""  # empty: a prompt to train on, which cannot be graded
    kind: str = "text"  # one of grading.KINDS
    pattern: str = ""  # where its prompt asks for an answer in that form
    tolerance: float = TOLERANCE

    @property
    def key(self) -> str:
        """Equal for prompts that are the same problem: same words, whatever their spacing and case."""
        return " ".join(self.prompt.split()).casefold()


# ---- choosing


def held_out(preset: Preset) -> list[Problem]:
    """The problems that are scored: a seeded draw from the held-out set, all with answers."""
    return _draw_held_out(with_splits(preset))[: preset.held_out]


def train_and_held_out(preset: Preset) -> tuple[list[Problem], list[Problem]]:
    """The prompts of all rounds, and the problems that are scored. Seeded draws; refuses any overlap."""
    preset = with_splits(preset)
    drawn = _draw_held_out(preset)
    held = drawn[: preset.held_out]
    if preset.train_set == preset.held_out_set:  # one set for both: what is not held out is trained on
        train = drawn[preset.held_out :]
    else:
        train = _draw(_load(preset, preset.train_set), preset.seed, "train")
    needed = preset.prompts * (preset.rounds if preset.fresh else 1)
    _check_sizes(preset, len(held), len(train), needed)
    train = train[:needed]
    shared = {p.key for p in held} & {p.key for p in train}
    if shared:
        raise UserError(
            f"{len(shared)} held-out problems are also training prompts, the first being "
            f"{min(shared)[:60]!r}; scores would mean nothing, so take them out of one of the two"
        )
    return train, held


def round_prompts(train: list[Problem], preset: Preset, number: int) -> list[Problem]:
    """The prompts of round `number` (from 1): the same ones each time, or the next slice when `fresh`."""
    start = (number - 1) * preset.prompts if preset.fresh else 0
    return train[start : start + preset.prompts]


def _draw_held_out(preset: Preset) -> list[Problem]:
    drawn = _draw(_load(preset, preset.held_out_set), preset.seed, "held-out")
    unanswered = [p for p in drawn if not p.answer]
    if unanswered:
        raise UserError(
            f"{len(unanswered)} held-out problems of {preset.held_out_set} have no '{preset.answer_column}', "
            f"the first being {unanswered[0].prompt[:60]!r}; held-out problems need answers"
        )
    return drawn


def _draw(problems: list[Problem], seed: int, purpose: str) -> list[Problem]:
    """All problems in random order, each once."""
    distinct = list({p.key: p for p in problems}.values())
    random.Random(f"{seed} {purpose}").shuffle(distinct)
    return distinct


def _check_sizes(preset: Preset, held: int, train: int, needed: int) -> None:
    if held < preset.held_out:
        raise UserError(
            f"held_out asks for {preset.held_out} problems, {preset.held_out_set} has {held}; lower held_out"
        )
    if train >= needed:
        return
    found = f"{preset.train_set} has {train}"
    if preset.fresh:
        product = f"{preset.prompts} prompts x {preset.rounds} rounds, fresh"
        advice = "lower prompts or set fresh to false"
        raise UserError(f"{needed} training prompts are needed ({product}), {found}; {advice}")
    raise UserError(f"{needed} training prompts are needed, {found}; lower prompts")


# ---- reading


def load(
    source: str,
    template: str = "{prompt}",
    answer_column: str = "answer",
    kind: str = "text",
    pattern: str = "",
    tolerance: float = TOLERANCE,
) -> list[Problem]:
    """Every problem of a file or Hub data set. `template` is filled from a row's columns."""
    first, found = peek(rows_of(source))
    usual_template, usual_answer = fitting_columns(first, template, answer_column)
    if template == Preset.prompt_template:  # a column that somebody has named is never replaced by a guess
        template = usual_template
    if answer_column == Preset.answer_column:
        answer_column = usual_answer
    read = (template, answer_column, kind, pattern, tolerance)
    problems = [make_problem(row, where, *read) for where, row in _good(found)]
    if not problems:
        raise UserError(f"{source} holds no problems; give it one JSON object a line with a 'prompt'")
    return problems


def rows_of(source: str) -> Iterator[problem_files.Entry]:
    """(where it stands, row) of a file or Hub set; a row that cannot be read is an error in its place."""
    found = problem_files.entries(Path(source)) if is_file(source) else _hub_rows(source)
    for where, row in found:
        try:
            yield where, row if isinstance(row, UserError) else problem_rows.plain(row, where)
        except UserError as error:
            yield where, error


def is_file(source: str) -> bool:
    """Whether a source is a file, there or not; else it is on the Hub."""
    return exists(source) or (source.lower().endswith(problem_files.SUFFIXES) and "://" not in source)


def peek(found: Iterator[problem_files.Entry]) -> tuple[list[dict], Iterator[problem_files.Entry]]:
    """The first rows that can be read, and all entries, these included."""
    first = list(islice(found, PEEKED))
    return [row for _, row in first if isinstance(row, dict)], chain(first, found)


def fitting_columns(rows: list[dict], template: str, answer_column: str) -> tuple[str, str]:
    """The template and column that were asked for, or usual ones where the rows have no such column."""
    columns = dict.fromkeys(column for row in rows for column in row)
    asked = ONE_COLUMN.fullmatch(template)
    prompt, answer_column = problem_rows.usual_columns(columns, asked[1] if asked else None, answer_column)
    return (template if prompt is None else f"{{{prompt}}}"), answer_column


def _good(found: Iterator[problem_files.Entry]) -> Iterator[tuple[str, dict]]:
    for where, row in found:
        if isinstance(row, UserError):
            raise row
        yield where, row


def with_splits(preset: Preset) -> Preset:
    """The preset with a split for each Hub set that names none: train on train, score on test."""
    return replace(
        preset,
        train_set=with_split(preset.train_set, TRAIN_SPLITS),
        held_out_set=with_split(preset.held_out_set, (*HELD_OUT_SPLITS, *TRAIN_SPLITS)),
    )


def with_split(source: str, wanted: tuple[str, ...]) -> str:
    """`owner/name[/config]` with the first of the wanted splits that it has; anything else as it is."""
    parts = source.split("/")
    if ":" in source or len(parts) not in (2, 3) or not all(parts) or is_file(source):
        return source
    splits = list(_from_hub(source, lambda datasets: datasets.get_dataset_split_names(*_repository(parts))))
    found = next((split for split in wanted if split in splits), splits[0] if len(splits) == 1 else None)
    if found is None:
        raise UserError(
            f"{source} has the splits {', '.join(splits)}; write one of them: {source}:{splits[0]}"
        )
    return f"{source}:{found}"


def _load(preset: Preset, source: str) -> list[Problem]:
    return load(
        source,
        preset.prompt_template,
        preset.answer_column,
        preset.kind,
        preset.answer_pattern,
        preset.tolerance,
    )


def make_problem(
    row: dict,
    where: str,
    template: str,
    answer_column: str,
    kind: str,
    pattern: str = "",
    tolerance: float = TOLERANCE,
) -> Problem:
    """The problem of one row; `where` (file and line) begins every error.

    `pattern` takes the answer out of the column, and out of responses where the prompt shows that form.
    """
    prompt = _fill(template, row, where)
    if not prompt.strip():
        raise UserError(f"{where}: the prompt is empty")
    kind = row.get("kind") or kind
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{where}: unknown kind {quote(kind)}; known are {', '.join(KINDS)}")
    answer = problem_rows.answer_text(row.get(answer_column), kind)
    if answer and pattern:
        answer = _take_out(answer, pattern, where)
    expected = KINDS[kind].expected
    if answer and expected and canonical(answer, kind) is None:
        raise UserError(f"{where}: the answer {answer[:40]!r} is not {expected}")
    asked = pattern if answer_pattern.is_asked_for(pattern, prompt) else ""
    return Problem(prompt, answer, kind, asked, tolerance)


def _take_out(answer: str, pattern: str, where: str) -> str:
    taken = answer_pattern.take(pattern, answer)
    if not taken:
        raise UserError(
            f"{where}: answer_pattern {pattern!r} finds nothing in the answer, which ends in {answer[-40:]!r}"
        )
    return taken


def _fill(template: str, row: dict, where: str) -> str:
    columns = {key: _join_lists(value) for key, value in row.items() if value is not None}
    try:
        prompt = template.format_map(columns)
        prompt.encode("utf-8")  # refuses half of a surrogate pair, which no tokenizer takes
    except (KeyError, IndexError, AttributeError, TypeError, MemoryError, ValueError) as error:
        found = ", ".join(map(str, row))
        raise UserError(
            f"{where}: the prompt template {template!r} asks for {error}, the row has {found}"
        ) from None
    return prompt


def _join_lists(value):
    """Lists of paragraphs (PubMedQA's contexts) become text, in nested columns, too."""
    if isinstance(value, dict):
        return {key: _join_lists(one) for key, one in value.items()}
    return "\n".join(map(str, value)) if isinstance(value, list) else value


def _hub_rows(source: str) -> Iterator[tuple[str, dict]]:
    """(where it stands, row) of a split of a Hub data set, downloaded or from the cache."""
    path, _, split = source.partition(":")
    parts = path.split("/")
    if not split or len(parts) not in (2, 3) or not all(parts):
        raise UserError(f"{source!r} is neither an existing file nor a Hub data set; {HUB_FORM}")
    rows = _from_hub(source, lambda datasets: datasets.load_dataset(*_repository(parts), split=split))
    for number, row in enumerate(rows):
        yield f"{source} row {number}", row


def _repository(parts: list[str]) -> list[str]:
    """owner/name, and the configuration if there is one."""
    return ["/".join(parts[:2]), *parts[2:]]


def _from_hub(source: str, ask: Callable[[Any], Any]) -> Any:
    """What `datasets` answers; an error becomes one sentence."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"{source} is a Hub data set: pip install datasets") from None
    try:
        return ask(datasets)
    except Exception as error:  # the Hub, the network, the disk and the cache raise classes of all kinds
        raise UserError(dataset_error_message(source, error)) from error


def dataset_error_message(source: str, error: Exception) -> str:
    """What kept a Hub data set from being loaded, and what to do where that is known: one sentence."""
    from huggingface_hub import constants

    name = "/".join(source.partition(":")[0].split("/")[:2])
    message, cause = _one_line(error), _one_line(_root_cause(error))
    failed = f"the data set {source} could not be loaded"
    if type(error).__name__ == "DatasetNotFoundError" and "gated" in message:
        page = f"{constants.ENDPOINT}/datasets/{name}"
        return f"the data set {name} is gated: ask for access at {page}, then `hf auth login`"
    if type(error).__name__ == "DatasetNotFoundError":
        advice = "check the spelling, or `hf auth login` if it is private"
        no_file = "" if ":" in source else f"there is no file {source}, and "
        return f"{no_file}the Hub has no data set {name}, or none for you; {advice}"
    if isinstance(error, ConnectionError):
        unreachable = f"{failed}: it is not in the cache, and the Hub cannot be reached"
        if constants.HF_HUB_OFFLINE:
            return f"{unreachable} (HF_HUB_OFFLINE is set); unset it"
        return f"{unreachable} ({cause}); check the name and the network"
    if isinstance(error, ValueError) and re.search("split|config", message, re.I):
        existing = message.partition(" Example of usage")[0]  # names the splits or configurations there are
        return f"{failed}: {existing}; {HUB_FORM}"
    if cause != message:  # a full disk is "An error occurred while generating the dataset"
        return f"{failed}: {message} ({cause})"
    return f"{failed}: {message}"


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__:
        error = error.__cause__
    return error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
