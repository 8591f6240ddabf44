"""llama.cpp's own server as a teacher, with the embedded pair as GGUF."""

import subprocess
import sys
from dataclasses import replace

import pytest

from conftest import TINY, wait
from thinkswitch import evaluate, rounds
from thinkswitch.export import gguf_folder, gguf_writer, llama_cpp
from thinkswitch.export.point import ExportPoint
from thinkswitch.generate import generate
from thinkswitch.preset import load_preset
from thinkswitch.recipe import Schedule
from thinkswitch.remote import teacher
from thinkswitch.remote.probe import check_teacher
from thinkswitch.remote.teacher import Form, ask_teacher
from thinkswitch.sampler import Sampling
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

SERVE = """
import sys, threading, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = sys.argv[1], 1024, 2, False
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1  # two would wait for each other
server = xllamacpp.Server(settings)
print("at", server.listening_address, flush=True)
threading.Event().wait()
"""

pytestmark = pytest.mark.skipif(not llama_cpp.is_here(), reason="xllamacpp is not installed")


@pytest.fixture(scope="module")
def pair():
    return open_pair(str(TINY / "instruct"), str(TINY / "thinking"))


@pytest.fixture
def as_once(monkeypatch):
    """`as_once()`: requests name only what is on, in vLLM's names, as all of them once did."""
    return lambda: monkeypatch.setattr(teacher, "FORMS", (Form(as_ids=True, in_full=False),))


@pytest.fixture(scope="module")
def server(pair, tmp_path_factory):
    """Its OpenAI-like address; it serves the thinking checkpoint in 16 bits."""
    tmp_path = tmp_path_factory.mktemp("served")
    point = ExportPoint(pair, rounds.start(pair), 1.0, Schedule(), load_preset("tiny"), gguf=("BF16",))
    [file] = gguf_folder.plan_files(point, tmp_path)
    list(gguf_writer.write_files(point, [file]))
    log = tmp_path / "log"
    with open(log, "w", encoding="utf-8") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(file.path)], stdout=output, stderr=subprocess.DEVNULL
        )
    try:
        wait(lambda: "at http" in log.read_text("utf-8"))
        yield log.read_text("utf-8").split()[1] + "/v1"
    finally:
        child.kill()
        child.wait()


def test_llama_cpp_teaches_what_the_checkpoint_says(pair, server):
    """Prompts as token ids, tags kept, nothing added: the answers are those that are decoded here."""
    preset = load_preset("tiny")
    thinks = rounds.start(pair).thinking
    greedy = evaluate.sampling(preset, "thinking", greedy=True)
    questions = ["What is 4 + 5 - 2?", "What is 2 + 3 + 4?", "What is 9 - 1 + 1?"]
    rows = [evaluate.question(pair, preset, text, 1.0, thinks, settings=greedy) for text in questions]
    check_teacher(server, "", pair.thinking, rows, lambda: False)
    theirs = {chunk.row: chunk for chunk in ask_teacher(server, "", pair.thinking, rows, 2, lambda: False)}
    stops = pair.thinking.stop_token_ids
    ours = {chunk.row: chunk for chunk in generate(Blend(pair), pair.thinking.tokenizer, rows, stops)}
    for row, right in enumerate(("7", "9", "9")):
        assert theirs[row].answer == ours[row].answer and right in theirs[row].answer
        assert theirs[row].trace.strip() == ours[row].trace.strip()


# ---- it samples as the preset says


def texts(pair, server, rows) -> dict[int, str]:
    return {chunk.row: chunk.text for chunk in ask_teacher(server, "", pair.thinking, rows, 2, lambda: False)}


def torch_texts(pair, rows) -> dict[int, str]:
    state = rounds.start(pair)
    plain = materialise(pair, state.adapters, state.thinking)
    stops = pair.thinking.stop_token_ids
    chunks = generate(plain, pair.thinking.tokenizer, rows, stops, stream=False)
    return {chunk.row: chunk.text for chunk in chunks if chunk.finish}


def same(ours: dict[int, str], theirs: dict[int, str]) -> int:
    return sum(ours[row] == theirs[row] for row in ours)


def first_tokens(pair, server, **sampling) -> set[str]:
    """The first tokens of 150 answers to a question that leaves much open, at temperature 2."""
    settings = Sampling(temperature=2.0, max_new_tokens=1, **sampling)
    story = evaluate.row(pair.thinking, "Tell me a long story about a cat.", settings, seed=0)
    return set(texts(pair, server, [replace(story, seed=seed) for seed in range(150)]).values())


def test_llama_cpp_is_told_what_is_off(pair, server, as_once):
    """It took top_k=40 and min_p=0.05 of its own where a request named neither: three first tokens."""
    assert len(first_tokens(pair, server)) > 40
    as_once()
    assert len(first_tokens(pair, server)) <= 3


def test_llama_cpp_cuts_off_after_the_temperature_as_we_do(pair, server, as_once):
    """At temperature 1 three tokens have 0.8 of the mass, at 2 they have a third of it."""
    assert len(first_tokens(pair, server, top_p=0.8)) > 20
    assert len(first_tokens(pair, server, top_k=2)) == 2
    as_once()
    assert len(first_tokens(pair, server, top_p=0.8)) <= 3


def test_llama_cpp_counts_the_whole_answer_for_a_repetition_penalty(pair, server, as_once, monkeypatch):
    """It knows the penalty by another name, and looks back 64 tokens where it is not told how far."""
    settings = Sampling(max_new_tokens=80, repetition_penalty=1.3)
    long = "Tell me a long story about a cat. " * 4
    rows = [evaluate.row(pair.thinking, f"What is {i} + 3? {long}", settings, seed=i) for i in range(8)]
    ours = torch_texts(pair, rows)
    assert same(ours, texts(pair, server, rows)) >= 6
    everything = teacher.sampling_in_full
    short_sighted = {"repeat_last_n": 64}
    monkeypatch.setattr(teacher, "sampling_in_full", lambda row: everything(row) | short_sighted)
    assert same(ours, texts(pair, server, rows)) <= 2
    as_once()
    assert same(ours, texts(pair, server, rows)) <= 2


def test_llama_cpp_says_that_it_has_all_of_a_preset(pair, server, monkeypatch):
    """What it echoes of a request that it answers at length."""
    complete, echoed = teacher.Server.complete, []

    async def complete_at_length(self, body):
        response = await complete(self, body | dict(verbose=True))
        echoed.append(response.json()["__verbose"]["generation_settings"])
        return response

    monkeypatch.setattr(teacher.Server, "complete", complete_at_length)
    wanted = dict(temperature=0.7, top_p=0.9, min_p=0.0, presence_penalty=1.5)
    settings = Sampling(**wanted, top_k=0, repetition_penalty=1.3, max_new_tokens=8)
    row = evaluate.row(pair.thinking, "What is 4 + 5 - 2?", settings, seed=11)
    texts(pair, server, [row])
    [said] = echoed
    assert {name: said[name] for name in wanted} == pytest.approx(wanted)
    assert said["repeat_penalty"] == pytest.approx(1.3) and said["repeat_last_n"] == len(row.ids) + 8
    assert said["top_k"] <= 0  # as many as there are
    assert said["samplers"] == list(teacher.LLAMA_CPP_ORDER) and said["seed"] == 11
