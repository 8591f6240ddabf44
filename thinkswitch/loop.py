"""The method. START HERE.

One round of ThinkSwitch:

    think     the thinking checkpoint answers the prompts: a reasoning trace, then an answer
    strip     the trace is cut away; (prompt, answer) is kept
    distil    LoRA trains the instruct checkpoint on the kept answers
    rebuild   thinking = SLERP(new instruct, anchor; t); anchor: the original or previous checkpoint
    measure   both checkpoints are scored on held-out problems

`run` yields an Event whenever something happened; the results are in the run folder. Each stage looks there
for what is already done, so resuming a run means running it again.
"""

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from thinkswitch import evaluate, rounds, runs, samples
from thinkswitch.distil import already_trained, make_example, train_adapter
from thinkswitch.errors import UserError
from thinkswitch.evaluate import seed_of
from thinkswitch.memory_plan import LOOP, fit_to_memory, resolve_machine
from thinkswitch.preset import Preset
from thinkswitch.problems import round_prompts
from thinkswitch.remote import distributed
from thinkswitch.rounds import Round
from thinkswitch.run_context import ROLES, ProgressMeter, RunContext, Stopped, prepare
from thinkswitch.runs import Event
from thinkswitch.weights.adapter import load_adapter
from thinkswitch.weights.device import release

Stage = Generator[Event, None, None]


def run(preset: Preset, folder: Path) -> Iterator[Event]:
    """Run the loop in a new folder. Whatever can be refused is refused before the folder is made."""
    context = prepare(preset, folder)
    preset = fit_to_memory(context.pair, preset)  # saved in preset.yaml, so a resume uses the same limits
    context = replace(context, preset=preset, machine=resolve_machine(context.pair, preset, LOOP))
    runs.create(preset, folder)
    yield from _run_rounds(context)


def resume(folder: Path) -> Iterator[Event]:
    """Continue a stopped or killed run. On a CPU the result is bit-identical to an uninterrupted run."""
    yield from _run_rounds(prepare(runs.open_run(folder), folder))


def _run_rounds(context: RunContext) -> Iterator[Event]:
    """Every event is recorded before it is yielded."""
    rounds_to_run = context.preset.rounds
    number = 0
    with runs.claim(context.folder, context.origin, context.engine.facts):
        try:
            for number in range(rounds_to_run + 1):
                for event in one_round(context, number):
                    yield context.record(event)
                    if context.stop_requested():
                        raise Stopped
            yield context.record(Event(number, "done", rounds_to_run, rounds_to_run))
        except Stopped:
            yield context.record(Event(number, "stopped"))
        except Exception as error:
            message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            with suppress(OSError):  # on a full disk the error itself matters more
                yield context.record(Event(number, "error", data={"message": message}))
            raise


def one_round(context: RunContext, number: int) -> Stage:
    """The method in five lines. Round 0 only measures the pair as it came."""
    if number > 0:
        previous = rounds.read(context.folder, number - 1)
        yield from think(context, previous)
        kept = yield from strip(context, number)
        yield from distil(context, previous, kept)
        yield from rebuild(context, previous)
    elif not rounds.is_written(context.folder, 0):
        rounds.write(context.folder, rounds.start(context.pair))
    yield from measure(context, rounds.read(context.folder, number))


def think(context: RunContext, previous: Round) -> Stage:
    """The labelling checkpoint answers each prompt `samples` times, a line of samples.jsonl each."""
    preset = context.preset
    number = previous.number + 1
    role = "instruct" if preset.labels == "self" else "thinking"
    checkpoint = context.checkpoint(role)
    prompts = round_prompts(context.train, preset, number)
    settings = evaluate.sampling(preset, role)
    rows = []
    for i, s in product(range(len(prompts)), range(preset.samples)):
        seed = seed_of(preset.seed, "think", number, i, s)
        rows.append(evaluate.row(checkpoint, prompts[i].prompt, settings, seed))
    path = runs.round_dir(context.folder, number) / "samples.jsonl"
    done = {line["prompt_index"] * preset.samples + line["sample"] for line in runs.read_samples(path)}
    if len(done) == len(rows):
        return
    first = samples.answers_to_check(preset, role, len(rows))
    samples.refuse_without_traces(path, first)
    meter = ProgressMeter()
    for chunk in context.labels(previous, role, rows, done):
        if isinstance(chunk, Event):  # an engine is starting
            meter = ProgressMeter()
            yield chunk
            continue
        meter.read(chunk)
        if chunk.finish:
            i, s = divmod(chunk.row, preset.samples)
            runs.append(path, samples.new(prompts[i], i, s, rows[chunk.row], chunk, context.engine))
            done.add(chunk.row)
            if len(done) == first:
                samples.refuse_without_traces(path, first)
        if meter.due() or len(done) == len(rows):
            yield Event(number, "think", len(done), len(rows), meter.figures)


