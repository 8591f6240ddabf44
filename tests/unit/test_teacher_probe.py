"""What a server is asked before it teaches, and the sentence for each way in which it is unfit."""

import threading
from contextlib import ExitStack, closing

import pytest

from conftest import TINY
from fake_teacher import FakeTeacher, PairTeacher, completion
from thinkswitch import evaluate, loop, runs
from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset, make_preset
from thinkswitch.remote import teacher
from thinkswitch.remote.probe import check_teacher
from thinkswitch.sampler import Sampling
from thinkswitch.weights.checkpoint import open_checkpoint

SECRET = "sk-0123456789"


@pytest.fixture(scope="module")
def thinking():
    return open_checkpoint(str(TINY / "thinking"))


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(teacher, "RETRY_SECONDS", 0.01)


@pytest.fixture
def serve():
    with ExitStack() as servers:

        def start(*faults: str, **listed) -> PairTeacher:
            return servers.enter_context(closing(PairTeacher(TINY / "thinking", *faults, **listed)))

        yield start


@pytest.fixture
def odd():
    """`odd(probe)`: a server that answers probes so."""
    with ExitStack() as servers:

        def start(probe) -> FakeTeacher:
            server = FakeTeacher(lambda number, body: completion("</think>1"))
            server.probe = probe
            return servers.enter_context(closing(server))

        yield start


def check(server, thinking, model="", tokens=128, stopped=lambda: False) -> None:
    settings = Sampling(temperature=0.6, max_new_tokens=tokens)
    check_teacher(
        server.url, model, thinking, [evaluate.row(thinking, "What is 4 + 5?", settings, seed=1)], stopped
    )


@pytest.mark.parametrize(
    "faults", [(), ("no ids",), ("silent",), ("no ids", "silent"), ("bos",), ("template",)]
)
def test_servers_that_may_teach(serve, thinking, faults):
    """What is put around a text does no harm where prompts go as ids."""
    server = serve(*faults)
    check(server, thinking)
    assert server.bodies == [] and len(server.probes) <= 4  # a short answer, and a token each of two texts
    assert sorted(body["max_tokens"] for body in server.probes)[-1] <= 128


@pytest.mark.parametrize(
    "faults, says",
    [
        (("no ids", "bos"), "puts one more token, probably a BOS, before each prompt"),
        (
            ("no ids", "template"),
            r"puts \d+ tokens around each prompt, a template of its own, as Ollama does",
        ),
        (("no ids", "template", "bos"), r"puts \d+ tokens around each prompt"),
        (("tokenizer",), r"has another tokenizer: a text of \d+ characters is \+\d+ tokens there"),
        (("no ids", "tokenizer"), "has another tokenizer"),
        (("changes ids",), r"was sent (\d+) tokens and read \d+, so it changes prompts"),
        (("strips",), "ends its answer without </think>: it strips special tokens, or serves another model"),
        (("no ids", "strips"), "ends its answer without </think>"),
        (("strips", "silent"), "ends its answer without </think>"),
    ],
)
def test_servers_that_may_not(serve, thinking, faults, says):
    server = serve(*faults)
    with pytest.raises(UserError, match=says) as refusal:
        check(server, thinking)
    assert server.url in str(refusal.value) and "; serve it with" in str(refusal.value).replace(
        f"; serve {thinking.name}", "; serve it with"
    )
    assert server.bodies == []


@pytest.mark.parametrize(
    "listed",
    [
        dict(max_model_len=100),  # vLLM, SGLang
        dict(context_length=100),
        dict(max_context_length=100),
        dict(max_model_len=4096, n_ctx=64),
    ],
)
def test_too_little_room(serve, thinking, listed):
    """vLLM answered with 400 in the middle of a step, llama.cpp cut the answers."""
    server = serve(**listed)
    with pytest.raises(UserError, match=r"has room for \d+ tokens, prompt and answer take up to 1\d\d;"):
        check(server, thinking)
    check(server, thinking, tokens=4)
    assert server.bodies == []


@pytest.mark.parametrize("listed", [dict(max_model_len=None), dict(max_model_len="many"), dict(n_ctx=0)])
def test_room_that_is_not_said(serve, thinking, listed):
    check(serve(**listed), thinking)


def test_a_model_that_is_not_served(serve, thinking):
    with pytest.raises(UserError, match=r"serves '.*thinking', not 'gpt-4'; set teacher_model"):
        check(serve(), thinking, model="gpt-4")
    check(serve(), thinking, model=str(TINY / "thinking"))


