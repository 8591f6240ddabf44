"""How fast the page is: first paint against a bare Gradio page, slider to text, other tabs while a loop runs.

    python bench/ui.py [--repeats 5] [--only paint|live|pair] [--size 135M]

Everything in Chromium, both pages in the same run, taking turns. "Start to paint" begins when python is
started. "pair": a random pair of real size answers one question in Compare and, in turn, in a process of its
own, with the threads that each takes by itself. Last line: JSON.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
BARE = """
import gradio as gr
with gr.Blocks() as page:
    gr.Markdown('hello')
page.launch(server_port=PORT, quiet=True)
"""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]
VIEWPORT = {"width": 1280, "height": 900}
OTHER_PAGES = 9
SLIDER = "#compare-t input[type=range]"
TABS = {  # and what shows that one is open
    "Models": "#models-check",
    "Explore": "#explore-sweep-start",
    "Export": "#export-start",
    "Loop": "#loop-run",
    "Compare": "#compare-run",
}
PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
READY = "() => /is ready/.test(document.querySelector('#models-status')?.innerText)"
ANSWERED = "() => / in \\d+\\.\\d+ s/.test(document.querySelector('#compare-status')?.innerText)"
RUNNING = "() => /distil|think/.test(document.querySelector('#loop-progress').innerText)"
STOPPED = "() => /stopped/.test(document.querySelector('#loop-progress').innerText)"
WATCH_BLEND = """() => {
  const card = document.querySelector('#compare-blend');
  const before = card.innerText;
  let began;
  window.took = null;
  const released = () => { began = performance.now(); };
  window.addEventListener('pointerup', released, {once: true, capture: true});
  const look = () => {
    if (began && card.innerText !== before) window.took = performance.now() - began;
    else requestAnimationFrame(look);
  };
  look();
}"""


# ---- a page's process


@contextmanager
def serving(folder: str, bare: bool, *flags: str) -> Iterator[str]:
    """Start a page in `folder`; gives its address at once, before anything answers there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(ROOT / "app.py"), "--port", str(port), *flags]
    if bare:
        command = ["-c", BARE.replace("PORT", str(port))]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()


def wait(url: str) -> None:
    """Return once the address answers; a browser would give up at the first refusal."""
    port = int(url.rstrip("/").rsplit(":", 1)[1])
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)


# ---- first paint


