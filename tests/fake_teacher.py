"""A small OpenAI-compatible server on this machine, which answers as a test tells it to."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Reply = tuple[int, dict]  # HTTP status, body
MODELS = (dict(id="thinker"), dict(id="another"))


class FakeTeacher(ThreadingHTTPServer):
    """`behave(n, body)` answers the n-th completion, counted from 1. Keeps what it was sent.

    `probe(body)` answers what is asked before the first prompt: greedily, which no test's rows are.
    """

    daemon_threads = True

    def __init__(self, behave: Callable[[int, dict], Reply], models: tuple[dict, ...] = MODELS):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.probe: Callable[[dict], Reply] = lambda body: completion("so many</think>1")
        self.models = models
        self.bodies: list[dict] = []
        self.probes: list[dict] = []
        self.headers: list[dict] = []
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def never_answer(self) -> Reply:
        """Keep a request open until the test is over."""
        self.closing.wait()
        return 503, {}

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class PairTeacher(FakeTeacher):
    """A real server of a checkpoint, decoded by transformers; `faults` are those of servers that there are.

    bos, template: what it puts around a text. tokenizer: it reads with another one. strips: it leaves the
    closing tag out. no ids: it takes text only. silent: it counts no tokens. changes ids: as it says.
    """

    def __init__(self, folder: Path, *faults: str, **listed):
        super().__init__(self.answer, (dict(id=str(folder), **listed),))
        self.faults = faults
        self.probe = lambda body: self.answer(0, body)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.one_at_a_time = threading.Lock()

    def answer(self, number: int, body: dict) -> Reply:
        prompt = body["prompt"]
        if not isinstance(prompt, str) and "no ids" in self.faults:
            return 400, dict(error="'prompt' must be a string")
        ids = self.read(prompt) if isinstance(prompt, str) else list(prompt)
        if "changes ids" in self.faults and not isinstance(prompt, str):
            ids = [ids[0], *ids]
        with self.one_at_a_time, torch.inference_mode():
            new = self.network.generate(
                torch.tensor([ids]), max_new_tokens=body["max_tokens"], do_sample=False, pad_token_id=0
            )[0, len(ids) :].tolist()
        finish = "stop" if new[-1] == self.tokenizer.eos_token_id else "length"
        text = self.tokenizer.decode(new)
        if "strips" in self.faults:
            text = text.replace("</think>", "").replace("<|im_end|>", "")
        usage = dict(prompt_tokens=len(ids), completion_tokens=len(new))
        said = dict(choices=[dict(text=text, finish_reason=finish)])
        return 200, said if "silent" in self.faults else said | dict(usage=usage)

    def read(self, text: str) -> list[int]:
        if "template" in self.faults:
            turn = [dict(role="user", content=text)]
            text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if "tokenizer" in self.faults:
            return [i for i in ids for _ in range(2)]
        return [self.tokenizer.eos_token_id, *ids] if "bos" in self.faults else ids


class Handler(BaseHTTPRequestHandler):
    server: FakeTeacher

    def do_GET(self):
        self.reply(200, dict(data=self.server.models) if self.path == "/v1/models" else {})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["temperature"] == 0 and server.probe is not None:
            server.probes.append(body)
            self.reply(*server.probe(body))
            return
        with server.lock:
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            number = len(server.bodies)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            answer = server.behave(number, body)
        finally:
            with server.lock:
                server.at_once -= 1
        self.reply(*answer)

    def reply(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client has gone
            pass

    def log_message(self, *args):
        pass


def completion(text: str, finish: str = "stop", tokens: int | None = None) -> Reply:
    usage = {} if tokens is None else dict(usage=dict(completion_tokens=tokens))
    return 200, dict(choices=[dict(text=text, finish_reason=finish)], **usage)
