"""Who may reach the page, under which names, and what a browser may do with it."""

import argparse
import ipaddress
import socket

import psutil
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
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
        "frame-ancestors 'self'",
    ]
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "SAMEORIGIN",  # for browsers that do not know frame-ancestors
    "X-Content-Type-Options": "nosniff",
}


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


def middleware(args: argparse.Namespace) -> list[Middleware]:
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=host_names(args), www_redirect=False),
        Middleware(SecurityHeaders),
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
    if args.share:
        names.append("*.gradio.live")
    return names
