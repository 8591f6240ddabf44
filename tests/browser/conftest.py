"""One server and one browser for most tests, a fresh context for each. Without Chromium they are skipped."""

import json
import re
import shutil

import pytest
import torch
from playwright.sync_api import sync_playwright
from transformers import AutoModelForCausalLM, AutoTokenizer

from browser.driver import HOSTILE, PATIENCE, SLIDER, Server
from conftest import byte_tokenizer, save_pair

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What a page says when it is reloaded, or when a test kills its server.
BROKEN_OFF = re.compile(
    "net::ERR_(ABORTED|CONNECTION_REFUSED|INCOMPLETE_CHUNKED|CONNECTION_RESET|EMPTY_RESPONSE)|network error"
    "|Connection errored out|BodyStreamBuffer was aborted|Failed to fetch|AbortError"
)


@pytest.fixture(scope="session")
def chromium():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """`visit(url, width=..., dark=...)` -> a page in a browser context of its own.

    Afterwards no page may have logged an error or asked another server for anything.
    """
    contexts, complaints = [], []

    def watch(page, url: str) -> None:
        def console(message):
            if message.type == "error":
                complaints.append(f"{message.text} {message.location.get('url', '')}".strip())

        def request(request):
            if not request.url.startswith((url, "data:", "blob:")):
                complaints.append(f"asked {request.url}")

        page.on("console", console)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", request)

    def go(url: str, width: int = 1280, height: int = 900, dark: bool = False):
        context = chromium.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        watch(page, url)
        page.goto(url + ("?__theme=dark" if dark else ""))
        page.wait_for_selector(SLIDER)
        return page

    yield go
    for context in contexts:
        context.close()
    assert [c for c in complaints if not BROKEN_OFF.search(c)] == []


@pytest.fixture
def serve(tmp_path):
    """`serve(*flags, **environment)` -> a server of this test's own."""
    servers = []

    def start(*flags, **env: str) -> Server:
        servers.append(Server(tmp_path, *flags, **env))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
        assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The server of most tests, with the embedded pair."""
    server = Server(tmp_path_factory.mktemp("tiny"))
    yield server
    server.close()
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="session")
def endless(tmp_path_factory):
    """A server with a random pair that never stops by itself, and whose vocabulary is hostile."""
    folder = tmp_path_factory.mktemp("endless")
    size = len(byte_tokenizer()) + len(HOSTILE)
    for role in save_pair(folder / "pair", vocab_size=size, max_position_embeddings=100_000):
        tokenizer = AutoTokenizer.from_pretrained(role)
        tokenizer.add_tokens(HOSTILE)
        tokenizer.save_pretrained(role)
        model = AutoModelForCausalLM.from_pretrained(role)
        with torch.no_grad():  # what would end an answer is never among the likeliest
            model.get_input_embeddings().weight[[tokenizer.eos_token_id, tokenizer.pad_token_id]] = 0
        model.save_pretrained(role)
    problems = [{"prompt": f"Say {i}", "answer": str(i), "kind": "integer"} for i in range(40)]
    lines = "".join(json.dumps(problem) + "\n" for problem in problems)
    (folder / "problems.jsonl").write_text(lines, "utf-8")
    preset = {
        "name": "endless",
        "instruct": "pair/instruct",
        "thinking": "pair/thinking",
        "train_set": "problems.jsonl",
        "held_out_set": "problems.jsonl",
        "prompts": 8,
        "held_out": 8,
        "think_tokens": 20_000,
        "instruct_tokens": 20_000,
    }
    (folder / "endless.yaml").write_text(json.dumps(preset), "utf-8")  # JSON is YAML, too
    server = Server(folder, "--preset", folder / "endless.yaml")
    yield server
    server.close()
    assert "Traceback" not in server.log, server.log
