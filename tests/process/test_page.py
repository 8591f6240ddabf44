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


def test_a_proxy_of_an_unknown_kind_is_one_sentence_and_socks_is_none():
    """Both ended in a traceback while Gradio was imported, socks5:// for want of a package."""
    env = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}

    def started(proxy: str, *command) -> subprocess.CompletedProcess:
        changed = {**env, "ALL_PROXY": proxy}
        return subprocess.run(
            [sys.executable, *command], env=changed, cwd=ROOT, capture_output=True, text=True, timeout=300
        )

    page = started("ftp://a.example:21", "app.py", "--help")
    assert page.returncode == 1
    assert page.stderr.startswith("error: ALL_PROXY names a proxy of the kind ftp://")
    assert "Traceback" not in page.stderr and "socks5://" in page.stderr
    page = started("socks5://127.0.0.1:9", "app.py", "--help")
    assert page.returncode == 0, page.stderr


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
