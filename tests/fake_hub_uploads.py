"""What huggingface_hub asks of the Hub when it uploads: who am I, a new repository, large files, a commit.

The answers are in the form of the Hub's API as the installed huggingface_hub reads it. Large files go the way
of Git LFS (the tests set HF_HUB_DISABLE_XET).
"""

import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

LFS = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
PUT = re.compile(r"/lfs/([0-9a-f]{64})")
API = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main")


@dataclass
class Account:
    """Who pushes, what the token may do, and what goes wrong on the way."""

    token: str = "hf_WriteMe"
    name: str = "me"
    role: str = "write"
    orgs: dict[str, str] = field(default_factory=dict)  # name -> role in it
    refuse: dict[str, int] = field(default_factory=dict)  # create | preupload | commit -> status
    rights: dict[str, Any] = field(default_factory=dict)  # of a fine-grained token
    break_puts: int = 0  # so many large files are refused once they have arrived
    cut_puts: int = 0  # of so many the connection is cut in the middle
    held: threading.Event | None = None  # large files stop in the middle until it is set
    objects: dict[str, bytes] = field(default_factory=dict)  # sha256 -> a large file that has arrived
    private: dict[str, bool] = field(default_factory=dict)  # of the repositories that were made here
    puts: list[str] = field(default_factory=list)


def answer(handler: BaseHTTPRequestHandler, path: str) -> bool:
    """Answer a request that belongs to an upload; False if it does not."""
    account: Account = handler.server.account
    if path == "/api/whoami-v2":
        whoami(handler, account)
    elif path == "/api/validate-yaml":
        body(handler)
        handler.reply({"errors": [], "warnings": []})
    elif path == "/api/repos/create":
        create(handler, account)
    elif found := API.fullmatch(path):
        repo, step = found.groups()
        {"preupload": preupload, "commit": commit}[step](handler, account, f"models/{repo}")
    elif found := LFS.fullmatch(path):
        batch(handler, account)
    elif found := PUT.fullmatch(path):
        put(handler, account, found[1])
    else:
        return False
    return True


def body(handler) -> bytes:
    return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))


def known(handler, account: Account) -> bool:
    """Whether the token is right; else the request is refused."""
    right = handler.headers.get("Authorization") == f"Bearer {account.token}"
    if not right:
        body(handler)
        handler.refuse(401, "")
    return right


def refused(handler, account: Account, step: str) -> bool:
    if status := account.refuse.get(step):
        body(handler)
        handler.refuse(status, "")
    return bool(status)


def whoami(handler, account: Account) -> None:
    if known(handler, account):
        orgs = [{"name": name, "roleInOrg": role} for name, role in account.orgs.items()]
        token = {"displayName": "test", "role": account.role, "fineGrained": account.rights}
        handler.reply({"name": account.name, "orgs": orgs, "auth": {"accessToken": token}})


def create(handler, account: Account) -> None:
    if not known(handler, account) or refused(handler, account, "create"):
        return
    asked = json.loads(body(handler))
    name = f"{asked['organization']}/{asked['name']}"
    handler.server.publish(f"models/{name}", {".gitattributes": b""})
    account.private[name] = asked.get("visibility") == "private"
    handler.reply({"url": f"{handler.server.endpoint}/{name}", "name": name, "id": name})


def preupload(handler, account: Account, repo: str) -> None:
    if not known(handler, account) or refused(handler, account, "preupload"):
        return
    asked = json.loads(body(handler))["files"]
    large = (".safetensors", ".gguf")
    files = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
            "shouldIgnore": False,
        }
        for file in asked
    ]
    handler.reply({"files": files})


def batch(handler, account: Account) -> None:
    if not known(handler, account):
        return
    objects: list[dict[str, Any]] = []
    for wanted in json.loads(body(handler))["objects"]:
        described: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in account.objects:  # what is here is not asked for again
            described["actions"] = {"upload": {"href": f"{handler.server.endpoint}/lfs/{wanted['oid']}"}}
        objects.append(described)
    handler.reply({"transfer": "basic", "objects": objects})


def put(handler, account: Account, oid: str) -> None:
    """A large file. The address stands for its permission, as on the Hub: no token comes with it."""
    account.puts.append(oid)
    if account.break_puts:
        account.break_puts -= 1
        body(handler)
        handler.refuse(400, "")
        return
    size = int(handler.headers["Content-Length"])
    content = handler.rfile.read(size // 2)
    if account.cut_puts:
        account.cut_puts -= 1
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
        return
    if account.held:
        account.held.wait()
    content += handler.rfile.read(size - len(content))
    if hashlib.sha256(content).hexdigest() == oid:
        account.objects[oid] = content
        handler.head(200, {"Content-Length": 0})
    else:
        handler.refuse(400, "")


def commit(handler, account: Account, repo: str) -> None:
    if not known(handler, account) or refused(handler, account, "commit"):
        return
    lines = [json.loads(line) for line in body(handler).splitlines()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    if header.get("parentCommit") not in (None, handler.server.sha(repo)):
        handler.refuse(412, "")
        return
    files = dict(handler.server.repos[repo])
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = account.objects[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    handler.server.publish(repo, files)
    sha = handler.server.sha(repo)
    address = f"{handler.server.endpoint}/{repo.partition('/')[2]}/commit/{sha}"
    handler.reply({"commitUrl": address, "commitOid": sha, "success": True})
