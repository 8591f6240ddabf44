"""Problems: where they come from, what a text's final answer is, whether it is right. Torch-free.

A source is a JSONL file (`{"prompt": ..., "answer": ..., "kind": ...}` a line) or a Hub data set written as
`owner/name:split` or `owner/name/config:split`. Training needs prompts only: no human label is ever used.
"""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from thinkswitch.errors import UserError
from thinkswitch.grading import KINDS, canonical
from thinkswitch.preset import Preset


@dataclass(frozen=True)
class Problem:
    prompt: str
    answer: str = ""  # empty: a prompt to train on, which cannot be graded
    kind: str = "text"  # integer (AIME), choice (PubMedQA: yes/no/maybe), math (any expression), text (as written)

    @property
    def key(self) -> str:
        """What makes two prompts the same problem: their words, not their spacing or case."""
        return " ".join(self.prompt.split()).casefold()


def load(source: str, template: str = "{prompt}", answer_column: str = "answer", kind: str = "text") -> list[Problem]:
    """Every problem of a JSONL file or Hub data set. `template` is filled from a row's columns."""
    rows = _jsonl(Path(source)) if _is_file(source) else _hub(source)
    problems = [_problem(row, where, template, answer_column, kind) for where, row in rows]
    if not problems:
        raise UserError(f"{source} holds no problems; give it one JSON object a line with a 'prompt'")
    return problems


def held_out(preset: Preset) -> list[Problem]:
    """The problems that score: a seeded draw, all with answers."""
    return _held_out(preset)[: preset.held_out]


def _held_out(preset: Preset) -> list[Problem]:
    held = _draw(load(preset.held_out_set, **_columns(preset)), preset.seed, "held-out")
    ungraded = [p for p in held if not p.answer]
    if ungraded:
        raise UserError(f"{len(ungraded)} held-out problems of {preset.held_out_set} have no '{preset.answer_column}', "
                        f"the first being {ungraded[0].prompt[:60]!r}; held-out problems need answers")
    return held


def _columns(preset: Preset) -> dict:
    return dict(template=preset.prompt_template, answer_column=preset.answer_column, kind=preset.kind)


def train_and_held_out(preset: Preset) -> tuple[list[Problem], list[Problem]]:
    """The prompts of all rounds, and the problems that score them. Seeded draws; refuses any overlap."""
    needed = preset.prompts * (preset.rounds if preset.fresh else 1)
    held = _held_out(preset)
    if preset.train_set == preset.held_out_set:  # one set for both: what is not held out is trained on
        held, train = held[: preset.held_out], held[preset.held_out:]
    else:
        held, train = held[: preset.held_out], _draw(load(preset.train_set, **_columns(preset)), preset.seed, "train")
    if len(held) < preset.held_out:
        raise UserError(f"held_out asks for {preset.held_out} problems, {preset.held_out_set} has {len(held)}; lower held_out")
    if len(train) < needed:
        raise UserError(f"{needed} training prompts are needed ({preset.prompts} prompts"
                        + (f" x {preset.rounds} rounds, fresh" if preset.fresh else "")
                        + f"), {preset.train_set} has {len(train)}; lower prompts" + (" or set fresh to false" if preset.fresh else ""))
    train = train[:needed]
    shared = {p.key for p in held} & {p.key for p in train}
    if shared:
        raise UserError(f"{len(shared)} held-out problems are also training prompts, the first being {min(shared)[:60]!r}; "
                        "scores would mean nothing, so take them out of one of the two")
    return train, held


def round_prompts(train: list[Problem], preset: Preset, round: int) -> list[Problem]:
    """The prompts of one round (from 1): the same ones each time, or the next slice when `fresh`."""
    start = (round - 1) * preset.prompts if preset.fresh else 0
    return train[start: start + preset.prompts]


