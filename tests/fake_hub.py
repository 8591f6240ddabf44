"""A Hub on 127.0.0.1: what huggingface_hub and datasets ask of the real one, with its headers and refusals.

Large files are answered with a redirect to another host, as the Hub does to its CDN. Every request is kept.
"""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import fake_hub_uploads

LARGE = (".safetensors", ".parquet", ".bin")
LISTING = re.compile(
    r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?"
)
FILE = re.compile(r"/(cdn/)?(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Asked:
    """A request."""

    method: str
    path: str  # owner/name/file for a file's bytes, else the address
    range: str
    address: str
    sent: int = 0  # bytes of the body


class Hub(ThreadingHTTPServer):
    """Repositories are "models/owner/name" or "datasets/owner/name"; files are owner/name/file."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}  # (repository, commit) -> its files
        self.refused: dict[str, tuple[int, str]] = {}  # repository -> (status, X-Error-Code) of its files
        self.cut: dict[str, list[int]] = {}  # file -> [where the connection breaks, how many times it does]
        self.stall: dict[str, int] = {}  # file -> where nothing comes any more
        self.log: list[Asked] = []
        self.account = fake_hub_uploads.Account()
        self.serve()

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""

    def publish(self, repo: str, source: Path | dict[str, bytes], **changes: bytes | None) -> str:
        """Put a folder or files on the Hub. `changes`: new bytes of a file, or None to leave it out."""
        files = (
            source if isinstance(source, dict) else {p.name: p.read_bytes() for p in Path(source).iterdir()}
        )
        kept = {**files, **changes}
        self.repos[repo] = {name: content for name, content in kept.items() if content is not None}
        self.commits[repo, self.sha(repo)] = self.repos[repo]
        return repo.partition("/")[2]

    def sha(self, repo: str) -> str:
        """The commit of a repository: it changes with its files."""
        contents = (name.encode() + content for name, content in sorted(self.repos[repo].items()))
        return hashlib.sha1(repo.encode() + b"".join(contents)).hexdigest()

    @contextmanager
    def watched(self) -> Iterator[list[Asked]]:
        """A list that holds, afterwards, the requests made meanwhile."""
        before = len(self.log)
        seen: list[Asked] = []
        yield seen
        seen += self.log[before:]

    @contextmanager
    def unreachable(self) -> Iterator[None]:
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

    def serve(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        asked = Asked(self.command, path, self.headers.get("Range", ""), path)
        self.server.log.append(asked)
        if fake_hub_uploads.answer(self, path):
            return
        if found := LISTING.fullmatch(path):
            self.listing(*found.groups())
        elif found := FILE.fullmatch(path):
            cdn, kind, name, revision, file = found.groups()
            asked.path = f"{name}/{file}"
            self.file(asked, (kind or "models/") + name, revision, file, from_cdn=bool(cdn))
        else:
            self.refuse(404, "")

    do_HEAD = do_POST = do_PUT = do_GET

    def listing(self, repo: str, what: str | None, revision: str | None, under: str | None) -> None:
        status, code = self.server.refused.get(repo, (None, None))
        if repo not in self.server.repos or code == "RepoNotFound":
            self.refuse(status or 401, "RepoNotFound")  # the real one says 401 to those it does not know
            return
        sha, files = self.commit(repo, revision or "main")
        if files is None:
            self.refuse(404, "RevisionNotFound")
        elif what == "paths-info":
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            wanted = parse_qs(body)["paths"]
            self.reply([entry for entry in entries(files, recursive=True) if entry["path"] in wanted])
        elif what == "tree":
            query = parse_qs(urlsplit(self.path).query)
            recursive = "true" in query.get("recursive", ["false"])[0].lower()
            found = entries(files, recursive, f"{under}/" if under else "")
            if found:
                self.reply(found)
            else:
                self.refuse(404, "EntryNotFound")
        else:
            siblings = [{"rfilename": file} for file in files]
            described = {
                "id": repo.partition("/")[2],
                "sha": sha,
                "private": self.server.account.private.get(repo.partition("/")[2], False),
                "gated": False,
                "tags": [],
            }
            self.reply({**described, "siblings": siblings})

    def commit(self, repo: str, revision: str) -> tuple[str, dict[str, bytes] | None]:
        """(commit, its files) of main or of an earlier commit; no files if there is none of that name."""
        if revision == "main":
            return self.server.sha(repo), self.server.repos[repo]
        return revision, self.server.commits.get((repo, revision))

    def file(self, asked: Asked, repo: str, revision: str, file: str, from_cdn: bool) -> None:
        if repo in self.server.refused or repo not in self.server.repos:
            self.refuse(*self.server.refused.get(repo, (401, "RepoNotFound")))
            return
        sha, files = self.commit(repo, revision)
        if files is None:
            self.refuse(404, "RevisionNotFound")
        elif file not in files:
            self.refuse(404, "EntryNotFound", {"X-Repo-Commit": sha})
        elif file.endswith(LARGE) and not from_cdn:
            self.redirect(files[file], sha)
        else:
            self.content(asked, files[file], {} if from_cdn else {"X-Repo-Commit": sha})

    def redirect(self, body: bytes, sha: str) -> None:
        fields = {
            "Location": f"http://localhost:{self.server.server_port}/cdn{self.path}",
            "X-Repo-Commit": sha,
            "X-Linked-Etag": etag(body),
            "X-Linked-Size": len(body),
            "Content-Length": 0,
        }
        self.head(302, fields)

    def content(self, asked: Asked, whole: bytes, fields: dict) -> None:
        """A file or the part that is asked for; as much of it as the test allows."""
        first, body, status = 0, whole, 200
        fields = {**fields, "ETag": etag(whole), "Accept-Ranges": "bytes"}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", asked.range):
            first = int(found[1])
            last = min(int(found[2] or len(whole) - 1), len(whole) - 1)
            body, status = whole[first : last + 1], 206
            fields["Content-Range"] = f"bytes {first}-{last}/{len(whole)}"
        self.head(status, {**fields, "Content-Length": len(body)})
        if self.command == "HEAD":
            return
        cut = self.server.cut.get(asked.path, [len(whole), 0])
        stall = self.server.stall.get(asked.path, len(whole))
        end = min(cut[0] if cut[1] else len(whole), stall, first + len(body)) - first
        asked.sent = self.wfile.write(body[: max(end, 0)])
        if end < len(body):
            cut[1] -= 1
            if stall < len(whole):
                self.connection.recv(1)  # until the client is gone
            self.close_connection = True

    def refuse(self, status: int, code: str, fields: dict | None = None) -> None:
        refusal = {"X-Error-Code": code, "X-Error-Message": f"{code} it is", "Content-Length": 0}
        self.head(status, {**refusal, **(fields or {})})

    def reply(self, what) -> None:
        body = json.dumps(what).encode()
        self.head(200, {"Content-Type": "application/json", "Content-Length": len(body)})
        self.wfile.write(body)

    def head(self, status: int, fields: dict) -> None:
        self.send_response(status)
        for key, value in fields.items():
            self.send_header(key, str(value))
        self.end_headers()


def etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()}"'


def entries(files: dict[str, bytes], recursive: bool, under: str = "") -> list[dict]:
    """What a folder of the tree lists."""
    found = {}
    for path, content in files.items():
        if not path.startswith(under):
            continue
        inner = path[len(under) :]
        folder = under + inner.partition("/")[0]
        if "/" in inner:
            found[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
        if recursive or "/" not in inner:
            oid = hashlib.sha1(content).hexdigest()
            found[path] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    return list(found.values())
