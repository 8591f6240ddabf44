"""The think step by an OpenAI-compatible server: a small real one, on this machine."""

import socket
import threading
from contextlib import ExitStack, closing

import pytest
from tokenizers.processors import TemplateProcessing

from conftest import TINY, byte_tokenizer
from fake_teacher import FakeTeacher, completion
from thinkswitch import evaluate, loop, runs
from thinkswitch.errors import UserError
from thinkswitch.generate import Row
from thinkswitch.preset import load_preset, make_preset
from thinkswitch.remote import teacher
from thinkswitch.remote.teacher import ask_teacher
from thinkswitch.sampler import Sampling
from thinkswitch.weights.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def thinking():
    return open_checkpoint(str(TINY / "thinking"))


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(teacher, "RETRY_SECONDS", 0.01)


@pytest.fixture
def serve():
    with ExitStack() as servers:

        def start(behave) -> FakeTeacher:
            return servers.enter_context(closing(FakeTeacher(behave)))

        yield start


@pytest.fixture
def dead_port():
    """A port of this machine where nobody listens, kept for the length of the test."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def think(number, body):
    """A trace and an answer; half of the answers say how many tokens they are."""
    answer = len(body["prompt"]) % 10
    return completion(f"so many\n</think>\n\n\\boxed{{{answer}}}", tokens=7 if number % 2 else None)


def think_of(tokenizer):
    """As `think`, but answers the yes/no problems of the embedded pair in kind."""

    def behave(number, body):
        if "Does" in tokenizer.decode(body["prompt"]):
            return completion("so many\n</think>\n\n\\boxed{yes}")
        return think(number, body)

    return behave


def rows_of(thinking, count, **sampling) -> list[Row]:
    settings = Sampling(**{"temperature": 0.6, "max_new_tokens": 64, **sampling})
    return [evaluate.row(thinking, f"What is {i} + 1?", settings, seed=i) for i in range(count)]


def ask(server, thinking, rows, at_once=4, stopped=lambda: False, model="", **options):
    return list(ask_teacher(server.url, model, thinking, rows, at_once, stopped, **options))


def small(server, **changes):
    settings = dict(rounds=1, prompts=12, held_out=4, rows=4, epochs=1, batch=4, teacher=server.url)
    return make_preset({**settings, **changes}, base=load_preset("tiny"))


def samples(folder):
    return list(runs.read_lines(runs.round_dir(folder, 1) / "samples.jsonl"))


# ---- a round


def test_a_round_by_a_server(serve, thinking, tmp_path):
    """The same sample files as ever; prompts under the thinking template, with its sampling."""
    server = serve(think_of(thinking.tokenizer))
    events = list(loop.run(small(server), tmp_path / "run"))
    assert events[-1].phase == "done"
    lines = samples(tmp_path / "run")
    assert len(lines) == 12 == len(server.bodies)
    assert all(line["kept"] and line["trace"] == "so many" and line["prefilled"] for line in lines)
    body = server.bodies[0]
    assert thinking.tokenizer.decode(body["prompt"]).endswith("<|im_start|>assistant\n<think>\n")
    assert (body["model"], body["max_tokens"]) == ("thinker", 128)
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.6, 0.95, 20)
    off = dict(min_p=0, repetition_penalty=1, repeat_penalty=1, presence_penalty=0)
    assert {name: body[name] for name in off} == off  # named as well: a server has defaults of its own
    assert len({b["seed"] for b in server.bodies}) == 12
    assert {line["tokens"] for line in lines} > {7}  # counted here where the server does not say


def test_the_sampling_goes_in_the_names_of_each_server(serve, thinking):
    """presence_penalty is OpenAI's field; llama.cpp has other names than vLLM for the repetition penalty."""
    server = serve(think_of(thinking.tokenizer))
    wanted = dict(top_k=7, min_p=0.05, repetition_penalty=1.05, presence_penalty=1.5)
    [row] = rows_of(thinking, 1, **wanted)
    ask(server, thinking, [row])
    [body] = server.bodies
    assert {name: body[name] for name in wanted} == wanted
    assert (body["repeat_penalty"], body["repeat_last_n"]) == (1.05, len(row.ids) + 64)
    ask(server, thinking, rows_of(thinking, 1))
    assert server.bodies[-1]["top_k"] == -1  # 0 is off here, and refused by SGLang


def test_a_refusal_is_reported_at_once_and_what_was_answered_is_kept(serve, thinking, tmp_path):
    good = think_of(thinking.tokenizer)
    refusal = (400, dict(error="context too long"))
    server = serve(lambda n, body: good(n, body) if n <= 5 else refusal)
    with pytest.raises(UserError, match=r"refuses: 400 .*context too long"):
        list(loop.run(small(server), tmp_path / "run"))
    assert 1 <= len(samples(tmp_path / "run")) <= 5 and runs.state(tmp_path / "run") == "error"
    server.behave = good
    list(loop.resume(tmp_path / "run"))
    assert sorted(line["prompt_index"] for line in samples(tmp_path / "run")) == list(range(12))  # each once


