"""Samples: what the labelling checkpoint wrote to a prompt, and whether its answer is trained on.

A sample is a line of samples.jsonl, written in two steps. `think` records
    prompt_index, sample, kind, prompt, text, prefilled, tokens, finish
    tags: [opening, closing], only where they are not <think> and </think>
    pattern: only where the prompt asks for an answer in that form
    engine: its name and version, only where that is not torch
and `strip` adds
    trace, answer, said (the final answer), why (it is dropped; null: it is kept), kept
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from thinkswitch import runs
from thinkswitch.distil import Example, make_example
from thinkswitch.engines.engine import TORCH, Engine
from thinkswitch.errors import UserError
from thinkswitch.generate import Chunk, Row
from thinkswitch.grading import final_answer, same
from thinkswitch.preset import Preset
from thinkswitch.problems import Problem
from thinkswitch.rounds import Round
from thinkswitch.run_context import RunContext
from thinkswitch.think_parser import ThinkParser, parse_sample
from thinkswitch.think_tags import THINK, refuse_traceless
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.device import out_of_memory, release

FIRST_ANSWERS = 16  # if none of these has a trace, the run looks for the wrong tags
SAME_ANSWER = 8  # if this many kept answers are all alike, the task teaches nothing


def new(
    problem: Problem, prompt_index: int, sample: int, row: Row, chunk: Chunk, engine: Engine = TORCH
) -> dict:
    """A line of samples.jsonl as `think` writes it."""
    line = {
        "prompt_index": prompt_index,
        "sample": sample,
        "kind": problem.kind,
        "prompt": problem.prompt,
        "text": chunk.text,
        "prefilled": row.prefilled,
        "tokens": chunk.tokens,
        "finish": chunk.finish,
    }
    if problem.pattern:
        line["pattern"] = problem.pattern
    if engine.label:
        line["engine"] = engine.label
    return line if row.tags == THINK else {**line, "tags": [row.tags.open, row.tags.close]}


def judge(samples: list[dict], thinks: bool, fits: Callable[[str, str], bool]) -> list[dict]:
    """Each sample with its trace, its answer, and whether it is kept or why not.

    `thinks`: a trace is required. `fits(prompt, answer)`: short enough to train on. Of several samples for a
    prompt, the first usable one that gives the majority's answer is kept.
    """
    judged = []
    for sample in samples:
        parsed = parse_sample(sample)
        said = final_answer(parsed.answer, sample["kind"], sample.get("pattern", ""))
        why = _rejection(sample["finish"], parsed, said, thinks)
        if why is None and not fits(sample["prompt"], parsed.answer):
            why = "longer than max_length"
        judged.append({**sample, "trace": parsed.trace, "answer": parsed.answer, "said": said, "why": why})
    _vote(judged)
    return [{**sample, "kept": sample["why"] is None} for sample in judged]


def _rejection(finish: str, parsed: ThinkParser, said: str | None, thinks: bool) -> str | None:
    """Why a sample cannot be trained on, or None."""
    if finish == "length":
        return "cut off"
    if parsed.state == "open":
        return "trace never closed"
    if parsed.state in ("wrong close", "doubled"):
        return f"{parsed.state} tag"
    if thinks and parsed.state == "none":
        return "no trace"
    if not parsed.answer:
        return "empty answer"
    if said is None:
        return "no final answer"
    return None


def _vote(judged: list[dict]) -> None:
    """Keep one usable sample per prompt; the others get their reason."""
    ballots = defaultdict(list)
    for sample in judged:
        if sample["why"] is None:
            ballots[sample["prompt_index"]].append(sample)
    for ballot in ballots.values():
        parties = _parties(ballot)
        winner = max(parties, key=len)  # among equals the one given first
        for party in parties:
            for sample in party:
                sample["why"] = "agrees with one kept" if party is winner else "outvoted"
        winner[0]["why"] = None


def _parties(ballot: list[dict]) -> list[list[dict]]:
    """The samples whose answers mean the same, by the first one's words: 1/2 and 0.5 are one party."""
    parties: list[list[dict]] = []
    for sample in ballot:
        said, kind = sample["said"], sample["kind"]
        own = next((party for party in parties if same(said, party[0]["said"], kind)), None)
        if own is None:
            parties.append([sample])
        else:
            own.append(sample)
    return parties


def answers_to_check(preset: Preset, role: str, total: int) -> int:
    """After how many of `total` answers it is asked whether any has a trace; 0: never, none is expected.

    At least a whole batch: answers without a trace are short, so they are the first that end.
    """
    return min(max(FIRST_ANSWERS, preset.rows), total) if role == "thinking" else 0


