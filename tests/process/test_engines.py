"""A round that is labelled by an engine in a process of its own: real llama.cpp, and stand-ins for vLLM."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import ROOT, TINY, random_adapter, wait
from thinkswitch import evaluate, loop, rounds, runs
from thinkswitch.engines import checkpoint_files, serve
from thinkswitch.engines.answers import ask_engine
from thinkswitch.engines.engine import SCRATCH, choose
from thinkswitch.errors import UserError
from thinkswitch.export import llama_cpp
from thinkswitch.generate import generate
from thinkswitch.memory_plan import LOOP, resolve_machine
from thinkswitch.preset import load_preset, make_preset
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

pytestmark = pytest.mark.skipif(os.name == "nt", reason="programs on the PATH are scripts here")
needs_llama_cpp = pytest.mark.skipif(not llama_cpp.is_here(), reason="xllamacpp is not installed")

# What stands on the PATH as vllm: it says its version, else it does what a test wants.
STAND_IN = """#!{python}
import sys, time
if sys.argv[1:] == ["--version"]:
    raise SystemExit(print("0.99.1"))
flags = dict(zip(sys.argv[3::2], sys.argv[4::2]))
"""
SERVES = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(dict(data=[dict(id=flags["--served-model-name"])]))
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(dict(choices=[dict(text="so many</think>1", finish_reason="stop")]))
    def reply(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
http.server.ThreadingHTTPServer((flags["--host"], int(flags["--port"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def pair():
    return open_pair(str(TINY / "instruct"), str(TINY / "thinking"))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """`stand_in(code)` puts a program vllm on the PATH."""

    def put(code: str) -> None:
        program = tmp_path / "vllm"
        program.write_text(STAND_IN.format(python=sys.executable) + code, encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return put


def never() -> bool:
    return False


def preset_of(engine: str, **changes):
    settings = dict(engine=engine, rounds=1, prompts=16, held_out=2, rows=4, think_temperature=0)
    return make_preset({**settings, **changes}, base=load_preset("tiny"))


def label(preset, folder: Path) -> list[runs.Event]:
    """The events of a run up to the end of its first think step."""
    events = []
    steps = loop.resume(folder) if (folder / "preset.yaml").exists() else loop.run(preset, folder)
    for event in steps:
        events.append(event)
        if event.phase == "strip":
            break
    steps.close()
    return events


def samples(folder: Path) -> list[dict]:
    return list(runs.read_lines(runs.round_dir(folder, 1) / "samples.jsonl"))


def asked(pair, preset, run: Path, state=None, count: int = 12, stopped=never):
    """What `ask_engine` yields for `count` greedy questions, and the rows."""
    state = state or rounds.start(pair)
    greedy = replace(evaluate.sampling(preset, "thinking", greedy=True), max_new_tokens=60)
    rows = [evaluate.row(pair.thinking, f"What is {i} + {i + 3}?", greedy, seed=i) for i in range(count)]
    engine = choose(preset)
    point = checkpoint_files.thinking_point(engine.name, pair, state, preset)
    machine = resolve_machine(pair, preset, LOOP)
    return ask_engine(engine, point, machine, rows, set(), run, stopped), rows


def texts(said) -> dict[int, str]:
    return {chunk.row: chunk.text for chunk in said if not isinstance(chunk, str)}


def torch_texts(pair, state, rows) -> dict[int, str]:
    model = materialise(pair, state.adapters, state.thinking)
    chunks = generate(model, pair.thinking.tokenizer, rows, pair.thinking.stop_token_ids, stream=False)
    return {chunk.row: chunk.text for chunk in chunks if chunk.finish}


def same(ours: dict, theirs: dict) -> float:
    assert ours.keys() == theirs.keys()
    return sum(ours[row].strip() == theirs[row].strip() for row in ours) / len(ours)


def children(named: str, of: int | None = None) -> list[psutil.Process]:
    """Processes below `of`, or this one, whose command line holds `named`."""
    below = psutil.Process(of).children(recursive=True)
    return [child for child in below if any(named in word for word in words_of(child))]


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing of one that has ended, as other tests' may have."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


# ---- llama.cpp


@needs_llama_cpp
def test_a_round_that_llama_cpp_labels_has_the_answers_that_torch_gives(pair, tmp_path):
    """Greedy, in Q8_0: nearly all are the same; each line and run.json name the engine, nothing is left."""
    preset = preset_of("llama.cpp")
    events = label(preset, tmp_path / "run")
    lines = samples(tmp_path / "run")
    greedy = evaluate.sampling(preset, "thinking", greedy=True)
    rows = [evaluate.row(pair.thinking, line["prompt"], greedy, seed=0) for line in lines]
    theirs = {row: line["text"] for row, line in enumerate(lines)}
    assert len(lines) == 16 and same(torch_texts(pair, rounds.start(pair), rows), theirs) > 0.85
    engine = choose(preset)
    assert {line["engine"] for line in lines} == {engine.label} and "xllamacpp" in engine.label
    info = runs.read_info(tmp_path / "run")
    assert info["engine"] == engine.facts and "same bytes" in info["engine"]["note"]
    starting = [event for event in events if "starting" in event.data]
    assert starting[-1].data["starting"] == f"starting {engine.label}"
    assert all((event.phase, event.step, event.total) == ("think", 0, 16) for event in starting)
    assert not (tmp_path / "run" / SCRATCH).exists() and not children("thinkswitch.engines")


@needs_llama_cpp
def test_a_later_round_is_served_with_its_adapters(pair, tmp_path):
    """What is served is the round's own thinking checkpoint, not the one that the pair came with."""
    first = rounds.start(pair)
    later = rounds.rebuild(
        pair, first, random_adapter(pair, 1, size=0.15), 0.5, "original", load_preset("tiny").schedule
    )
    said, rows = asked(pair, preset_of("llama.cpp"), tmp_path, later)
    answers = texts(said)
    assert same(torch_texts(pair, later, rows), answers) > 0.6
    assert same(torch_texts(pair, first, rows), answers) < 0.5


