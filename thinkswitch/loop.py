"""The method. START HERE.

One round: the thinking checkpoint answers the prompts (think), its trace is cut away (strip), LoRA trains the
instruct checkpoint on the answers (distil), a new thinking checkpoint is interpolated (rebuild), both are scored on
held-out problems (measure). `run` yields an event whenever something happened; the run folder holds the results.

Every stage finds out from the folder what is already done, so resuming is running again.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from thinkswitch import evaluate, grading, problems, recipe, rounds, runs
from thinkswitch.distil import make_example, soften, train_adapter
from thinkswitch.errors import UserError
from thinkswitch.evaluate import Score, seed_of
from thinkswitch.generate import Chunk, Row, generate
from thinkswitch.preset import Preset
from thinkswitch.problems import Problem
from thinkswitch.recipe import Recipe
from thinkswitch.remote import distributed, teacher
from thinkswitch.rounds import Round
from thinkswitch.think_parser import parse_response
from thinkswitch.weights import memory_plan
from thinkswitch.weights.adapter import load_adapter
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.device import Machine, release
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair, open_pair

ROLES = ("instruct", "thinking")
EVENT_SECONDS = 0.25  # no more often than this while answers come in
PULSE_SECONDS = 5.0  # and at least this often while long ones are being written
SAME_ANSWER = 8  # so many kept answers, all alike, cannot be what a task teaches
Stage = Generator[runs.Event, None, None]


class Stopped(Exception):
    """The stop file appeared."""


@dataclass(frozen=True)
class RunContext:
    """What every stage needs, checked before work starts."""

    preset: Preset
    folder: Path
    pair: Pair
    train: list[Problem]
    held_out: list[Problem]
    machine: Machine

    def stopped(self) -> bool:
        return runs.stop_requested(self.folder)

    def model(self, round: Round, point: Recipe):
        return materialise(self.pair, round.adapters, point, **self.machine)


def run(preset: Preset, folder: Path) -> Iterator[runs.Event]:
    """Run the loop in a new folder. Everything that can be refused is refused before the folder is made."""
    job = prepare(preset, folder)
    preset = memory_plan.fit_to_memory(job.pair, preset)  # and it stays so, whoever resumes
    job = replace(job, preset=preset, machine=memory_plan.resolve_machine(job.pair, preset, memory_plan.LOOP))
    runs.create(preset, folder)
    yield from _recorded(job)


def resume(folder: Path) -> Iterator[runs.Event]:
    """Go on where a stopped or killed run left off; ends in the same bits as one never interrupted (CPU)."""
    yield from _recorded(prepare(runs.open_run(folder), folder))


def prepare(preset: Preset, folder: Path) -> RunContext:
    if runs.running_pid(folder):
        raise UserError(f"{folder} is in use by process {runs.running_pid(folder)}; stop it first: thinkswitch stop {folder}")
    train, held_out = problems.train_and_held_out(preset)
    pair = open_pair(preset.instruct, preset.thinking)  # last: it may fetch gigabytes
    check_targets(preset, pair)
    return RunContext(preset, folder, pair, train, held_out, memory_plan.resolve_machine(pair, preset, memory_plan.LOOP))


def check_targets(preset: Preset, pair: Pair) -> None:
    """A recipe holds updates of the layers' linear weights; peft would train others, or none, without a word."""
    known = {n.split(".")[-2] for n, e in pair.instruct.entries.items()
             if len(e.shape) == 2 and recipe.module_kind(n) in ("attention", "mlp")}
    unknown = [t for t in preset.lora_targets.split(",") if t not in known]
    if preset.lora_targets != "all-linear" and unknown:
        raise UserError(f"lora_targets names {unknown[0]!r}, which is no linear layer here; write all-linear, or some of {','.join(sorted(known))}")


def _recorded(job: RunContext) -> Iterator[runs.Event]:
    """All rounds, every event written down before it is shown."""
    number = 0

    def record(event: runs.Event) -> runs.Event:
        runs.append(job.folder / "events.jsonl", event.to_dict())
        return event

    with runs.claim(job.folder):
        try:
            for number in range(job.preset.rounds + 1):
                for event in one_round(job, number):
                    yield record(event)
                    if job.stopped():
                        raise Stopped
            yield record(runs.Event(number, "done", job.preset.rounds, job.preset.rounds))
        except Stopped:
            yield record(runs.Event(number, "stopped"))
        except Exception as error:
            message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            with suppress(OSError):  # a full disk, say: then the error itself is what counts
                yield record(runs.Event(number, "error", data=dict(message=message)))
            raise


