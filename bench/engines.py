"""Labels a minute by each engine: torch in float32 and bf16, llama.cpp in Q8_0 and Q4_K_M.

    python bench/engines.py --pair 135M 0.5B --threads 2 --rows 1 8 16 32
    python bench/engines.py --pair FOLDER [FOLDER]        real weights: a thinking checkpoint, or a pair
    python bench/engines.py --profile --rows 1 16 48      where the time of our own step goes

Each engine answers the same prompts with the same limits, all with as many threads, taking turns. As many
answers as --rows, so a wave of them; random weights never end by themselves. Limits are log-normal around
--tokens, so raise that for real weights. `same_answers` are torch float32's to the letter, in the last turn.
What an engine takes before its first answer (files, start, load) stands apart in `before_s`. Last line: JSON.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from common import (
    SIZES,
    arguments,
    dtype_name,
    in_turns,
    line,
    machine,
    once,
    parameters,
    print_json,
    random_pair,
)
from labels import Answers
from profile_step import profile

from thinkswitch import evaluate, rounds
from thinkswitch.engines import checkpoint_files
from thinkswitch.engines.answers import load_of
from thinkswitch.engines.engine import choose
from thinkswitch.engines.serve import engine_server
from thinkswitch.generate import Chunk, Row, generate
from thinkswitch.preset import Preset
from thinkswitch.remote.teacher import ask_teacher
from thinkswitch.sampler import Sampling
from thinkswitch.weights.device import Machine
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair, open_pair

KINDS = ("Q8_0", "Q4_K_M")
Answer = Callable[[list[Row], int], list[Chunk]]


@dataclass(frozen=True)
class Ready:
    """An engine with its weights loaded."""

    name: str
    answer: Answer
    before: float  # seconds that it took until then


# ---- the engines


@contextmanager
def torch_engine(args, pair: Pair, dtype: torch.dtype) -> Iterator[Ready]:
    began = time.perf_counter()
    model = materialise(pair, [], rounds.start(pair).thinking, args.device, dtype)
    stops = pair.thinking.stop_token_ids

    def answer(rows: list[Row], at_once: int) -> list[Chunk]:
        chunks = generate(model, pair.thinking.tokenizer, rows, stops, batch=at_once, stream=False)
        return [chunk for chunk in chunks if chunk.finish]

    yield Ready(f"torch {dtype_name(dtype)}", answer, time.perf_counter() - began)


@contextmanager
def llama_cpp_engine(args, pair: Pair, kind: str, longest: Row) -> Iterator[Ready]:
    """With as many slots as the most rows; all slots share a step, and empty ones cost nothing."""
    engine = choose(Preset(engine="llama.cpp"))
    preset = Preset(engine="llama.cpp", rows=max(args.rows))
    point = checkpoint_files.thinking_point("llama.cpp", pair, rounds.start(pair), preset)
    point = replace(point, gguf=(kind,))
    where = Machine(device=args.device, dtype=torch.float32, four_bit=False)
    load = load_of(point, where, [longest] * max(args.rows))
    load = replace(load, threads=torch.get_num_threads())
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as run, engine_server(engine, Path(run)) as server:
        with closing(checkpoint_files.write(point, server.scratch)) as steps:
            model = to_end(steps)
        for _ in server.start(model, load, never):
            pass

        def answer(rows: list[Row], at_once: int) -> list[Chunk]:
            return list(ask_teacher(server.url, server.model, pair.thinking, rows, at_once, never))

        yield Ready(f"llama.cpp {kind}", answer, time.perf_counter() - began)
        server.refuse_if_ended()


def to_end(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def never() -> bool:
    return False


# ---- what they are asked


def rows_of(args, pair: Pair, count: int, turn: int = 0) -> list[Row]:
    """Other prompts in each turn: a server keeps what it has read."""
    limits = Answers(count, args.tokens, max(1, args.tokens // 4), 4 * args.tokens).lengths()
    rows = []
    for number, limit in enumerate(limits):
        prompt = f"{turn + 3} apples and {number + 5} bags with 6 apples each: how many apples are that?"
        rows.append(evaluate.row(pair.thinking, prompt, Sampling(0.0, max_new_tokens=limit), seed=number))
    return rows


def measure(args, pair: Pair) -> Iterator[dict]:
    longest = max(rows_of(args, pair, max(args.rows)), key=lambda row: row.sampling.max_new_tokens)
    dtypes = [torch.float32] + ([torch.bfloat16] if machine(args)["bf16"] or args.device == "cuda" else [])
    with ExitStack() as stack:
        starting = [torch_engine(args, pair, dtype) for dtype in dtypes]
        starting += [llama_cpp_engine(args, pair, kind, longest) for kind in KINDS]
        engines = [stack.enter_context(one) for one in starting]
        for count in args.rows:
            yield from compare(args, pair, engines, count)


def compare(args, pair: Pair, engines: list[Ready], count: int) -> Iterator[dict]:
    turns = [rows_of(args, pair, count, turn) for turn in range(1 + args.repeats)]
    said: dict[str, list[Chunk]] = {}
    works = {engine.name: asking(engine, iter(turns), said) for engine in engines}
    for work in works.values():
        once(work)  # does not count
    times = in_turns(works, args.repeats)
    first = texts(said[engines[0].name])
    for engine in engines:
        took = median(times[engine.name])
        tokens = sum(chunk.tokens for chunk in said[engine.name])
        yield {
            "parameters": parameters(pair),
            "engine": engine.name,
            "rows": count,
            "answers_per_min": 60 * count / took,
            "tokens_per_s": tokens / took,
            "over_torch": median(times[engines[0].name]) / took,
            "same_answers": sum(first[row] == text for row, text in texts(said[engine.name]).items()),
            "before_s": engine.before,
        }


def asking(engine: Ready, turns: Iterator[list[Row]], said: dict[str, list[Chunk]]) -> Callable[[], None]:
    def work() -> None:
        rows = next(turns)
        said[engine.name] = engine.answer(rows, len(rows))
        assert len(said[engine.name]) == len(rows)

    return work


def texts(chunks: list[Chunk]) -> dict[int, str]:
    return {chunk.row: chunk.text.strip() for chunk in chunks}


@contextmanager
def pairs_of(args) -> Iterator[Iterator[Pair]]:
    """Random pairs one after the other, or the pair whose folders are named."""
    if all(name in SIZES for name in args.pair):
        yield random_pairs(args.pair)
    else:
        yield iter([open_pair(args.pair[0], args.pair[-1])])


def random_pairs(sizes: list[str]) -> Iterator[Pair]:
    for size in sizes:
        with random_pair(size) as pair:
            yield pair


def main() -> None:
    args = arguments(
        __doc__.splitlines()[0],
        pair={"nargs": "+", "default": ["135M"], "help": f"sizes ({', '.join(SIZES)}) or folders"},
        rows={"nargs": "+", "type": int, "default": [1, 8, 16, 32], "help": "answers at once"},
        tokens={"type": int, "default": 64, "help": "of an answer in the middle"},
        profile={"action": "store_true", "help": "where the time of our own decode step goes"},
    )
    if args.quick:
        args.pair, args.rows, args.tokens, args.repeats = ["33M"], args.rows[:2], 8, 1
    found = []
    with pairs_of(args) as pairs:
        for pair in pairs:
            for row in profile(args, pair) if args.profile else measure(args, pair):
                print(line(row), flush=True)
                found.append(row)
    print_json(args, "engines", found)


if __name__ == "__main__":
    main()