def test_the_control_that_labels_itself_asks_nobody(serve, tmp_path):
    server = serve(think)
    list(loop.run(small(server, labels="self"), tmp_path / "run"))
    assert server.bodies == [] and len(samples(tmp_path / "run")) == 12


# ---- answers


def test_a_chunk_is_what_decoding_here_would_yield(serve, thinking):
    texts = {0: ("6\n</think>\n\nfive", "stop"), 1: ("so many", "length")}

    def behave(number, body):
        return completion(*texts[body["seed"]], tokens=9)

    chunks = {c.row: c for c in ask(serve(behave), thinking, rows_of(thinking, 2))}
    assert (chunks[0].trace, chunks[0].answer, chunks[0].state, chunks[0].finish) == (
        "6",
        "five",
        "closed",
        "stop",
    )
    assert (chunks[1].trace, chunks[1].answer, chunks[1].thinking) == ("so many", "", True)
    assert (chunks[1].finish, chunks[1].tokens, chunks[1].text) == ("length", 9, "so many")


def test_the_token_that_ends_a_turn_is_no_part_of_the_text(serve, thinking):
    """Servers that are asked to keep special tokens may include the last one; generate never does."""
    end = thinking.tokenizer.decode([thinking.turn_end])
    assert end
    [chunk] = ask(serve(lambda n, body: completion(f"a</think>b{end}")), thinking, rows_of(thinking, 1))
    assert (chunk.text, chunk.answer) == ("a</think>b", "b")


def test_as_many_requests_are_open_as_allowed(serve, thinking):
    everybody = threading.Barrier(4)

    def behave(number, body):
        everybody.wait(60)  # passes when four requests are open at once
        return think(number, body)

    server = serve(behave)
    assert len(ask(server, thinking, rows_of(thinking, 12), at_once=4)) == 12
    assert server.most_at_once == 4


def test_answered_rows_are_not_asked_again(serve, thinking):
    server = serve(think)
    chunks = ask(server, thinking, rows_of(thinking, 5), done={0, 3})
    assert sorted(c.row for c in chunks) == [1, 2, 4] and len(server.bodies) == 3
    assert ask(server, thinking, rows_of(thinking, 2), done={0, 1}) == [] and len(server.bodies) == 3


def test_a_named_model_is_asked_for(serve, thinking):
    server = serve(think)
    ask(server, thinking, rows_of(thinking, 1), model="another")
    assert server.bodies[0]["model"] == "another"


def test_the_key_comes_from_the_environment(serve, thinking, monkeypatch):
    server = serve(think)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ask(server, thinking, rows_of(thinking, 1))
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    ask(server, thinking, rows_of(thinking, 1))
    assert [headers.get("Authorization") for headers in server.headers] == [None, "Bearer secret"]


# ---- prompts as ids, or as text


def test_prompts_are_token_ids_and_special_tokens_are_kept(serve, thinking):
    """vLLM put a second BOS before text, and left `</think>` out of answers where it is a special token."""
    server = serve(think)
    rows = rows_of(thinking, 3)
    ask(server, thinking, rows)
    assert sorted(tuple(body["prompt"]) for body in server.bodies) == sorted(row.ids for row in rows)
    assert all(body["skip_special_tokens"] is False for body in server.bodies)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_takes_no_ids_gets_text_from_then_on(serve, thinking, status):
    def behave(number, body):
        if not isinstance(body["prompt"], str):
            return status, dict(error="'prompt' must be a string")
        return think(number, body)

    server = serve(behave)
    rows = rows_of(thinking, 4)
    assert len(ask(server, thinking, rows, at_once=1)) == 4
    prompts = [body["prompt"] for body in server.bodies]
    assert prompts[0] == list(rows[0].ids)
    assert prompts[1:] == [thinking.tokenizer.decode(row.ids) for row in rows]


def test_who_took_ids_once_is_not_asked_in_text_after_a_refusal(serve, thinking):
    """Otherwise a prompt that is too long would be sent twice."""
    server = serve(lambda n, body: think(n, body) if n == 1 else (400, dict(error="context too long")))
    with pytest.raises(UserError, match="context too long"):
        ask(server, thinking, rows_of(thinking, 3), at_once=1)
    assert [type(body["prompt"]) for body in server.bodies] == [list, list]


OPENAI = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "presence_penalty"}


@pytest.mark.parametrize("kinds, known", [((list, str), "ids"), ((str,), "no ids")])
@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_fields_it_does_not_know(serve, thinking, caplog, status, kinds, known):
    """It gets what is on from then on, as ids where it takes those; the log says what that costs."""

    def behave(number, body):
        unknown = sorted(body.keys() - OPENAI)
        if unknown or not isinstance(body["prompt"], kinds):
            return status, dict(error=f"unknown fields: {unknown}")
        return think(number, body)

    server = serve(behave)
    assert len(ask(server, thinking, rows_of(thinking, 4, presence_penalty=0.5), at_once=1)) == 4
    refused = 2 if known == "ids" else 3
    answered = server.bodies[refused:]
    assert len(answered) == 4 and {type(body["prompt"]) for body in answered} == {kinds[0]}
    assert all(body["presence_penalty"] == 0.5 and "top_k" not in body for body in answered)
    assert caplog.text.count("refuses fields that are not OpenAI's") == 1