def one_round(job: RunContext, number: int) -> Stage:
    """The method in five lines. Round 0 only measures where the pair stands."""
    if number > 0:
        before = rounds.read(job.folder, number - 1)
        yield from think(job, before)
        kept = yield from strip(job, number)
        yield from distil(job, before, kept)
        yield from rebuild(job, before)
    elif not (runs.round_dir(job.folder, 0) / "recipe.json").is_file():
        rounds.write(job.folder, rounds.start(job.pair))
    yield from measure(job, rounds.read(job.folder, number))


def think(job: RunContext, before: Round) -> Stage:
    """The labelling checkpoint answers every prompt, `samples` times; each answer is a line of samples.jsonl."""
    preset, number = job.preset, before.number + 1
    path = runs.round_dir(job.folder, number) / "samples.jsonl"
    prompts = problems.round_prompts(job.train, preset, number)
    role = "instruct" if preset.labels == "self" else "thinking"
    checkpoint: Checkpoint = getattr(job.pair, role)
    settings = evaluate.sampling(preset, role)
    keys = [(i, s) for i in range(len(prompts)) for s in range(preset.samples)]
    rows = [evaluate.row(checkpoint, prompts[i].prompt, settings, seed_of(preset.seed, "think", number, i, s)) for i, s in keys]
    done = {line["prompt_index"] * preset.samples + line["sample"] for line in runs.read_lines(path)}
    if len(done) == len(rows):
        return
    remote = preset.teacher and role == "thinking"
    model, due = None if remote else job.model(before, getattr(before, role)), ProgressMeter()
    for at, chunk in decode_remote(job, checkpoint, rows, done) if remote else decode_local(job, model, checkpoint, rows, done):
        if at is None:
            yield runs.Event(number, "think", len(done), len(rows), dict(tokens_per_s=due.rate, writing=chunk.tokens))
            continue
        (i, s), problem = keys[at], prompts[keys[at][0]]
        runs.append(path, dict(prompt_index=i, sample=s, kind=problem.kind, prompt=problem.prompt, text=chunk.text,
                               prefilled=checkpoint.template_opens_think, tokens=chunk.tokens, finish=chunk.finish))
        if due(chunk.tokens) or len(done) == len(rows):
            yield runs.Event(number, "think", len(done), len(rows), dict(tokens_per_s=due.rate))
    del model
    release()


def decode_local(
    job: RunContext, model, checkpoint: Checkpoint, rows: list[Row], done: set[int]
) -> Iterator[tuple[int | None, Chunk]]:
    """(index, last chunk) of every row that is not `done`, which grows with them; and now and then (None, chunk of one that is being
    written): a trace of 16 000 tokens may take a quarter of an hour."""
    written = 0
    for chunk in generate(model, checkpoint.tokenizer, rows, checkpoint.stop_token_ids, job.preset.rows, True, job.stopped, PULSE_SECONDS, done):
        if chunk.finish == "cancel":
            raise Stopped
        if chunk.finish:
            done.add(chunk.row)
            yield chunk.row, chunk
        elif chunk.tokens != written:  # all rows of a step have as many
            written = chunk.tokens
            yield None, chunk


def decode_remote(job: RunContext, checkpoint: Checkpoint, rows: list[Row], done: set[int]) -> Iterator[tuple[int, Chunk]]:
    """As `decode_local`, by a server."""
    url, model = job.preset.teacher, job.preset.teacher_model
    for chunk in teacher.ask_teacher(url, model, checkpoint, rows, job.preset.rows, job.stopped, done):
        if chunk.finish == "cancel":
            raise Stopped
        done.add(chunk.row)
        yield chunk.row, chunk


class ProgressMeter:
    """Whether it is time to tell of progress again, and at how many tokens a second it goes."""

    def __init__(self):
        self.tokens, self.rate = 0, 0
        self.began = self.told = time.monotonic()

    def __call__(self, tokens: int) -> bool:
        self.tokens += tokens
        now = time.monotonic()
        self.rate = round(self.tokens / max(1e-9, now - self.began))
        if now - self.told < EVENT_SECONDS:
            return False
        self.told = now
        return True