def strip(context: RunContext, number: int) -> Generator[Event, None, list[dict]]:
    """Cut the traces away and decide which answers are kept. The reasons go back into samples.jsonl."""
    preset = context.preset

    def fits(prompt: str, answer: str) -> bool:
        return len(make_example(context.pair.instruct, prompt, answer)) <= preset.max_length

    path = runs.round_dir(context.folder, number) / "samples.jsonl"
    written = sorted(runs.read_samples(path), key=lambda line: (line["prompt_index"], line["sample"]))
    judged = samples.judge(written, preset.labels != "self", fits)
    kept = [sample for sample in judged if sample["kept"]]
    dropped = Counter(sample["why"] for sample in judged if not sample["kept"])
    runs.write_atomic(path, "".join(runs.to_line(sample) for sample in judged))
    if not context.is_recorded(number, "strip"):
        counts = {"kept": len(kept), "dropped": dict(dropped)}
        yield Event(number, "strip", len(judged), len(judged), counts)
    samples.refuse_unusable(number, judged, path)
    return kept


def distil(context: RunContext, previous: Round, kept: list[dict]) -> Stage:
    """Train the next adapter on (prompt, stripped answer), under the instruct checkpoint's chat template."""
    number = previous.number + 1
    folder = runs.round_dir(context.folder, number)
    if already_trained(folder):
        return
    if distributed.rank() == 0:
        distributed.broadcast((context.folder, number))  # the other processes train along, see cli/worker.py
    seed = seed_of(context.preset.seed, "distil", number) % 2**31
    examples = samples.training_examples(context, previous, kept, seed)
    model = context.model(previous, previous.instruct)
    for step in train_adapter(model, examples, context.preset, seed, folder):
        figures = asdict(step) | {"tokens_per_s": round(step.tokens_per_s)}
        yield Event(number, "distil", figures.pop("step"), figures.pop("total"), figures)
    del model
    release()


def rebuild(context: RunContext, previous: Round) -> Stage:
    """thinking = SLERP(new instruct, anchor; t). This is arithmetic on scalars: no weights are written."""
    preset = context.preset
    number = previous.number + 1
    if not rounds.is_written(context.folder, number):
        adapter = load_adapter(runs.round_dir(context.folder, number) / "adapter")
        current = rounds.rebuild(context.pair, previous, adapter, preset.t, preset.anchor, preset.schedule)
        rounds.write(context.folder, current)
    if not context.is_recorded(number, "rebuild"):
        yield Event(number, "rebuild", 1, 1, {"t": preset.t, "anchor": preset.anchor})


def measure(context: RunContext, current: Round) -> Stage:
    """Score both checkpoints on the held-out problems, each under its own chat template and sampling."""
    for role in ROLES:
        if not context.is_recorded(current.number, "measure", role):
            yield from _measure_checkpoint(context, current, role)


def _measure_checkpoint(context: RunContext, current: Round, role: str) -> Stage:
    preset = context.preset
    checkpoint = context.checkpoint(role)
    settings = evaluate.sampling(preset, role, preset.greedy)
    rows = []
    for q, problem in enumerate(context.held_out):
        seed = seed_of(preset.seed, "measure", role, q)  # the same in every round: the test is paired
        rows.append(evaluate.row(checkpoint, problem.prompt, settings, seed))
    scores = rounds.read_scores(context.folder, current.number, role)
    round_0_scores = rounds.read_scores(context.folder, 0, role) if current.number else {}
    if len(scores) < len(rows):
        meter = ProgressMeter()
        for chunk in context.answers(current, role, rows, set(scores)):
            meter.read(chunk)
            if chunk.finish:
                scores[chunk.row] = evaluate.score(context.held_out[chunk.row], chunk.row, chunk)
                rounds.append_score(context.folder, current.number, role, scores[chunk.row])
            if meter.due() and len(scores) < len(rows):
                figures = rounds.score_figures(role, scores, round_0_scores) | meter.figures
                yield Event(current.number, "measure", len(scores), len(rows), figures)
    figures = rounds.score_figures(role, scores, round_0_scores)
    yield Event(current.number, "measure", len(rows), len(rows), figures)
