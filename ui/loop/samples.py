"""The samples of a round: a table of them, and one in detail."""

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.think_parser import parse_sample

if TYPE_CHECKING:
    from thinkswitch.weights.checkpoint import Checkpoint

MAX_ROWS = 200  # shown at once
COLUMNS = ["Round", "No.", "Prompt", "Answer", "Kept?", "Tokens"]
KEPT, UNDECIDED = "kept", "not stripped yet"

DETAILS = Markup(
    "<b>Prompt</b><pre>{prompt}</pre>"
    "<b>Raw response</b>, {tokens} tokens<pre>{response}</pre>"
    "<b>Stripped answer</b>, {verdict}<pre>{answer}</pre>"
    "<b>What the loss sees</b>: grey is masked, coloured is trained on<pre>{loss}</pre>"
)


def table(folder: Path, number: Any, which: str) -> list[list]:
    """Rows of a round's table: `which` is all, kept or dropped. Dropped ones come first."""
    rows = []
    per_prompt = samples_per_prompt(folder)
    for sample in read(folder, number):
        verdict = verdict_of(sample)
        if which != "all" and (which == "kept") != (verdict == KEPT):
            continue
        prompt, answer = shorten(sample["prompt"], 120), shorten(answer_of(sample), 60)
        rows.append(
            [round_number(number), number_of(sample, per_prompt), prompt, answer, verdict, sample["tokens"]]
        )
    rows.sort(key=lambda row: row[4] == KEPT)
    return rows[:MAX_ROWS]


def details(folder: Path, number: Any, wanted: Any) -> Markup:
    """One sample: the raw text, what is left of it, and the tokens as the loss sees them."""
    per_prompt = samples_per_prompt(folder)
    found = (one for one in read(folder, number) if str(number_of(one, per_prompt)) == str(wanted))
    sample = next(found, None)
    if sample is None:
        raise UserError(f"sample {wanted} of round {number} no longer exists; choose another one")
    parsed = parse_sample(sample)
    answer = parsed.answer
    preset = runs.open_run(folder)
    verdict = verdict_of(sample)
    return DETAILS.format(
        prompt=sample["prompt"],
        tokens=sample["tokens"],
        response=(parsed.tags.open if sample["prefilled"] else "") + sample["text"],
        verdict=verdict if verdict in (KEPT, UNDECIDED) else f"dropped: {verdict}",
        answer=answer or "(nothing)",
        loss=loss_html(
            checkpoint(preset.instruct, preset.instruct_system, preset.instruct_template_args),
            sample["prompt"],
            answer,
        ),
    )


def loss_html(instruct: "Checkpoint", prompt: str, answer: str) -> Markup:
    """The tokens of one training example."""
    from thinkswitch.distil import make_example

    example = make_example(instruct, prompt, answer)
    masked = [token_html(instruct, token, "masked") for token in example.prompt]
    trained = [token_html(instruct, token, "trained") for token in example.answer]
    return Markup().join(masked + trained)


def token_html(checkpoint: "Checkpoint", token: int, kind: str) -> Markup:
    return Markup('<span class="token {}">{}</span>').format(kind, checkpoint.tokenizer.decode([token]))


def read(folder: Path, number: Any) -> list[dict]:
    return list(runs.read_samples(runs.round_dir(folder, round_number(number)) / "samples.jsonl"))


def round_number(text: Any) -> int:
    """The round of a choice, which comes from outside; 0, which has no samples, for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,4}", str(text)) else 0


def samples_per_prompt(folder: Path) -> int:
    return runs.open_run(folder).samples


def number_of(sample: dict, per_prompt: int) -> int:
    """From 1, prompt by prompt: the same however far the round is."""
    return sample["prompt_index"] * per_prompt + sample["sample"] + 1


def verdict_of(sample: dict) -> str:
    return KEPT if sample.get("kept") else sample.get("why") or UNDECIDED


def answer_of(sample: dict) -> str:
    return sample["answer"] if "answer" in sample else parse_sample(sample).answer


def shorten(text: str, limit: int) -> str:
    """On one line, of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


@lru_cache(maxsize=4)
def checkpoint(name: str, system: str, template_args: str) -> "Checkpoint":
    from thinkswitch.weights.checkpoint import open_checkpoint
    from thinkswitch.weights.prompting import Prompting

    return open_checkpoint(name, headers_only=True, prompting=Prompting(system, template_args))