def strip(job: RunContext, number: int) -> Generator[runs.Event, None, list[dict]]:
    """Cut the traces away and decide which answers are kept; the reasons go back into samples.jsonl."""
    path = runs.round_dir(job.folder, number) / "samples.jsonl"
    lines = sorted(runs.read_lines(path), key=lambda line: (line["prompt_index"], line["sample"]))
    lines = judge_samples(lines, thinks=job.preset.labels != "self")
    for line in lines:
        if line["kept"] and len(make_example(job.pair.instruct, line["prompt"], line["answer"])) > job.preset.max_length:
            line |= dict(kept=False, why="longer than max_length")
    kept = [line for line in lines if line["kept"]]
    dropped = Counter(line["why"] for line in lines if not line["kept"])
    runs.write_atomic(path, "".join(runs.to_line(line) for line in lines))
    if not event_recorded(job, number, "strip"):
        yield runs.Event(number, "strip", len(lines), len(lines), dict(kept=len(kept), dropped=dict(dropped)))
    if not kept:
        reasons = ", ".join(f"{n} {why}" for why, n in dropped.most_common())
        raise UserError(f"round {number}: none of {len(lines)} answers could be kept ({reasons}); see {path}"
                        + ("; raise think_tokens" if dropped["cut off"] else ""))
    if len(kept) >= SAME_ANSWER and len({line["answer"] for line in kept}) == 1:
        raise UserError(f"round {number}: all {len(kept)} kept answers are the same, {kept[0]['answer'][:60]!r}; "
                        "the labelling checkpoint does not answer these prompts, so nothing would be learnt")
    return kept


def judge_samples(lines: list[dict], thinks: bool) -> list[dict]:
    """Each sample with its answer, and whether it is kept or why not. With several samples the majority's first is kept."""
    judged = []
    for line in lines:
        parts = parse_response(line["text"], line["prefilled"])
        said = grading.final_answer(parts.answer, line["kind"])
        why = ("cut off" if line["finish"] == "length" else
               "trace never closed" if parts.state == "open" else
               f"{parts.state} tag" if parts.state in ("wrong close", "doubled") else
               "no trace" if thinks and parts.state == "none" else
               "empty answer" if not parts.answer else
               "no final answer" if said is None else None)
        judged.append({**line, "trace": parts.trace, "answer": parts.answer, "said": said, "why": why})
    votes: dict[int, list[dict]] = defaultdict(list)
    for line in judged:
        if line["why"] is None:
            votes[line["prompt_index"]].append(line)
    for ballot in votes.values():
        winner = Counter(line["said"] for line in ballot).most_common(1)[0][0]  # the earliest among equals
        first = next(line for line in ballot if line["said"] == winner)
        for line in ballot:
            if line is not first:
                line["why"] = "agrees with one kept" if line["said"] == winner else "outvoted"
    return [{**line, "kept": line["why"] is None} for line in judged]


def distil(job: RunContext, before: Round, kept: list[dict]) -> Stage:
    """Train the next adapter on prompt -> stripped answer, under the instruct checkpoint's own template."""
    number = before.number + 1
    folder = runs.round_dir(job.folder, number)
    if (folder / "adapter").is_dir():
        return
    distributed.broadcast((job.folder, number))
    yield from train(job, before, kept, folder)


def worker_main() -> None:
    """What the other processes of `accelerate launch` do: their share of every distillation, until they are let go."""
    while errand := distributed.broadcast():
        folder, number = errand
        preset = runs.open_run(folder)
        pair = open_pair(preset.instruct, preset.thinking)
        job = RunContext(preset, folder, pair, [], [], memory_plan.resolve_machine(pair, preset, memory_plan.LOOP))
        kept = [line for line in runs.read_lines(runs.round_dir(folder, number) / "samples.jsonl") if line["kept"]]
        with suppress(UserError):  # the first process has it, too, and tells
            for _ in train(job, rounds.read(folder, number - 1), kept, runs.round_dir(folder, number)):
                pass


def train(job: RunContext, before: Round, kept: list[dict], folder: Path) -> Stage:
    preset, number, instruct = job.preset, before.number + 1, job.pair.instruct
    seed = seed_of(preset.seed, "distil", number) % 2**31
    answers = [line["answer"] for line in kept]
    if preset.labels == "shuffled":
        answers = shuffled([line["kind"] for line in kept], answers, seed)
    examples = [make_example(instruct, line["prompt"], answer) for line, answer in zip(kept, answers)]
    if preset.soft:
        teacher = job.model(before, before.thinking)
        thinking = job.pair.thinking
        contexts = [(*thinking.prompt_ids(line["prompt"]), *_encode(job, line["text"][:line["text"].rindex(line["answer"])])) for line in kept]
        examples = soften(teacher, examples, contexts, preset.soft_top_k)
        del teacher
        release()
    model = job.model(before, before.instruct)
    for step in train_adapter(model, examples, preset, seed, folder):
        yield runs.Event(number, "distil", step.step, step.total,
                    dict(loss=step.loss, lr=step.lr, grad_norm=step.grad_norm, tokens_per_s=round(step.tokens_per_s)))
    del model
    release()


