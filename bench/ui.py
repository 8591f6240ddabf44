"""How fast the page is: first paint against a bare Gradio page, slider to text, other tabs while a loop runs.

    python bench/ui.py [--repeats 5]

Everything in Chromium, both pages in the same run, taking turns. "Start to paint" begins when python is
started. Last line: JSON.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

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
SLIDER = "#compare-t input[type=range]"
PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def start(folder: str, bare: bool) -> tuple[subprocess.Popen, str]:
    """The process at once; the address it will answer at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-c", BARE.replace("PORT", str(port))] if bare else [str(ROOT / "app.py"), "--port", str(port)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return process, f"http://127.0.0.1:{port}/"


def wait(url: str) -> None:
    port = int(url.rstrip("/").rsplit(":", 1)[1])
    while True:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)


def first_paint(browser, bare: bool) -> dict:
    """Seconds: from starting python, and from opening the address, to the first contentful paint.

    And to what a page is for.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process, url = start(folder, bare)
        try:
            wait(url)
            context = browser.new_context(viewport=dict(width=1280, height=900))
            page = context.new_page()
            opened = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.wait_for_function(PAINTED, polling=20)
            paint = page.evaluate(PAINTED) / 1000
            page.wait_for_selector("text=hello" if bare else SLIDER)
            usable = time.perf_counter()
            context.close()
            return dict(
                start_to_paint=opened - began + paint,
                open_to_paint=paint,
                start_to_usable=usable - began,
                open_to_usable=usable - opened,
            )
        finally:
            process.kill()
            process.wait()


def answered(page) -> None:
    page.wait_for_function(
        "() => / in \\d+\\.\\d+ s/.test(document.querySelector('#compare-status')?.innerText)",
        timeout=120_000,
    )


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


def slider_to_text(page) -> float:
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
    page.wait_for_timeout(900)
    return took


def tab_latency(page, name: str, shows: str) -> float:
    began = time.perf_counter()
    page.get_by_role("tab", name=name).first.click()
    page.wait_for_selector(shows, state="visible")
    return time.perf_counter() - began


def tabs(page) -> dict[str, float]:
    return {
        name: tab_latency(page, name, shows)
        for name, shows in (
            ("Models", "#models-check"),
            ("Explore", "#explore-sweep-start"),
            ("Export", "#export-start"),
            ("Loop", "#loop-start"),
            ("Compare", "#compare-run"),
        )
    }


def live(browser, repeats: int) -> dict:
    """Slider and tabs on an idle page, then while a loop runs."""
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(folder, bare=False)
        try:
            wait(url)
            page = browser.new_page(viewport=dict(width=1280, height=900))
            page.goto(url)
            answered(page)
            tabs(page)
            idle = latencies(page, repeats)
            page.get_by_role("tab", name="Loop").first.click()
            page.click("#loop-start")
            page.wait_for_function(
                "() => /distil|think/.test(document.querySelector('#loop-progress').innerText)",
                timeout=120_000,
            )
            page.get_by_role("tab", name="Compare").first.click()
            page.wait_for_timeout(500)
            busy = latencies(page, repeats)
            page.get_by_role("tab", name="Loop").first.click()
            page.click("#loop-stop")
            page.wait_for_function(
                "() => /stopped/.test(document.querySelector('#loop-progress').innerText)", timeout=60_000
            )
            return dict(idle=idle, while_a_loop_runs=busy)
        finally:
            process.kill()
            process.wait()


def latencies(page, repeats: int) -> dict:
    slider = [slider_to_text(page) for _ in range(repeats)]
    rows = [tabs(page) for _ in range(repeats)]
    times = dict(slider_to_text=slider, **{name: [row[name] for row in rows] for name in rows[0]})
    return {name: dict(median=statistics.median(values), worst=max(values)) for name, values in times.items()}


def main() -> None:
    flag = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag.add_argument("--repeats", type=int, default=5)
    args = flag.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=FLAGS)
        first_paint(browser, True), first_paint(browser, False)  # caches of the disk and of Chromium
        pages = {name: [] for name in ("bare", "studio")}
        for _ in range(args.repeats):
            for name in pages:
                pages[name].append(first_paint(browser, name == "bare"))
        median = {
            name: {k: statistics.median(row[k] for row in rows) for k in rows[0]}
            for name, rows in pages.items()
        }
        result = dict(
            **median,
            ratio={k: median["studio"][k] / median["bare"][k] for k in median["bare"]},
            **live(browser, args.repeats),
        )
        browser.close()
    for name, row in result.items():
        print(
            f"{name:20}",
            "  ".join(
                f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v['median']:.3f} (worst {v['worst']:.3f})"
                for k, v in row.items()
            ),
        )
    print(
        json.dumps(dict(bench="ui", python=platform.python_version(), cores=os.cpu_count(), seconds=result))
    )


if __name__ == "__main__":
    main()
