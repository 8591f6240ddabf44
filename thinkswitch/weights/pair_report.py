"""What a check finds of a pair: what it is, what is odd about it, and what stops it.

One report for the terminal, the page and the model card.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from thinkswitch.errors import list_some
from thinkswitch.preset import Preset
from thinkswitch.think_tags import THINK
from thinkswitch.weights.adapted import AdaptedCheckpoint
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.device import resolve_device
from thinkswitch.weights.families import OVERFLOWS_FLOAT16
from thinkswitch.weights.pair import Pair, differences, written_texts
from thinkswitch.weights.tokenizer import tokens_beyond, unused_tokens
from thinkswitch.weights.weight_files import HEAD

BASE = re.compile(r"(^|[-_.])(base|pt)($|[-_.])", re.IGNORECASE)  # in the names of base models
DATE = re.compile(r"strftime_now|date_string|current_date")
ROLES = ("instruct", "thinking")


@dataclass(frozen=True)
class PairReport:
    """A fact is (what, value); remarks and obstacles are a clause each."""

    facts: tuple[tuple[str, str], ...]  # what the pair is
    odd: tuple[str, ...]  # what to know of it, and yet it works
    stops: tuple[str, ...]  # why its sides cannot be interpolated; empty: they can

    def to_dict(self) -> dict:
        return {"is": dict(self.facts), "odd": list(self.odd), "stops": list(self.stops)}


def report_of(pair: Pair, preset: Preset | None = None) -> PairReport:
    """From headers; a head that is stored beside a tied embedding is also read, once it is here.

    With a preset also what is odd about the pair on this machine.
    """
    odd = [*remarks(pair), *(about_precision(pair, preset) if preset else ())]
    return PairReport(tuple(facts(pair)), tuple(dict.fromkeys(odd)), tuple(differences(pair)))


# ---- what it is


def facts(pair: Pair) -> Iterator[tuple[str, str]]:
    config = pair.config
    embeddings = "tied" if config.tie_word_embeddings else "untied"
    entries = [entry for side in pair.checkpoints for entry in side.entries.values()]
    dtypes = ", ".join(sorted({entry.dtype for entry in entries}))
    yield (
        "architecture",
        f"{config.model_type}, {config.num_hidden_layers} layers, hidden {config.hidden_size}",
    )
    yield "size", f"{pair.parameters:,} parameters in {len(pair.names)} tensors ({dtypes})"
    padding = config.vocab_size - max(len(side.tokenizer) for side in pair.checkpoints)
    padded = f" ({padding:,} of it padding)" if padding > 0 else ""
    yield "vocabulary", f"vocabulary {config.vocab_size:,}{padded}, {embeddings} embeddings"
    for role, side in zip(ROLES, pair.checkpoints, strict=True):
        yield role, about_side(side)


def about_side(side: Checkpoint) -> str:
    """How one side is asked, and what ends its answers."""
    opens = "opens" if side.template_opens_think else "does not open"
    tags = "" if side.think_tags == THINK else f" ({side.think_tags.open} … {side.think_tags.close})"
    ends = list_some([repr(side.tokenizer.decode([i])) for i in sorted(side.stop_token_ids)])
    asked = f"; asked with {side.prompting}" if str(side.prompting) else ""
    return f"its chat template {opens} the trace{tags}; answers end at {ends}{asked}"


# ---- what is odd


def remarks(pair: Pair) -> Iterator[str]:
    yield from about_both(pair)
    if isinstance(pair.thinking, AdaptedCheckpoint):
        yield from pair.thinking.remarks
    yield from about_tokens(pair)
    for role, side in zip(ROLES, pair.checkpoints, strict=True):
        if role == "instruct" or not pair.same_weights:
            yield from about_files(role, side)
        yield from about_template(role, side)


def about_both(pair: Pair) -> Iterator[str]:
    if pair.same_weights:
        yield about_same_weights(pair)
    elif pair.instruct.template_opens_think:
        yield "the template of the instruct checkpoint opens the trace: are the two the wrong way round?"
    if not any(side.found_tags for side in pair.checkpoints):
        yield (
            f"no template and no vocabulary shows thinking tags, so {THINK.open} is looked for; "
            "if the thinking checkpoint writes others, set think_tags"
        )
    vision = len(pair.instruct.vision) or len(pair.thinking.vision)
    if vision:
        yield f"text only: the {vision} tensors of its vision are left out"


def about_precision(pair: Pair, preset: Preset) -> Iterator[str]:
    """A remark where a pair would be computed in float16 and its family overflows in it."""
    machine = resolve_device(replace(preset, four_bit=bool(preset.four_bit)), pair.parameters)
    if machine["dtype"] == torch.float16 and pair.config.model_type in OVERFLOWS_FLOAT16:
        yield (
            f"{pair.config.model_type} models may overflow in float16, which is what this machine computes "
            'in, and then write nothing but "!!!!"; if so, set dtype=float32'
        )


def about_same_weights(pair: Pair) -> str:
    """What to know of a pair whose sides are one checkpoint."""
    if pair.instruct.render("?") != pair.thinking.render("?"):
        return "both sides are the same weights, told apart by the template until a round has trained them"
    return (
        "both sides are the same weights and are asked alike; tell them apart with instruct_template_args, "
        "thinking_template_args, instruct_system or thinking_system"
    )


def about_tokens(pair: Pair) -> Iterator[str]:
    sides = pair.instruct.tokenizer, pair.thinking.tokenizer
    extra = unused_tokens(*sides, written_texts(pair))
    if extra:
        yield (
            f"the tokenizers differ in {len(extra)} added tokens that no template, tag or system prompt uses "
            f"({list_some([repr(token) for token in extra])})"
        )
    for role, tokenizer in zip(ROLES, sides, strict=True):
        beyond = tokens_beyond(tokenizer, pair.config.vocab_size)
        if beyond:
            yield (
                f"{role}: {len(beyond)} tokens have no row in the embedding "
                f"({list_some([repr(token) for token in beyond])}); a prompt that holds one is refused"
            )


def about_files(role: str, side: Checkpoint) -> Iterator[str]:
    if HEAD in side.unused:
        state = "equal to the embedding" if not side.missing().files else "not compared before it is here"
        yield f"{role}: a tied head is stored, too, and left out ({state})"
    elif side.own_head:
        yield (
            f"{role}: its config ties the head to the embedding, but a different one is stored; that one is "
            "used, as transformers 5 does, while other programs may not"
        )
    extra = sorted(name for name in side.unused if name != HEAD)
    if extra:
        yield (
            f"{role}: {len(extra)} tensors that no {side.config.model_type} model has are left out, "
            f"as transformers does ({list_some(extra)})"
        )
    if BASE.search(Path(side.name).name):
        yield f"{role}: it is named like a base model, which was never taught its chat template"


def about_template(role: str, side: Checkpoint) -> Iterator[str]:
    if not side.small_file("generation_config.json").is_file():
        yield f"{role}: no generation_config.json; what ends an answer is read off config and template"
    end = side.template_turn_end
    if end is None:
        yield (
            f"{role}: its chat template ends a turn with no token of its own; answers end at "
            f"{side.tokenizer.decode([side.turn_end])!r}, if the model writes that"
        )
    elif end not in side.declared_stops:
        yield (
            f"{role}: its chat template ends a turn with {side.tokenizer.decode([end])!r}, which is declared "
            "nowhere as an end; answers stop there all the same"
        )
    if DATE.search(str(side.tokenizer.chat_template)):
        yield f"{role}: its chat template writes the date; a run keeps the one on which it began"