def test_a_server_that_refuses_what_the_preset_needs_is_no_teacher(serve, thinking):
    """Otherwise it would sample in another way than the preset says, and nobody would know."""

    def behave(number, body):
        unknown = sorted(body.keys() - OPENAI)
        return (400, dict(error=f"unknown fields: {unknown}")) if unknown else think(number, body)

    server = serve(behave)
    with pytest.raises(UserError, match=r"refuses: 400 .*unknown fields: \['top_k'\]"):
        ask(server, thinking, rows_of(thinking, 2, top_k=20), at_once=1)


def test_text_has_no_bos_where_the_server_will_add_one():
    tokenizer = byte_tokenizer()
    text = "<|im_start|>user\nhi"
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    assert teacher.prompt_text(tokenizer, ids) == text
    bos = tokenizer.eos_token
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.eos_token_id)]
    )
    for prompt in (ids, (tokenizer.eos_token_id, *ids)):
        assert tokenizer.encode(teacher.prompt_text(tokenizer, prompt)) == [tokenizer.eos_token_id, *ids]


# ---- servers that are busy, away, slow or behind a proxy


def test_a_busy_server_is_asked_again(serve, thinking):
    def behave(number, body):
        if number in (1, 4):
            return 503, {}
        if number in (2, 6):
            return 200, {"choices": []}
        return think(number, body)

    server = serve(behave)
    assert len(ask(server, thinking, rows_of(thinking, 12))) == 12
    assert len(server.bodies) == 16


def test_a_server_that_stays_away(serve, thinking):
    server = serve(lambda n, body: (503, {}))
    with pytest.raises(UserError, match=r"did not answer in 5 tries \(503 .*then resume"):
        ask(server, thinking, rows_of(thinking, 1))
    assert len(server.bodies) == 5


def test_no_try_follows_a_stop(serve, thinking):
    """After a stop the pause between two tries was skipped, but not the tries: five requests in 54 ms."""
    asked = []
    server = serve(lambda n, body: (asked.append(1), (503, {}))[1])
    [chunk] = ask(server, thinking, rows_of(thinking, 1), stopped=lambda: bool(asked))
    assert chunk.finish == "cancel" and len(asked) == 1


def test_a_stop_does_not_wait_for_slow_answers(serve, thinking):
    """Rows that the server still works on end as cancelled; what it has answered is kept."""
    server = serve(lambda n, body: think(n, body) if n <= 2 else server.never_answer())
    chunks = ask(server, thinking, rows_of(thinking, 6), 2, stopped=lambda: len(server.bodies) == 4)
    assert sorted(c.row for c in chunks) == list(range(6))
    assert [c.finish for c in chunks] == ["stop"] * 2 + ["cancel"] * 4


def test_a_reader_that_leaves_drops_the_open_requests(serve, thinking):
    server = serve(lambda n, body: think(n, body) if n == 1 else server.never_answer())
    chunks = ask_teacher(server.url, "", thinking, rows_of(thinking, 4), 2, lambda: False)
    assert next(chunks).finish == "stop"
    chunks.close()  # returns, although a request is open


def test_a_stop_is_seen_while_the_server_does_not_even_list_its_models(serve, thinking, monkeypatch):
    server = serve(think)
    monkeypatch.setattr("fake_teacher.Handler.do_GET", lambda handler: server.closing.wait())
    looks = iter([False, False, True, True])
    [chunk] = ask(server, thinking, rows_of(thinking, 1), stopped=lambda: next(looks))
    assert chunk.finish == "cancel" and server.bodies == []


def test_a_proxy_is_not_asked_for_a_server_of_this_machine(serve, thinking, dead_port, monkeypatch):
    """With HTTP_PROXY set, 127.0.0.1 went to the proxy, and the message blamed the address."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{dead_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert len(ask(serve(think), thinking, rows_of(thinking, 2))) == 2


@pytest.mark.parametrize(
    "host, ours",
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("LocalHost", True),
        ("localhost.", True),
        ("gpu.localhost", True),
        ("192.168.1.5", False),
        ("gpu.example.org", False),
    ],
)
def test_loopback_hosts(host, ours):
    assert teacher.is_loopback(host) is ours


@pytest.mark.parametrize(
    "url, says",
    [
        ("http://127.0.0.1:{}/v1", "no OpenAI-compatible server answers at"),
        ("http://127.0.0.1:{}", r"ends in /v1"),
        ("http://127.0.0.1:seven/v1", r"teacher must be an address .*'http://127\.0\.0\.1:seven/v1'"),
    ],
)
def test_no_server(thinking, dead_port, url, says):
    with pytest.raises(UserError, match=says):
        list(ask_teacher(url.format(dead_port), "", thinking, rows_of(thinking, 1), 1, lambda: False))


def test_an_address_that_is_none_is_refused_before_work():
    with pytest.raises(UserError, match="teacher must be an address"):
        make_preset(dict(teacher="file:///etc/passwd"), base=load_preset("tiny"))
