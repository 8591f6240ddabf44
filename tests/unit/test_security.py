"""What the server refuses before the page hears of it: foreign names, foreign pages."""

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import app
from thinkswitch.errors import UserError
from ui import security


def arguments(*flags: str) -> argparse.Namespace:
    return app.parser().parse_args(flags)


@pytest.fixture
def ask():
    """`ask(method, host, origin, *flags)` -> status of a server behind the page's middleware."""

    def send(method: str, host: str, origin: str | None, *flags: str) -> int:
        async def answer(request):
            return PlainTextResponse("done")

        route = Route("/", answer, methods=["GET", "POST", "PUT", "DELETE"])
        server = Starlette(routes=[route], middleware=security.middleware(arguments(*flags)))
        headers = {"host": host, **({"origin": origin} if origin else {})}
        return in_thread(request(server, method, headers))

    return send


async def request(server: Starlette, method: str, headers: dict[str, str]) -> int:
    transport = httpx.ASGITransport(server)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return (await client.request(method, "/", headers=headers)).status_code


def in_thread(coroutine) -> int:
    """A browser test before this one leaves an event loop in our thread."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, coroutine).result()


LOCAL = "127.0.0.1:7860"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_what_a_page_of_another_site_sends_is_refused(ask, method):
    """PAGE, security: any site could post a file of 30 MB, since a form needs no permission."""
    foreign = ("https://evil.example", "http://127.0.0.1.evil.example:7860", "null", "file://", "http://[x")
    assert [ask(method, LOCAL, origin) for origin in foreign] == [403] * len(foreign)
    assert ask(method, LOCAL, "http://127.0.0.1:9999") == 403  # another program of this machine
    assert ask(method, LOCAL, f"http://{LOCAL}") == 200
    assert ask(method, LOCAL, None) == 200  # no browser


def test_reading_needs_no_origin(ask):
    """A link from another site opens the page."""
    assert ask("GET", LOCAL, "https://evil.example") == 200


def test_a_proxy_s_name_is_one_of_ours(ask):
    name = "studio.example.org"
    assert ask("GET", name, None) == 400 and ask("GET", name, None, "--allowed-host", name) == 200
    flags = ("--allowed-host", name, "--allowed-host", "*.lab.example")
    assert ask("POST", name, f"https://{name}", *flags) == 200
    assert ask("POST", LOCAL, f"https://{name}", *flags) == 200  # a proxy that changes the host
    assert ask("POST", LOCAL, "https://gpu.lab.example", *flags) == 200
    assert ask("POST", LOCAL, "https://lab.example.evil", *flags) == 403
    assert ask("GET", "gpu.lab.example", None, *flags) == 200
    assert ask("POST", LOCAL, "https://abc.gradio.live", "--share", "--auth", "me:secret") == 200


HUB = ("--allowed-host", "hub.example.org", "--root-path", "/user/me/proxy/7860")
NAMED = ("--allowed-host", "studio.example.org")
WAYS = {  # CASES 4: how a browser reaches the page -> (Host, Origin, flags) as they arrive here
    "nginx that keeps the name": ("studio.example.org", "https://studio.example.org", NAMED),
    "nginx that sends its own": (LOCAL, "https://studio.example.org", NAMED),
    "a proxy on another port": ("studio.example.org:8443", "https://studio.example.org:8443", NAMED),
    "a name in capitals, with a dot": ("Studio.Example.ORG.", "https://studio.example.org", NAMED),
    "a notebook's proxy": ("hub.example.org", "https://hub.example.org", HUB),
    "a notebook's proxy that changes the name": ("localhost:7860", "https://hub.example.org", HUB),
    "ssh -L 9000:localhost:7860": ("localhost:9000", "http://localhost:9000", ()),
    "the IPv6 address of this machine": ("[::1]:7860", "http://[::1]:7860", ()),
    "a cloud's editor": (
        "me-7860.app.example.dev",
        "https://me-7860.app.example.dev",
        ("--allowed-host", "*.app.example.dev"),
    ),
    "a DNS name in the house": (
        "gpu.fritz.box:7860",
        "http://gpu.fritz.box:7860",
        ("--host", "0.0.0.0", "--auth", "me:x", "--allowed-host", "gpu.fritz.box"),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_page_is_reached_by_all_the_ways_there_are(ask, way):
    host, origin, flags = WAYS[way]
    args = arguments(*flags)
    security.check_proxy(args)
    assert ask("GET", host, None, *flags) == 200 and ask("POST", host, origin, *flags) == 200
    assert ask("POST", host, "https://evil.example", *flags) == 403


@pytest.mark.parametrize(
    "host, called",
    [
        ("studio.example.org", "--allowed-host studio.example.org."),
        ("studio.example.org:80", "--allowed-host studio.example.org."),
        ("127.0.0.1.evil.example", "--allowed-host 127.0.0.1.evil.example."),
        ("<script>", "--allowed-host NAME."),
        ("[::1", "--allowed-host NAME."),
        ("", "--allowed-host NAME."),
    ],
)
def test_a_name_that_is_not_ours_is_refused_with_what_to_do(host, called):
    """It said "Invalid host header", and nobody knew which, or what to do."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host.encode())]}
    in_thread(security.KnownNames(None, ["localhost"])(scope, None, send))
    assert sent[0]["status"] == 400 and called in sent[1]["body"].decode()


@pytest.mark.parametrize("name", ["*", "https://a.example", "a.example:80", "a b", "", "*.", "a*.example"])
def test_a_name_that_no_request_has_is_refused(name):
    with pytest.raises(UserError, match=r"--allowed-host wants a name such as .*it got"):
        security.check_proxy(arguments("--allowed-host", name))


@pytest.mark.parametrize("path", ["studio", "/a b", "/a?b", "/a//b", "ftp://a.example/b"])
def test_a_root_path_that_no_proxy_serves_is_refused(path):
    with pytest.raises(UserError, match="--root-path wants a path such as /studio"):
        security.check_proxy(arguments("--root-path", path))


@pytest.mark.parametrize("path", ["", "/", "/studio", "/lab/studio/", "https://example.org/studio"])
def test_a_root_path_is_passed_on(path):
    args = arguments("--root-path", path)
    security.check_proxy(args)
    assert app.launch_options(args)["root_path"] == path.rstrip("/")
