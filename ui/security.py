"""Who may reach the page, under which names, and what a browser may do with it."""

import argparse
import ipaddress
import re
import socket
from urllib.parse import urlsplit

import psutil
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thinkswitch.errors import UserError

# Gradio runs inline scripts and compiles functions; what it must not do is to load from or send to elsewhere.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
READING = ("GET", "HEAD", "OPTIONS")  # requests that change nothing
SHARED_NAMES = "*.gradio.live"  # of Gradio's tunnel


class SecurityHeaders:
    """Adds HEADERS to every response. Plain ASGI, because responses are streams that never end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class KnownNames:
    """Refuses what asks for this page by another name: a foreign site may have given its name our address."""

    def __init__(self, app: ASGIApp, names: list[str]) -> None:
        self.app = app
        self.names = [name.lower() for name in names]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            name = name_of(Headers(scope=scope).get("host", ""))
            if not any(matches(name, known) for known in self.names):
                called = name if HOST_NAME.fullmatch(name) else "NAME"
                await PlainTextResponse(UNKNOWN_NAME.format(called), status_code=400)(scope, receive, send)
                return
        await self.app(scope, receive, send)


UNKNOWN_NAME = (
    "This page is not known under this name. If a proxy or another computer may use it, start the app with "
    "--allowed-host {}.\n"
)


def name_of(host: str) -> str:
    """The name in a Host header, without its port; empty if it holds none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:  # brackets that do not match
        return ""


class SameOrigin:
    """Refuses what a page of another site sends.

    A browser asks nobody before it posts a form or a file to this server, and says only where it comes from.
    """

    def __init__(self, app: ASGIApp, proxy_names: list[str]) -> None:
        self.app = app
        self.proxy_names = proxy_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in READING:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and not is_ours(origin, headers.get("host", ""), self.proxy_names):
                await PlainTextResponse(FOREIGN_ORIGIN, status_code=403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


FOREIGN_ORIGIN = (
    "This came from a page of another site. Behind a proxy, start the app with --allowed-host NAME.\n"
)


def is_ours(origin: str, host: str, proxy_names: list[str]) -> bool:
    """Whether we served the page of `origin`: under the name that it asks, or through a proxy."""
    try:
        address = urlsplit(origin)
        name = address.hostname or ""
    except ValueError:  # brackets that do not match
        return False
    if address.scheme not in ("http", "https"):
        return False  # also "null", of a page in a sandbox
    same = address.netloc.lower() == host.lower()
    return same or any(matches(name, pattern.lower()) for pattern in proxy_names)


def matches(name: str, pattern: str) -> bool:
    """`*.example.org` stands for every name below it."""
    return name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:]))


class NoUploads:
    """Refuses files in a demo: there they would stay on a machine that is not the visitor's."""

    def __init__(self, app: ASGIApp, demo: bool) -> None:
        self.app = app
        self.demo = demo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.demo and scope["type"] == "http" and scope["path"].rstrip("/").endswith("/upload"):
            await PlainTextResponse("A demo takes no files.\n", status_code=403)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def middleware(args: argparse.Namespace) -> list[Middleware]:
    return [
        Middleware(SecurityHeaders),  # outermost: refusals carry them, too
        Middleware(KnownNames, names=host_names(args)),
        Middleware(SameOrigin, proxy_names=proxy_names(args)),
        Middleware(NoUploads, demo=args.demo),
    ]


def credentials(args: argparse.Namespace) -> tuple[str, str] | None:
    """The user and password. Others may not reach the page without: it starts processes and writes files."""
    user, colon, password = (args.auth or "").partition(":")
    if args.auth and not (user and colon and password):
        raise UserError("--auth wants USER:PASSWORD, both not empty")
    if args.auth:
        return user, password
    if args.share or not is_loopback(args.host):
        flag = "--share" if args.share else f"--host {args.host}"
        raise UserError(
            f"{flag} lets others reach this page, which starts programs and writes files; "
            "add --auth USER:PASSWORD"
        )
    return None


HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
ROOT_PATH = re.compile(r"(https?://[^/\s?#]+)?(/[^/\s?#]+)*")


def check_proxy(args: argparse.Namespace) -> None:
    """Refuse names and paths of a proxy that no request could have."""
    for name in args.allowed_host:
        if not HOST_NAME.fullmatch(name):
            raise UserError(
                f"--allowed-host wants a name such as studio.example.org or *.example.org, without scheme "
                f"or port; it got {name!r}"
            )
    if args.root_path and not ROOT_PATH.fullmatch(args.root_path.rstrip("/")):
        raise UserError(f"--root-path wants a path such as /studio, it got {args.root_path!r}")


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_names(args: argparse.Namespace) -> list[str]:
    """The names by which this page may be called; another one means DNS rebinding by a foreign site."""
    names = ["127.0.0.1", "localhost", "[::1]", "::1"]
    if not is_loopback(args.host):
        names += [args.host, socket.gethostname(), f"{socket.gethostname()}.local"]
        for addresses in psutil.net_if_addrs().values():
            names += [address.address for address in addresses if address.family == socket.AF_INET]
    return names + proxy_names(args)


def proxy_names(args: argparse.Namespace) -> list[str]:
    """The names under which others pass requests on to this page."""
    return [*args.allowed_host, *([SHARED_NAMES] if args.share else [])]