def test_another_model_that_answers_at_once(thinking):
    """The instruct side behind the teacher's address: no trace closes, and 16 prompts later the run ended."""
    server = PairTeacher(TINY / "instruct")
    try:
        with pytest.raises(UserError, match="or serves another model than"):
            check(server, thinking)
    finally:
        server.close()


@pytest.mark.parametrize(
    "reply",
    [
        (200, {}),
        (200, {"choices": []}),
        (200, {"choices": None}),
        (200, {"choices": [{"text": None}]}),
        (200, {"choices": [{}], "usage": 3}),
        (503, {}),
    ],
)
def test_answers_of_another_form(odd, thinking, reply):
    server = odd(lambda body: reply)
    with pytest.raises(UserError, match="did not answer in 5 tries"):
        check(server, thinking)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": "9"}, {"prompt_tokens": 0}]
)
def test_counts_that_are_none(odd, thinking, usage):
    body = {"choices": [{"text": "so</think>9", "finish_reason": "stop"}], "usage": usage}
    check(odd(lambda _: (200, body)), thinking)


def test_a_stop_ends_the_probe(odd, thinking):
    asked = threading.Event()
    server = odd(lambda body: (asked.set(), server.never_answer())[1])
    check(server, thinking, stopped=asked.is_set)
    assert len(server.probes) == 1


def small(server, **changes):
    settings = dict(rounds=1, prompts=4, held_out=2, rows=4, epochs=1, batch=4, teacher=server.url)
    return make_preset({**settings, "think_temperature": 0, **changes}, base=load_preset("tiny"))


def texts(folder):
    lines = runs.read_samples(runs.round_dir(folder, 1) / "samples.jsonl")
    return {line["prompt_index"]: (line["text"], line["tokens"], line["finish"]) for line in lines}


@pytest.mark.parametrize("faults", [(), ("no ids",)])
def test_a_real_server_teaches_what_is_decoded_here(serve, tmp_path, faults):
    """The same pair behind HTTP and in this process, greedily: the same samples, letter by letter."""
    server = serve(*faults)
    for name, address in (("there", server.url), ("here", "")):
        list(loop.run(small(server, teacher=address), tmp_path / name))
    there, here = texts(tmp_path / "there"), texts(tmp_path / "here")
    assert {i: text for i, (text, *_) in there.items()} == {i: text for i, (text, *_) in here.items()}
    assert len(there) == 4 and runs.state(tmp_path / "there") == "done"


def test_a_resumed_run_probes_again_and_asks_only_for_the_rest(serve, tmp_path):
    server = serve("strips")
    with pytest.raises(UserError, match="without </think>"):
        list(loop.run(small(server), tmp_path / "run"))
    assert runs.state(tmp_path / "run") == "error" and texts(tmp_path / "run") == {}
    server.faults = ()
    list(loop.resume(tmp_path / "run"))
    assert runs.state(tmp_path / "run") == "done" and len(texts(tmp_path / "run")) == 4
    asked = len(server.probes)
    list(loop.resume(tmp_path / "run"))
    assert len(server.probes) == asked  # nothing is left to ask


# ---- keys


def test_a_key_is_written_nowhere(odd, tmp_path, monkeypatch):
    """Some servers repeat the key that they refuse; the sentence goes into events.jsonl and the log."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server = odd(lambda body: (401, {"error": f"Incorrect API key provided: {SECRET}"}))
    with pytest.raises(UserError, match=r"refuses: 401 .*provided: \*\*\*") as refusal:
        list(loop.run(small(server), tmp_path / "run"))
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert SECRET not in str(refusal.value) and not any(SECRET.encode() in content for content in written)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@127.0.0.1:8000/v1",
        "https://sk-1@host/v1",
        "http://127.0.0.1:8000/v1?api_key=x",
        "http://127.0.0.1/v1#x",
        "https://:x@host/v1",
    ],
)
def test_a_key_in_the_address_is_refused(url):
    """It would stand in preset.yaml, run.json and the command that the page shows."""
    with pytest.raises(
        UserError, match="teacher must hold no password or key; set OPENAI_API_KEY"
    ) as refusal:
        make_preset(dict(teacher=url), base=load_preset("tiny"))
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "https://host/a@b/v1", "http://[::1]:80/v1"])
def test_addresses_without_a_key(url):
    assert make_preset(dict(teacher=url), base=load_preset("tiny")).teacher == url