def first_paint(browser: Browser, bare: bool) -> dict[str, float]:
    """Seconds from starting python, and from opening the address, to the first contentful paint.

    And to what the page is for: its text, or the slider.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with serving(folder, bare) as url:
            wait(url)
            context = browser.new_context(viewport=VIEWPORT)
            page = context.new_page()
            opened = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.wait_for_function(PAINTED, polling=20)
            paint = page.evaluate(PAINTED) / 1000
            page.wait_for_selector("text=hello" if bare else SLIDER)
            usable = time.perf_counter()
            context.close()
    return {
        "start_to_paint": opened - began + paint,
        "open_to_paint": paint,
        "start_to_usable": usable - began,
        "open_to_usable": usable - opened,
    }


def first_paints(browser: Browser, repeats: int) -> dict[str, dict[str, float]]:
    """Medians of both pages, and their ratio."""
    first_paint(browser, bare=True)  # this one and the next fill the caches of the disk and of Chromium
    first_paint(browser, bare=False)
    bare_rows = []
    studio_rows = []
    for _ in range(repeats):  # taking turns
        bare_rows.append(first_paint(browser, bare=True))
        studio_rows.append(first_paint(browser, bare=False))
    bare = medians(bare_rows)
    studio = medians(studio_rows)
    return {"bare": bare, "studio": studio, "ratio": {key: studio[key] / bare[key] for key in bare}}


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: median(row[key] for row in rows) for key in rows[0]}


# ---- slider and tabs


def slider_to_text(page: Page) -> float:
    """Seconds from letting go of the slider to the first new text of the blend."""
    box = page.locator(SLIDER).bounding_box()
    middle = box["y"] + box["height"] / 2
    target = 0.9 if float(page.input_value(SLIDER)) < 0.5 else 0.1
    page.mouse.move(box["x"] + box["width"] * (1 - target), middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * target, middle, steps=3)
    page.evaluate(WATCH_BLEND)
    page.mouse.up()
    page.wait_for_function("() => window.took !== null")
    took = page.evaluate("() => window.took") / 1000
    page.wait_for_timeout(900)  # let the answer end before the next move
    return took


def tab_latency(page: Page, name: str) -> float:
    began = time.perf_counter()
    open_tab(page, name)
    page.wait_for_selector(TABS[name], state="visible")
    return time.perf_counter() - began


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).first.click()


def tab_latencies(page: Page) -> dict[str, float]:
    return {name: tab_latency(page, name) for name in TABS}


def latencies(page: Page, repeats: int) -> dict[str, dict[str, float]]:
    times = {"slider_to_text": [slider_to_text(page) for _ in range(repeats)]}
    rows = [tab_latencies(page) for _ in range(repeats)]
    for name in TABS:
        times[name] = [row[name] for row in rows]
    return {name: {"median": median(values), "worst": max(values)} for name, values in times.items()}


def live(browser: Browser, repeats: int) -> dict[str, dict]:
    """Slider and tabs on an idle page, then beside a loop, then beside nine more pages that follow it."""
    with tempfile.TemporaryDirectory() as folder, serving(folder, bare=False) as url:
        wait(url)
        page = browser.new_page(viewport=VIEWPORT)
        page.goto(url)
        page.wait_for_function(ANSWERED, timeout=120_000)
        tab_latencies(page)  # once before: a tab is drawn when it is first opened
        idle = latencies(page, repeats)
        start_loop(page)
        busy = latencies(page, repeats)
        for _ in range(OTHER_PAGES):
            other = browser.new_context(viewport=VIEWPORT).new_page()
            other.goto(f"{url}#loop")
            other.wait_for_selector("#loop-progress .message b", timeout=120_000)
        crowded = latencies(page, repeats)
        stop_loop(page)
    return {"idle": idle, "while_a_loop_runs": busy, "beside_nine_more_pages": crowded}


def start_loop(page: Page) -> None:
    open_tab(page, "Loop")
    page.click("#loop-start")
    page.wait_for_function(RUNNING, timeout=120_000)
    open_tab(page, "Compare")
    page.wait_for_timeout(500)  # until Compare shows


def stop_loop(page: Page) -> None:
    """The loop's process would outlive the page."""
    open_tab(page, "Loop")
    page.click("#loop-stop")
    page.wait_for_function(STOPPED, timeout=60_000)


# ---- a pair of real size

QUESTION = "Ann has 6 apples. She buys 5 bags of 4 apples and gives 7 to Tom. How many has she now? " * 3
TOKENS = 48
WATCH_ANSWER = """() => {
  const tokens = () => {
    const shown = /([0-9,]+) token/.exec(document.querySelector('#compare-blend footer').textContent);
    return shown ? Number(shown[1].replaceAll(',', '')) : 0;
  };
  const done = () => / in /.test(document.querySelector('#compare-status').innerText);
  window.seen = {};
  const began = performance.now();
  let blank = false;  // the old answer has gone
  const look = () => {
    const count = tokens();
    blank ||= count === 0;
    if (blank && count && !window.seen.first) window.seen.first = [performance.now() - began, count];
    const grown = window.seen.first && count > window.seen.first[1];
    if (grown && done()) window.seen.last = [performance.now() - began, count];
    else setTimeout(look, 30);
  };
  look();
}"""


