"""The think step by an OpenAI-compatible server: a small real one, on this machine, that answers by the embedded pair's own rules or badly."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conftest import TINY
from thinkswitch import loop, runs
from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset, make_preset
from thinkswitch.remote import teacher


class Server(ThreadingHTTPServer):
    """`behave(n, body) -> (status, reply)` for the n-th completion; keeps what it was sent."""

    daemon_threads = True

    def __init__(self, behave):
        self.behave, self.bodies, self.at_once, self.most, self.lock = behave, [], 0, 0, threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.say(200, dict(data=[dict(id="thinker")]) if self.path == "/v1/models" else dict())

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            n = len(server.bodies)
            server.at_once += 1
            server.most = max(server.most, server.at_once)
        try:
            self.say(*server.behave(n, body))
        finally:
            with server.lock:
                server.at_once -= 1

    def say(self, status, reply):
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def thought(n, body):
    """A trace and an answer; half of them say how many tokens they are."""
    usage = dict(usage=dict(completion_tokens=7)) if n % 2 else {}
    said = "yes" if "Does" in body["prompt"] else len(body["prompt"]) % 10
    return 200, dict(choices=[dict(text=f"so many\n</think>\n\n\\boxed{{{said}}}", finish_reason="stop")], **usage)


@pytest.fixture
def serve():
    servers = []

    def start(behave=thought):
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(teacher, "WAIT", 0.01)


def small(server, **more):
    return make_preset(dict(rounds=1, prompts=12, held_out=4, rows=4, epochs=1, batch=4, teacher=server.url, **more), base=load_preset("tiny"))


def samples(folder):
    return list(runs.read_lines(folder / "rounds/1/samples.jsonl"))


def test_a_round_by_a_server(serve, tmp_path):
    """The same sample files as ever; prompts rendered by the thinking checkpoint's template, its sampling, four at once."""
    server = serve()
    events = list(loop.run(small(server), tmp_path / "run"))
    assert events[-1].phase == "done"
    lines = samples(tmp_path / "run")
    assert len(lines) == 12 == len(server.bodies) and all(line["kept"] and line["trace"] == "so many" and line["prefilled"] for line in lines)
    body = server.bodies[0]
    assert body["model"] == "thinker" and body["prompt"].endswith("<|im_start|>assistant\n<think>\n") and body["max_tokens"] == 128
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.6, 0.95, 20) and len({b["seed"] for b in server.bodies}) == 12
    assert 1 < server.most <= 4 and {line["tokens"] for line in lines} > {7}  # counted here where the server did not say


def test_a_busy_server_is_asked_again(serve, tmp_path):
    server = serve(lambda n, body: (503, {}) if n in (1, 4) else (200, {"choices": []}) if n in (2, 6) else thought(n, body))
    assert list(loop.run(small(server), tmp_path / "run"))[-1].phase == "done"
    assert len(samples(tmp_path / "run")) == 12 and len(server.bodies) == 16


def test_a_refusal_is_told_at_once_and_what_was_answered_is_kept(serve, tmp_path):
    server = serve(lambda n, body: thought(n, body) if n <= 5 else (400, dict(error="context too long")))
    with pytest.raises(UserError, match="refuses: 400 .*context too long"):
        list(loop.run(small(server), tmp_path / "run"))
    assert 1 <= len(samples(tmp_path / "run")) <= 5 and runs.state(tmp_path / "run") == "error"
    server.behave = thought
    list(loop.resume(tmp_path / "run"))
    lines = samples(tmp_path / "run")
    assert sorted(line["prompt_index"] for line in lines) == list(range(12))  # each once


def test_a_server_that_stays_away(serve, tmp_path):
    server = serve(lambda n, body: (503, dict()))
    with pytest.raises(UserError, match="did not answer in 5 tries .*then resume"):
        list(loop.run(small(server), tmp_path / "run"))


def test_stop_does_not_wait_for_slow_answers(serve, tmp_path):
    def slow(n, body):
        if n > 4:
            time.sleep(5)
        return thought(n, body)

    server, folder = serve(slow), tmp_path / "run"
    began, stopped = None, None
    for event in loop.run(small(server), folder):
        if event.phase == "think" and began is None or (began is None and len(samples(folder)) >= 4):
            (folder / "stop").touch()
            began = time.monotonic()
        stopped = event.phase
    assert stopped == "stopped" and time.monotonic() - began < 4 and len(samples(folder)) >= 1


@pytest.mark.parametrize("url,says", [("http://127.0.0.1:9/v1", "no OpenAI-compatible server answers at"), ("http://127.0.0.1:9", "ends in /v1")])
def test_no_server(url, says, tmp_path):
    preset = make_preset(dict(rounds=1, prompts=8, held_out=4, teacher=url), base=load_preset("tiny"))
    with pytest.raises(UserError, match=says):
        list(loop.run(preset, tmp_path / "run"))


def test_an_address_that_is_none_is_refused_before_work():
    with pytest.raises(UserError, match="teacher must be an address"):
        make_preset(dict(teacher="file:///etc/passwd"), base=load_preset("tiny"))


def test_the_control_that_labels_itself_asks_nobody(serve, tmp_path):
    server = serve()
    list(loop.run(small(server, labels="self"), tmp_path / "run"))
    assert server.bodies == [] and len(samples(tmp_path / "run")) == 12 and TINY.is_dir()
