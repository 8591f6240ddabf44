"""A small OpenAI-compatible server on this machine, which answers as a test tells it to."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, dict]  # HTTP status, body


class FakeTeacher(ThreadingHTTPServer):
    """`behave(n, body)` answers the n-th completion, counted from 1. Keeps what it was sent."""

    daemon_threads = True

    def __init__(self, behave: Callable[[int, dict], Reply]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.bodies: list[dict] = []
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


class Handler(BaseHTTPRequestHandler):
    server: FakeTeacher

    def do_GET(self):
        self.reply(
            200, dict(data=[dict(id="thinker"), dict(id="another")]) if self.path == "/v1/models" else {}
        )

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
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