def in_terminal(preset_file: str) -> None:
    """Answer the question at three points in this process, and print how long it took."""
    from thinkswitch import evaluate, rounds
    from thinkswitch.generate import generate
    from thinkswitch.preset import load_preset
    from thinkswitch.weights.live_blend import Blend
    from thinkswitch.weights.pair import open_pair_of

    preset = load_preset(preset_file)
    pair = open_pair_of(preset)
    blend = Blend(pair)
    start = rounds.start(pair)
    rows = [evaluate.question(pair, preset, QUESTION, t, start.point(t)) for t in (0, 0.5, 1)]
    taken = []
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        chunks = generate(blend, pair.instruct.tokenizer, rows, set())
        came = [(time.perf_counter() - began, chunk.tokens) for chunk in chunks]
        taken.append(speeds(came[0], came[-1]))
    print(json.dumps(taken[-1]))


def speeds(first: tuple[float, int], last: tuple[float, int]) -> dict[str, float]:
    """From (seconds, tokens of a column) at the first words and at the end."""
    return {"first_word": first[0], "tokens_per_second": (last[1] - first[1]) / (last[0] - first[0])}


def on_page(page: Page) -> dict[str, float]:
    page.evaluate(WATCH_ANSWER)
    page.click("#compare-run")
    page.wait_for_function("() => window.seen.last", timeout=600_000, polling=250)
    seen = page.evaluate("() => window.seen")
    (first, first_tokens), (last, last_tokens) = seen["first"], seen["last"]
    page.wait_for_timeout(4000)  # until the curve is drawn
    return speeds((first / 1000, first_tokens), (last / 1000, last_tokens))


def real_pair(browser: Browser, size: str, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds to the first word and tokens/s of a column, in the page and in a terminal, taking turns."""
    from common import random_pair

    with random_pair(size) as pair, tempfile.TemporaryDirectory() as folder:
        sides = {"instruct": str(pair.instruct.folder), "thinking": str(pair.thinking.folder)}
        limits = {"instruct_tokens": TOKENS, "think_tokens": TOKENS, "greedy": True}
        preset = Path(folder) / "pair.yaml"
        preset.write_text(json.dumps({"name": size, **sides, **limits}), "utf-8")  # JSON is YAML, too
        pages = []
        terminals = []
        with serving(folder, False, "--preset", str(preset)) as url:
            wait(url)
            page = browser.new_page(viewport=VIEWPORT)
            page.goto(url)
            page.wait_for_function(READY, timeout=120_000)
            page.fill("#compare-prompt textarea", QUESTION)
            on_page(page)  # the first one warms up
            for _ in range(repeats):
                pages.append(on_page(page))
                command = [sys.executable, __file__, "--terminal", str(preset)]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                terminals.append(json.loads(said.splitlines()[-1]))
    page, terminal = medians(pages), medians(terminals)
    return {"page": page, "terminal": terminal, "ratio": {key: page[key] / terminal[key] for key in page}}


# ---- the table


def shown(name: str, value: float | dict[str, float]) -> str:
    if isinstance(value, float):
        return f"{name} {value:.3f}"
    return f"{name} {value['median']:.3f} (worst {value['worst']:.3f})"


def main() -> None:
    flag = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag.add_argument("--repeats", type=int, default=5)
    flag.add_argument("--only", choices=("paint", "live", "pair"))
    flag.add_argument("--size", default="135M", help="of the random pair")
    flag.add_argument("--terminal", metavar="PRESET", help=argparse.SUPPRESS)
    args = flag.parse_args()
    if args.terminal:
        in_terminal(args.terminal)
        return
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        result = {}
        if args.only in (None, "paint"):
            result |= first_paints(browser, args.repeats)
        if args.only in (None, "live"):
            result |= live(browser, args.repeats)
        if args.only in (None, "pair"):
            result |= real_pair(browser, args.size, args.repeats)
        browser.close()
    for name, row in result.items():
        print(f"{name:20}", "  ".join(shown(key, value) for key, value in row.items()))
    figures = {"python": platform.python_version(), "cores": os.cpu_count(), "seconds": result}
    print(json.dumps({"bench": "ui", **figures}))


if __name__ == "__main__":
    main()