@needs_llama_cpp
def test_a_repetition_penalty_counts_the_whole_answer_as_ours_does(pair, tmp_path):
    """A server's own default is the last 64 tokens; -1 once meant all and now refuses to start."""
    state = rounds.start(pair)
    said, rows = asked(pair, preset_of("llama.cpp", think_repetition_penalty=1.4), tmp_path)
    answers = texts(said)
    unpenalised = [replace(row, sampling=replace(row.sampling, repetition_penalty=1.0)) for row in rows]
    assert same(torch_texts(pair, state, rows), answers) > 0.8
    assert same(torch_texts(pair, state, unpenalised), answers) < 0.6


@needs_llama_cpp
def test_kill_9_of_the_run_leaves_no_process_and_no_file_and_resume_asks_only_what_is_missing(tmp_path):
    folder = tmp_path / "run"
    preset = preset_of("llama.cpp", prompts=30, rows=1)
    settings = [f"{name}={getattr(preset, name)}" for name in ("prompts", "rows", "held_out", "rounds")]
    command = [sys.executable, "-m", "thinkswitch", "run", "tiny", "--engine", "llama.cpp"]
    run = subprocess.Popen(
        [*command, "--out", str(folder), "--set", *settings],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    wait(lambda: run.poll() is not None or len(samples(folder)) > 1)
    assert run.poll() is None, run.stderr.read()
    started = children("thinkswitch.engines", run.pid)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert len(started) == 2  # the guard and the server
    wait(lambda: all(map(is_gone, started)) and not (folder / SCRATCH).exists())
    before = samples(folder)
    assert 1 < len(before) < 30 and runs.state(folder) == "interrupted"
    label(preset, folder)
    written = sorted(samples(folder), key=lambda line: line["prompt_index"])
    assert [line["prompt_index"] for line in written] == list(range(30))
    for line in before:
        assert line.items() <= written[line["prompt_index"]].items()


@needs_llama_cpp
@pytest.mark.parametrize(
    "killed, said", [("llama_cpp_server", "exit code -9"), ("guard", "its guard was killed")]
)
def test_an_engine_that_dies_in_the_step_ends_it_in_a_sentence(killed, said, pair, tmp_path):
    """At once, not after five tries for each row; a server whose guard is killed does not live on."""
    answers, _ = asked(pair, preset_of("llama.cpp", rows=1), tmp_path, count=200)
    got = []
    with pytest.raises(UserError, match=rf"llama.cpp ended in the middle of the step \({said}.*resume: what"):
        for chunk in answers:
            got.append(chunk)
            if chunk == got[0] or isinstance(chunk, str):
                continue
            if len(texts(got)) == 1:
                started = children("thinkswitch.engines")
                [victim] = children(f"engines.{killed}")
                victim.kill()
    assert 1 <= len(texts(got)) < 200
    wait(lambda: all(map(is_gone, started)))
    assert not (tmp_path / SCRATCH).exists()


@needs_llama_cpp
def test_a_port_that_another_program_takes_first_costs_another_try(pair, tmp_path, monkeypatch):
    with serve.socket.socket() as other:
        other.bind((serve.HOST, 0))
        other.listen()
        ports = [other.getsockname()[1], serve.free_port()]
        monkeypatch.setattr(serve, "free_port", lambda: ports.pop(0))
        said, _ = asked(pair, preset_of("llama.cpp"), tmp_path, count=2)
        assert len(texts(said)) == 2 and not ports


# ---- vLLM, by stand-ins


def test_vllm_is_served_asked_and_ended(pair, tmp_path, stand_in):
    stand_in(SERVES)
    said, _ = asked(pair, preset_of("vllm"), tmp_path / "run", count=6)
    answers = []
    for chunk in said:
        answers.append(chunk)
        served = children("--served-model-name")
    assert answers[1] == "starting vllm (0.99.1)"
    assert texts(answers) == dict.fromkeys(range(6), "so many</think>1")
    assert len(served) == 1 and all(map(is_gone, served)) and not (tmp_path / "run" / SCRATCH).exists()


def test_vllm_is_given_a_folder_that_transformers_loads(pair, tmp_path):
    """The weights are the round's, to the bit, under the thinking checkpoint's template."""
    state = rounds.start(pair)
    point = checkpoint_files.thinking_point("vllm", pair, state, preset_of("vllm"))
    list(checkpoint_files.write(point, tmp_path))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    ours = materialise(pair, [], state.thinking).state_dict()
    assert loaded.keys() == ours.keys() and all(
        torch.equal(loaded[name].float(), ours[name]) for name in ours
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.chat_template == pair.thinking.tokenizer.chat_template


def test_an_engine_that_ends_before_it_is_ready_is_quoted(pair, tmp_path, stand_in):
    stand_in("print('loading')\nraise SystemExit('ValueError: no CUDA device')")
    said, _ = asked(pair, preset_of("vllm"), tmp_path / "run")
    with pytest.raises(
        UserError, match=r"vllm ended before it was ready \(exit code 1: ValueError: no CUDA device\); remove"
    ):
        list(said)
    assert not (tmp_path / "run" / SCRATCH).exists()


def test_an_engine_that_never_gets_ready_is_given_up(pair, tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(serve, "READY_SECONDS", 0.2)
    stand_in("print('capturing graphs', flush=True)\ntime.sleep(600)")
    said, _ = asked(pair, preset_of("vllm"), tmp_path / "run")
    with pytest.raises(UserError, match=r"vllm was not ready after 0.2 s .*engine: torch"):
        list(said)
    assert not children("vllm") and not (tmp_path / "run" / SCRATCH).exists()


def test_a_stop_is_obeyed_while_an_engine_starts(pair, tmp_path, stand_in):
    stand_in("time.sleep(600)")
    starting = []
    said, _ = asked(pair, preset_of("vllm"), tmp_path / "run", stopped=lambda: len(starting) > 1)
    for chunk in said:
        if isinstance(chunk, str):
            starting.append(chunk)
        else:
            assert chunk.finish == "cancel"
    assert starting == ["writing the checkpoint for vllm", "starting vllm (0.99.1)"]
    assert not children("vllm") and not (tmp_path / "run" / SCRATCH).exists()