def _draw(problems: list[Problem], seed: int, purpose: str) -> list[Problem]:
    problems = list({p.key: p for p in problems}.values())  # a prompt that stands twice counts once
    random.Random(f"{seed} {purpose}").shuffle(problems)
    return problems


def _is_file(source: str) -> bool:
    return Path(source).is_file() or source.endswith((".jsonl", ".json"))


def _jsonl(path: Path):
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no problems at {path}: the file does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:  # also a number of thousands of digits
                raise UserError(f"{path} line {number} is not JSON ({error}): {line[:60]!r}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path} line {number} is a {type(row).__name__}; a line must be an object such as "
                                '{"prompt": "...", "answer": "..."}')
            yield f"{path} line {number}", row


def _hub(source: str):
    name, _, split = source.partition(":")
    parts = name.split("/")
    if not split or len(parts) not in (2, 3) or not all(parts):
        raise UserError(f"{source!r} is neither an existing JSONL file nor a Hub data set; "
                        "write owner/name:split or owner/name/config:split")
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"{source} is a Hub data set, which needs the 'datasets' package: pip install datasets") from None
    try:
        rows = load_dataset("/".join(parts[:2]), *parts[2:], split=split)
    except Exception as error:  # whatever the Hub, the network, the disk or the cache says, the user wants one sentence
        raise UserError(dataset_error_message("/".join(parts[:2]), source, error)) from error
    for number, row in enumerate(rows):
        yield f"{source} row {number}", row


def dataset_error_message(name: str, source: str, error: Exception) -> str:
    from huggingface_hub import constants

    cause = error
    while cause.__cause__:  # a full disk is "An error occurred while generating the dataset"
        cause = cause.__cause__
    said, why = (" ".join(str(e).split()).rstrip(".") or type(e).__name__ for e in (error, cause))
    if type(error).__name__ == "DatasetNotFoundError":
        return (f"the data set {name} is gated: ask for access at {constants.ENDPOINT}/datasets/{name}, then `hf auth login`" if "gated" in said else
                f"the Hub has no data set {name}, or none for you; check the spelling, or `hf auth login` if it is private")
    if isinstance(error, ConnectionError):
        why = "HF_HUB_OFFLINE is set); unset it" if constants.HF_HUB_OFFLINE else f"{why}); check the name and the network"
        return f"the data set {source} could not be loaded: it is not in the cache, and the Hub cannot be reached ({why}"
    if isinstance(error, ValueError) and re.search("split|config", said, re.I):  # none such, or none named: the message says which there are
        return f"the data set {source} could not be loaded: {said.partition(' Example of usage')[0]}; write owner/name:split or owner/name/config:split"
    return f"the data set {source} could not be loaded: {said}" + (f" ({why})" if why != said else "")


def _problem(row: dict, where: str, template: str, answer_column: str, kind: str) -> Problem:
    try:
        prompt = template.format_map({k: _plain(v) for k, v in row.items() if v is not None})
        prompt.encode("utf-8")  # half of a surrogate pair is no text
    except (KeyError, IndexError, AttributeError, TypeError, MemoryError, ValueError) as error:
        raise UserError(f"{where}: the prompt template {template!r} asks for {error}, the row has {', '.join(map(str, row))}") from None
    kind = row.get("kind", kind)
    if kind not in KINDS:
        raise UserError(f"{where}: unknown kind {kind!r}; known are {', '.join(KINDS)}")
    if not prompt.strip():
        raise UserError(f"{where}: the prompt is empty")
    answer = row.get(answer_column)
    answer = "" if answer is None else str(answer).strip()
    if answer and kind in ("integer", "choice") and canonical(answer, kind) is None:
        raise UserError(f"{where}: the answer {answer[:40]!r} is not {'an integer' if kind == 'integer' else 'yes, no or maybe'}")
    return Problem(prompt, answer, kind)


def _plain(value):
    """Lists of paragraphs (PubMedQA's contexts) become text, at any depth."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return "\n".join(map(str, value)) if isinstance(value, list) else value
