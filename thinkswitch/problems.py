"""Problems: prompts to train on, and prompts with answers to score. Torch-free.

A source is a file, whose rows are like `{"prompt": ..., "answer": ..., "kind": ...}` (see problem_files.py),
or a Hub data set, written `owner/name:split` or `owner/name/config:split`. Training uses prompts only, never
a human label.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinkswitch import problem_files
from thinkswitch.errors import UserError, quote
from thinkswitch.grading import KINDS, canonical
from thinkswitch.preset import Preset

HUB_FORM = "write owner/name:split or owner/name/config:split"


@dataclass(frozen=True)
class Problem:
    prompt: str
    answer: str = ""  # empty: a prompt to train on, which cannot be graded
    kind: str = (
        "text"  # integer (AIME), choice (PubMedQA: yes, no, maybe), math (any expression), text (as it is)
    )

    @property
    def key(self) -> str:
        """Equal for prompts that are the same problem: same words, whatever their spacing and case."""
        return " ".join(self.prompt.split()).casefold()


# ---- choosing


def held_out(preset: Preset) -> list[Problem]:
    """The problems that are scored: a seeded draw from the held-out set, all with answers."""
    return _draw_held_out(preset)[: preset.held_out]


def train_and_held_out(preset: Preset) -> tuple[list[Problem], list[Problem]]:
    """The prompts of all rounds, and the problems that are scored. Seeded draws; refuses any overlap."""
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
    source: str, template: str = "{prompt}", answer_column: str = "answer", kind: str = "text"
) -> list[Problem]:
    """Every problem of a file or Hub data set. `template` is filled from a row's columns."""
    is_file = Path(source).is_file() or source.lower().endswith(problem_files.SUFFIXES)
    rows = problem_files.rows(Path(source)) if is_file else _hub_rows(source)
    problems = [make_problem(row, where, template, answer_column, kind) for where, row in rows]
    if not problems:
        raise UserError(f"{source} holds no problems; give it one JSON object a line with a 'prompt'")
    return problems


def _load(preset: Preset, source: str) -> list[Problem]:
    return load(source, preset.prompt_template, preset.answer_column, preset.kind)


def make_problem(row: dict, where: str, template: str, answer_column: str, kind: str) -> Problem:
    """The problem of one row; `where` (file and line) begins every error."""
    prompt = _fill(template, row, where)
    if not prompt.strip():
        raise UserError(f"{where}: the prompt is empty")
    kind = row.get("kind", kind)
    if kind not in KINDS:
        raise UserError(f"{where}: unknown kind {quote(kind)}; known are {', '.join(KINDS)}")
    answer = row.get(answer_column)
    answer = "" if answer is None else str(answer).strip()
    expected = {"integer": "an integer", "choice": "yes, no or maybe"}
    if answer and kind in expected and canonical(answer, kind) is None:
        raise UserError(f"{where}: the answer {answer[:40]!r} is not {expected[kind]}")
    return Problem(prompt, answer, kind)


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
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"{source} is a Hub data set: pip install datasets") from None
    try:
        rows = load_dataset("/".join(parts[:2]), *parts[2:], split=split)
    except Exception as error:  # the Hub, the network, the disk and the cache raise classes of all kinds
        raise UserError(dataset_error_message(source, error)) from error
    for number, row in enumerate(rows):
        yield f"{source} row {number}", row


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
        return f"the Hub has no data set {name}, or none for you; {advice}"
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
