"""A Hub on 127.0.0.1: what huggingface_hub and datasets ask of the real one, with its headers, redirects and refusals.

Large files are answered with a redirect to another host, as the Hub sends one to its CDN. Every request is written down.
"""

import hashlib
import json
import re
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".parquet", ".bin")


@dataclass
class Asked:
    method: str
    path: str  # owner/name/file for a file's bytes, else the address
    range: str
    address: str
    sent: int = 0  # bytes of the body


class Hub(ThreadingHTTPServer):
    daemon_threads, allow_reuse_address = True, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repos = {}  # "models/owner/name" -> {file: bytes}
        self.refused = {}  # "models/owner/name" -> (status, X-Error-Code) for its files; RepoNotFound for its listing, too
        self.cut = {}  # owner/name/file -> [byte at which the connection breaks, how many times it does]
        self.stall = {}  # owner/name/file -> byte after which nothing comes any more
        self.log = []
        self.serve()

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""

    def publish(self, repo: str, source: Path | dict, **changes) -> str:
        """Put a folder (or {file: bytes}) on the Hub as "models/owner/name"; a change is a file's new bytes, or None to leave it out."""
        files = dict(source) if isinstance(source, dict) else {p.name: p.read_bytes() for p in Path(source).iterdir()}
        self.repos[repo] = {k: v for k, v in {**files, **changes}.items() if v is not None}
        return repo.partition("/")[2]

    def sha(self, repo: str) -> str:
        return hashlib.sha1(repo.encode() + b"".join(k.encode() + v for k, v in sorted(self.repos[repo].items()))).hexdigest()

    @contextmanager
    def watched(self):
        """The requests made meanwhile."""
        before, seen = len(self.log), []
        yield seen
        seen += self.log[before:]

    @contextmanager
    def unreachable(self):
        """Nobody listens at the address meanwhile; the port is kept from others."""
        self.shutdown()
        self.server_close()
        try:
            with socket.socket() as keeper:
                keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                keeper.bind(self.server_address)
                yield
        finally:
            self.socket = socket.socket(self.address_family, self.socket_type)
            self.server_bind()
            self.server_activate()
            self.serve()

    def serve(self):
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=0.05), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        asked = Asked(self.command, path, self.headers.get("Range", ""), path)
        self.server.log.append(asked)
        if found := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?", path):
            self.listing(asked, *found.groups())
        elif found := re.fullmatch(r"/(cdn/)?(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            cdn, kind, name, revision, file = found.groups()
            asked.path = f"{name}/{file}"
            self.file(asked, bool(cdn), (kind or "models/") + name, revision, file)
        else:
            self.refuse(404, "")

    do_HEAD = do_POST = do_GET

    def listing(self, asked, repo, what, revision, under):
        status, code = self.server.refused.get(repo, (None, None))
        if repo not in self.server.repos or code == "RepoNotFound":
            return self.refuse(status or 401, "RepoNotFound")  # the real one says 401 to whom it does not know
        sha, files = self.server.sha(repo), self.server.repos[repo]
        if revision not in (None, "main", sha):
            return self.refuse(404, "RevisionNotFound")
        if what == "paths-info":
            wanted = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
            return self.say([e for e in entries(files, True) if e["path"] in wanted])
        if what == "tree":
            recursive = "true" in parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower()
            found = entries(files, recursive, f"{under}/" if under else "")
            return self.say(found) if found else self.refuse(404, "EntryNotFound")
        self.say(dict(id=repo.partition("/")[2], sha=sha, private=False, gated=False, tags=[], siblings=[dict(rfilename=f) for f in files]))

    def file(self, asked, cdn, repo, revision, file):
        if repo in self.server.refused or repo not in self.server.repos:
            return self.refuse(*self.server.refused.get(repo, (401, "RepoNotFound")))
        sha, files = self.server.sha(repo), self.server.repos[repo]
        if revision not in ("main", sha):
            return self.refuse(404, "RevisionNotFound")
        if file not in files:
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": sha})
        body = files[file]
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        if not cdn and file.endswith(LARGE):
            return self.head(302, {"Location": f"http://localhost:{self.server.server_port}/cdn{self.path}", "X-Repo-Commit": sha, "X-Linked-Etag": etag,
                                   "X-Linked-Size": len(body), "Content-Length": 0})
        head = {"ETag": etag, "Accept-Ranges": "bytes"} | ({} if cdn else {"X-Repo-Commit": sha})
        first, whole, status = 0, len(body), 200
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", asked.range):
            first, last = int(found[1]), min(int(found[2] or whole - 1), whole - 1)
            body, status = body[first:last + 1], 206
            head["Content-Range"] = f"bytes {first}-{last}/{whole}"
        self.head(status, head | {"Content-Length": len(body)})
        if self.command == "HEAD":
            return
        cut, stall = self.server.cut.get(asked.path, [whole, 0]), self.server.stall.get(asked.path, whole)
        end = min(cut[0] if cut[1] else whole, stall, first + len(body)) - first
        asked.sent = self.wfile.write(body[:max(end, 0)])
        if end < len(body):
            cut[1] -= 1
            if stall < whole:
                self.connection.recv(1)  # until the client is gone
            self.close_connection = True

    def refuse(self, status, code, head=None):
        self.head(status, {"X-Error-Code": code, "X-Error-Message": f"{code} it is", "Content-Length": 0} | (head or {}))

    def say(self, what):
        body = json.dumps(what).encode()
        self.head(200, {"Content-Type": "application/json", "Content-Length": len(body)})
        self.wfile.write(body)

    def head(self, status, fields):
        self.send_response(status)
        for key, value in fields.items():
            self.send_header(key, str(value))
        self.end_headers()


def entries(files, recursive, under=""):
    """What a folder of the tree lists."""
    found = {}
    for path in files:
        if path.startswith(under):
            inner = path[len(under):]
            folder = under + inner.partition("/")[0]
            if "/" in inner:
                found[folder] = dict(type="directory", path=folder, size=0, oid="0" * 40)
            if recursive or "/" not in inner:
                found[path] = dict(type="file", path=path, size=len(files[path]), oid=hashlib.sha1(files[path]).hexdigest())
    return list(found.values())