def _encode(job: RunContext, text: str) -> list[int]:
    return job.pair.instruct.tokenizer.encode(text, add_special_tokens=False)


def shuffled(kinds: list[str], answers: list[str], seed: int) -> list[str]:
    """A control: every answer goes to another prompt of its kind."""
    result = list(answers)
    for kind in sorted(set(kinds)):
        places = [i for i, k in enumerate(kinds) if k == kind]
        random.Random(f"{seed} {kind}").shuffle(places)
        for place, source in zip(places, places[1:] + places[:1]):  # one cycle: none keeps its own
            result[place] = answers[source]
    return result


def rebuild(job: RunContext, before: Round) -> Stage:
    """thinking = SLERP(new instruct, anchor; t): arithmetic on scalars, no weights are written."""
    number, preset = before.number + 1, job.preset
    folder = runs.round_dir(job.folder, number)
    if not (folder / "recipe.json").is_file():
        adapter = load_adapter(folder / "adapter")
        rounds.write(job.folder, rounds.rebuild(job.pair, before, adapter, preset.t, preset.anchor, preset.schedule))
    if not event_recorded(job, number, "rebuild"):
        yield runs.Event(number, "rebuild", 1, 1, dict(t=preset.t, anchor=preset.anchor))


def measure(job: RunContext, round: Round) -> Stage:
    """Score both checkpoints on the held-out problems, each under its own template and sampling."""
    preset, number = job.preset, round.number
    for role in ROLES:
        if event_recorded(job, number, "measure", role):
            continue
        checkpoint: Checkpoint = getattr(job.pair, role)
        path = runs.round_dir(job.folder, number) / "scores.jsonl"
        scores = read_scores(job.folder, number, role)
        settings = evaluate.sampling(preset, role, preset.greedy)
        rows = [evaluate.row(checkpoint, p.prompt, settings, seed_of(preset.seed, "measure", role, q))
                for q, p in enumerate(job.held_out)]
        if len(scores) < len(rows):
            model, due, done = job.model(round, getattr(round, role)), ProgressMeter(), set(scores)
            for q, chunk in decode_local(job, model, checkpoint, rows, done):
                if q is None:
                    so_far = summary_so_far(job, number, role, scores) if scores else dict(checkpoint=role)
                    yield runs.Event(number, "measure", len(done), len(rows), so_far | dict(tokens_per_s=due.rate, writing=chunk.tokens))
                    continue
                scores[q] = evaluate.score(job.held_out[q], q, chunk)
                runs.append(path, dict(checkpoint=role, **asdict(scores[q])))
                if due(chunk.tokens) and len(done) < len(rows):
                    yield runs.Event(number, "measure", len(done), len(rows), summary_so_far(job, number, role, scores) | dict(tokens_per_s=due.rate))
            del model
            release()
        yield runs.Event(number, "measure", len(rows), len(rows), summary_so_far(job, number, role, scores))


def summary_so_far(job: RunContext, number: int, role: str, scores: dict[int, Score]) -> dict:
    """The figures of the questions answered so far, and the paired comparison with the same questions in round 0."""
    summary = dict(checkpoint=role, **asdict(evaluate.summarise(list(scores.values()))))
    if number:
        start = read_scores(job.folder, 0, role)
        summary["since_start"] = asdict(evaluate.compare_scores([start[q] for q in scores], list(scores.values())))
    return summary


def read_scores(folder: Path, number: int, role: str) -> dict[int, Score]:
    """By question."""
    lines = runs.read_lines(runs.round_dir(folder, number) / "scores.jsonl")
    return {line["question"]: Score(**{k: v for k, v in line.items() if k != "checkpoint"}) for line in lines if line["checkpoint"] == role}


def event_recorded(job: RunContext, number: int, phase: str, checkpoint: str | None = None) -> bool:
    """Whether an earlier process has already written the event that ends a stage."""
    return any(e["round"] == number and e["phase"] == phase and e["step"] == e["total"] and e.get("checkpoint") == checkpoint
               for e in runs.read_lines(job.folder / "events.jsonl"))