def refuse_without_traces(path: Path, count: int) -> None:
    """End the run when none of its first `count` answers has a trace: hours would pass for nothing."""
    if count == 0:
        return
    first = list(islice(runs.read_samples(path), count))
    parsed = [parse_sample(line) for line in first]
    if len(first) == count and all(one.state == "none" for one in parsed):
        refuse_traceless([line["text"] for line in first], parsed[0].tags, str(path))


def refuse_unusable(number: int, samples: list[dict], path: Path) -> None:
    """End the run when its answers cannot teach anything."""
    kept = [sample for sample in samples if sample["kept"]]
    if not kept:
        dropped = Counter(sample["why"] for sample in samples)
        reasons = ", ".join(f"{count} {why}" for why, count in dropped.most_common())
        advice = "; raise think_tokens" if dropped["cut off"] else ""
        raise UserError(
            f"round {number}: none of {len(samples)} answers could be kept ({reasons}); see {path}{advice}"
        )
    if len(kept) >= SAME_ANSWER and len({sample["answer"] for sample in kept}) == 1:
        raise UserError(
            f"round {number}: all {len(kept)} kept answers are the same, {kept[0]['answer'][:60]!r}; the "
            "labelling checkpoint does not answer these prompts, so nothing would be learnt"
        )


def training_examples(context: RunContext, before: Round, kept: list[dict], seed: int) -> list[Example]:
    """What the loss sees of the kept samples; with `soft`, the teacher's distribution, not its words."""
    preset = context.preset
    answers = [sample["answer"] for sample in kept]
    if preset.labels == "shuffled":
        answers = shuffle_answers([sample["kind"] for sample in kept], answers, seed)
    examples = []
    for sample, answer in zip(kept, answers, strict=True):
        examples.append(make_example(context.pair.instruct, sample["prompt"], answer))
    if not preset.soft:
        return examples
    contexts = [_teacher_context(context.pair.thinking, sample) for sample in kept]
    teacher = context.model(before, before.thinking)
    softened = soften(teacher, examples, contexts, preset.soft_top_k)
    del teacher
    release()
    return softened


def _teacher_context(thinking: Checkpoint, sample: dict) -> tuple[int, ...]:
    """Token ids that stood before the answer when the teacher wrote it: prompt and trace."""
    before_answer = sample["text"][: parse_sample(sample).answer_start]
    written = thinking.tokenizer.encode(before_answer, add_special_tokens=False)
    return (*thinking.prompt_ids(sample["prompt"]), *written)


def shuffle_answers(kinds: list[str], answers: list[str], seed: int) -> list[str]:
    """A control: each answer moves to another prompt of the same kind."""
    shuffled = list(answers)
    for kind in sorted(set(kinds)):
        places = [i for i, k in enumerate(kinds) if k == kind]
        random.Random(f"{seed} {kind}").shuffle(places)
        for place, source in zip(places, places[1:] + places[:1], strict=True):  # one cycle, so none stays
            shuffled[place] = answers[source]
    return shuffled


@torch.inference_mode()
def soften(teacher, examples: list[Example], contexts: list[tuple[int, ...]], k: int) -> list[Example]:
    """Give each example the teacher's top-k distribution over its answer tokens.

    `contexts` holds the token ids that stood before each answer when the teacher wrote it: prompt and trace.
    """
    softened = []
    for example, context in zip(examples, contexts, strict=True):
        try:
            p, tokens = _likeliest_tokens(teacher, example, context, k)
        except RuntimeError as error:  # torch.OutOfMemoryError is one, too
            if not out_of_memory(error):
                raise
            raise UserError(
                f"a trace and answer of {len(context) + len(example.answer):,} tokens do not fit into memory "
                "to read the teacher's distribution; lower think_tokens, or take soft=false"
            ) from error
        softened.append(replace(example, soft_ids=tokens.cpu(), soft_p=p.cpu()))
    return softened


def _likeliest_tokens(
    teacher, example: Example, context: tuple[int, ...], k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and ids of the k likeliest tokens, each (answer tokens, k); a row sums to 1."""
    ids = torch.tensor([[*context, *example.answer]], device=next(teacher.parameters()).device)
    logits = teacher(input_ids=ids, logits_to_keep=len(example.answer) + 1).logits[0, :-1].float()
    p, tokens = logits.softmax(-1).topk(min(k, logits.shape[-1]))
    return p / p.sum(-1, keepdim=True), tokens
