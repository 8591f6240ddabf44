"""What the browser tests do as a person would: start the app, open tabs, drag the slider, wait for words."""

import http.client
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from conftest import ROOT, wait
from thinkswitch import runs

PATIENCE = 180.0  # seconds until a test is said to hang; a slow machine is no failure
SLIDER = "#compare-t input[type=range]"
POINTS = """elem_id => document.querySelector(`#${elem_id} .js-plotly-plot`)._fullData
    .reduce((n, line) => n + line.x.length, 0)"""
UPLOAD = (
    '--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n'
    "Content-Type: text/plain\r\n\r\nhello\r\n--x--\r\n"
)
# Text that would do something if it were taken for HTML, a link, a template or a script.
HOSTILE = [
    "<script>window.hacked=1</script>",
    '<img src=x onerror="window.hacked=1">',
    "[link](javascript:window.hacked=1)",
    "<b>half open",
    "{{value}}",
    "${window.hacked=1}",
    "</pre></details><style>*{display:none}</style>",
]


class Server:
    """app.py as a user starts it, in a folder of its own. It takes a free port and says which."""

    def __init__(self, folder: Path, *flags, **env: str):
        self.folder = folder
        self.flags = list(map(str, flags))
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", **env}
        self.log_file = folder / "server.log"
        self.start()

    def start(self) -> None:
        began = len(self.log)
        with open(self.log_file, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "app.py", *self.flags],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=self.env,
            )
        address = re.compile(r"https?://[\w.]+:(\d+)")
        wait(lambda: self.process.poll() is not None or address.search(self.log, began))
        assert self.process.poll() is None, self.log
        self.url = f"http://127.0.0.1:{address.search(self.log, began)[1]}/"

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8") if self.log_file.exists() else ""

    @property
    def runs(self) -> list[Path]:
        return runs.runs_in(self.folder / "runs")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill the app, and the runs that it started, which outlive it."""
        self.kill()
        for folder in self.runs:
            if pid := runs.running_pid(folder):
                psutil.Process(pid).kill()

    def status_of(self, path: str, host: str | None = None, origin: str | None = None) -> int:
        """The status of a GET, under another host name if one is given; with an origin, of an upload."""
        connection = http.client.HTTPConnection(
            self.url.removeprefix("http://").rstrip("/"), timeout=PATIENCE
        )
        try:
            headers = {name: value for name, value in (("Host", host), ("Origin", origin)) if value}
            if origin is None:
                connection.request("GET", path, headers=headers)
            else:
                headers["Content-Type"] = "multipart/form-data; boundary=x"
                connection.request("POST", path, body=UPLOAD, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()


def text(page: Page, elem_id: str) -> str:
    return page.inner_text(f"#{elem_id}")


def until(page: Page, elem_id: str, pattern: str) -> str:
    """Wait until an element's text matches; returns it."""
    matches = """([id, pattern]) => {
        const element = document.getElementById(id);
        return element && new RegExp(pattern, 's').test(element.innerText);
    }"""
    try:
        page.wait_for_function(matches, arg=[elem_id, pattern])
    except PlaywrightTimeoutError:
        raise AssertionError(f"#{elem_id} never said {pattern!r}; it says {text(page, elem_id)!r}") from None
    return text(page, elem_id)


def until_answer(page: Page, column: str, pattern: str) -> None:
    """Wait until the answer in a column of Compare matches, trace and figures left aside."""
    matches = """([column, pattern]) => {
        const answer = document.querySelector(`#compare-${column} .answer`);
        return answer && new RegExp(pattern, 's').test(answer.textContent.trim());
    }"""
    try:
        page.wait_for_function(matches, arg=[column, pattern])
    except PlaywrightTimeoutError:
        said = text(page, f"compare-{column}")
        raise AssertionError(f"{column} never answered {pattern!r}; it says {said!r}") from None


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).first.click()
    page.wait_for_selector(f"#tab-{name.lower()}")


def fill(page: Page, elem_id: str, value) -> None:
    """Type into a text or number field."""
    page.fill(f"#{elem_id} textarea, #{elem_id} input:not([type=range])", str(value))


def choose(page: Page, elem_id: str, option: str) -> None:
    page.locator(f"#{elem_id} input").click()
    page.get_by_role("option", name=re.compile(option)).click()


def unfold(page: Page, elem_id: str) -> None:
    page.locator(f"#{elem_id} button").first.click()


def drag(page: Page, t: float, release: bool = True) -> None:
    box = page.locator(SLIDER).bounding_box()
    y = box["y"] + box["height"] / 2

    def x(value: float) -> float:
        """The middle of the thumb."""
        return box["x"] + 12 + (box["width"] - 24) * value

    page.mouse.move(x(float(page.input_value(SLIDER))), y)
    page.mouse.down()
    page.mouse.move(x(t), y, steps=4)
    if release:
        page.mouse.up()


def answered(page: Page) -> str:
    """Wait for Compare's answers; returns its status line."""
    return until(page, "compare-status", r" in \d+\.\d+ s")


def toast(page: Page) -> str:
    page.wait_for_selector(".toast-body")
    return page.inner_text(".toast-body")


def plotted(page: Page, elem_id: str) -> int:
    """How many points a chart shows."""
    page.wait_for_selector(f"#{elem_id} .js-plotly-plot .main-svg")
    return page.evaluate(POINTS, elem_id)
