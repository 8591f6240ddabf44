"""A reverse proxy on localhost, as small as can be: serves an app below a path, and changes the host."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP = ("connection", "transfer-encoding", "keep-alive", "host")


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str, path: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.path = urlsplit(upstream).netloc, path
        self.url = f"http://localhost:{self.server_port}{path}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def forward(self) -> None:
        if not self.path.startswith(self.server.path):
            self.send_response(204)  # a browser asks / for an icon before it has read the page's own
            self.end_headers()
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        headers["X-Forwarded-Host"] = self.headers["Host"]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection(self.server.upstream)
        upstream.request(self.command, self.path.removeprefix(self.server.path) or "/", body, headers)
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while piece := answer.read1(65536):  # streams never end
                self.wfile.write(piece)
                self.wfile.flush()
        except (OSError, http.client.HTTPException):
            pass  # the browser or the app has gone away
        finally:
            upstream.close()

    do_GET = do_POST = do_HEAD = forward

    def log_message(self, *args) -> None:
        pass
