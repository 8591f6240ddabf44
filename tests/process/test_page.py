"""The page as a process on machines as they are: it starts, and says where it is."""

import os
import socket
import subprocess
import sys

import httpx

from conftest import ROOT, wait

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def test_the_page_starts_behind_a_proxy_that_cannot_reach_it(tmp_path):
    """CASES 4: with HTTP_PROXY and without NO_PROXY, Gradio asked the proxy for its own page: a traceback."""
    with socket.socket() as free, socket.socket() as dead:  # nobody listens on either
        free.bind(("127.0.0.1", 0))
        dead.bind(("127.0.0.1", 0))
        port, proxy = free.getsockname()[1], f"http://127.0.0.1:{dead.getsockname()[1]}"
        free.close()
        kept = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}
        env = {**kept, "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "ALL_PROXY": proxy, "NO_PROXY": "a.example"}
        command = [sys.executable, ROOT / "app.py", "--port", str(port)]
        log = open(tmp_path / "log.txt", "w+", encoding="utf-8")  # noqa: SIM115 - closed below
        with log, subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log) as page:
            try:
                said = tmp_path / "log.txt"
                wait(lambda: page.poll() is not None or "Running on local URL" in said.read_text("utf-8"))
                wait(lambda: page.poll() is not None or answers(port))
                assert page.poll() is None, said.read_text("utf-8")
            finally:
                page.kill()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
