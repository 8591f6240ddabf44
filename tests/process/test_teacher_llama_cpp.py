"""llama.cpp's own server as a teacher, with the embedded pair as GGUF."""

import subprocess
import sys

import pytest

from conftest import TINY, wait
from thinkswitch import evaluate, rounds
from thinkswitch.export import gguf_folder, gguf_writer, llama_cpp
from thinkswitch.export.point import ExportPoint
from thinkswitch.generate import generate
from thinkswitch.preset import load_preset
from thinkswitch.recipe import Schedule
from thinkswitch.remote.probe import check_teacher
from thinkswitch.remote.teacher import ask_teacher
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import open_pair

SERVE = """
import sys, threading, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = sys.argv[1], 1024, 2, False
server = xllamacpp.Server(settings)
print("at", server.listening_address, flush=True)
threading.Event().wait()
"""


@pytest.fixture
def pair():
    return open_pair(str(TINY / "instruct"), str(TINY / "thinking"))


@pytest.fixture
def server(pair, tmp_path):
    """Its OpenAI-like address; it serves the thinking checkpoint in 16 bits."""
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


@pytest.mark.skipif(not llama_cpp.is_here(), reason="xllamacpp is not installed")
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
