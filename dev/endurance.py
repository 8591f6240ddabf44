"""Hours of a page that is used: a loop, visitors who ask, drag, sweep and look, and the memory that it takes.

    python dev/endurance.py [--minutes 120] [--every 10] [--visitors 3] [--seed 0]

Starts the app in a folder of its own. Each visitor in turn does something at random and waits until the page
shows it; one who waits longer than PATIENCE is dead. A loop is started whenever none runs. One visitor after
the other leaves now and then, and another comes. Prints the resident memory of the server and of the browser
every few minutes, and fails if a visitor died, a page logged an error, or the server wrote a traceback.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser.conftest import BROKEN_OFF, FLAGS  # noqa: E402
from browser.driver import SLIDER, Server, answered, drag, fill, open_tab, text, until  # noqa: E402
from thinkswitch import runs  # noqa: E402

PATIENCE = 120.0  # seconds
PAUSE = (1.0, 6.0)  # seconds between two actions
CHANCE_TO_LEAVE = 0.02
LOOP = {"rounds": 6, "prompts": 192, "held_out": 100}
QUESTIONS = [
    "Mia has 12 apples. She buys 3 bags of 7 apples. How many has she?",
    "Tom has 40 coins and loses 13. How many has he?",
    "What is 7 + 8?",
    "Ann had 25 pens, gave away 9 and found 4. How many has she now?",
]
MEGABYTE = 1 << 20


# ---- what a visitor does


def ask(page: Page, dice: random.Random) -> None:
    open_tab(page, "Compare")
    page.fill("#compare-prompt textarea", dice.choice(QUESTIONS))
    page.wait_for_selector("#compare-run:not([disabled])")
    page.click("#compare-run")
    answered(page)


def slide(page: Page, dice: random.Random) -> None:
    open_tab(page, "Compare")
    page.wait_for_selector(SLIDER)
    drag(page, round(dice.random(), 2))
    page.wait_for_timeout(300)
    until(page, "compare-status", r" in \d+\.\d+ s|^Rendered")


def render(page: Page, dice: random.Random) -> None:
    open_tab(page, "Compare")
    page.click("#compare-spectrum")
    page.wait_for_function("() => document.querySelectorAll('#compare-dots .axis button').length === 11")


def sweep(page: Page, dice: random.Random) -> None:
    open_tab(page, "Explore")
    page.wait_for_selector("#explore-angles .js-plotly-plot")
    if page.is_enabled("#explore-sweep-start"):  # else another visitor's goes on
        fill(page, "explore-problems", dice.choice([10, 20]))
        page.click("#explore-sweep-start")
    until(page, "explore-status", r"best|\d+ of \d+|[Ss]topp")


def follow(page: Page, dice: random.Random) -> None:
    """Look at a run's curves, at an older one's once in a while."""
    open_tab(page, "Loop")
    if page.input_value("#loop-run input"):
        until(page, "loop-progress", r"done|round|stopped|Starting|waiting")
    if dice.random() < 0.3:
        page.locator("#loop-run input").click()
        options = page.get_by_role("option")
        options.nth(dice.randrange(options.count())).click()
        page.wait_for_timeout(500)


def look_around(page: Page, dice: random.Random) -> None:
    for name in dice.sample(["Models", "Loop", "Compare", "Explore", "Export"], 3):
        open_tab(page, name)
        page.wait_for_timeout(300)


ACTIONS: list[Callable[[Page, random.Random], None]] = [ask, slide, render, sweep, follow, look_around]


def start_a_loop(server: Server, page: Page) -> None:
    open_tab(page, "Loop")
    page.wait_for_timeout(1500)  # until the tab is drawn
    if not page.is_visible("#loop-start"):
        page.locator("#loop-new button").first.click()
    for setting, value in LOOP.items():
        fill(page, f"knob-{setting}", value)
    count = len(server.runs)
    page.click("#loop-start:not([disabled])")
    until_true(lambda: len(server.runs) > count, page)


def until_true(true: Callable[[], bool], page: Page) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"it did not come; the page says {text(page, 'loop-refusal')!r}"
        page.wait_for_timeout(100)


# ---- the page, for hours


def come(browser: Browser, url: str, complaints: list[str]) -> Page:
    """A visitor in a browser context of their own."""

    def console(message) -> None:
        if message.type == "error" and not BROKEN_OFF.search(message.text):
            complaints.append(message.text)

    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.on("console", console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.wait_for_selector(SLIDER)
    answered(page)
    return page


def memory_line(minutes: float, server: Server, done: Counter[str]) -> str:
    process = psutil.Process(server.process.pid)
    pages = [child for child in psutil.Process().children(recursive=True) if "chrom" in child.name()]
    browser = sum(child.memory_info().rss for child in pages) // MEGABYTE
    own = process.memory_info().rss // MEGABYTE
    counts = ", ".join(f"{count} {name}" for name, count in sorted(done.items()))
    return (
        f"{minutes:5.0f} min  server {own} MB, {process.num_threads()} threads, {process.num_fds()} files"
        f"  browser {browser} MB  {len(server.runs)} runs  {counts}"
    )


def use(server: Server, browser: Browser, args: argparse.Namespace) -> list[str]:
    """Use the page until the time is over; returns what its pages complained of."""
    complaints: list[str] = []
    done: Counter[str] = Counter()
    dice = random.Random(args.seed)
    visitors = [come(browser, server.url, complaints) for _ in range(args.visitors)]
    began = time.monotonic()
    next_line = 0.0
    while (minutes := (time.monotonic() - began) / 60) < args.minutes:
        if minutes >= next_line:
            print(memory_line(minutes, server, done), flush=True)
            next_line += args.every
        place = dice.randrange(len(visitors))
        if not any(runs.running_pid(folder) for folder in server.runs):
            start_a_loop(server, visitors[place])
            done["loop"] += 1
        action = dice.choice(ACTIONS)
        action(visitors[place], dice)
        done[action.__name__] += 1
        if dice.random() < CHANCE_TO_LEAVE:
            visitors[place].context.close()
            visitors[place] = come(browser, server.url, complaints)
            done["came anew"] += 1
        visitors[place].wait_for_timeout(1000 * dice.uniform(*PAUSE))
    print(memory_line(minutes, server, done), flush=True)
    return complaints


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--minutes", type=float, default=120)
    flags.add_argument("--every", type=float, default=10, help="minutes between two lines")
    flags.add_argument("--visitors", type=int, default=3)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        server = Server(Path(folder))
        try:
            complaints = use(server, browser, args)
        finally:
            browser.close()
            server.close()
            tracebacks = server.log.count("Traceback")
            if tracebacks:
                print(server.log)
    if complaints or tracebacks:
        sys.exit("\n".join([f"{tracebacks} tracebacks", *complaints]))


if __name__ == "__main__":
    main()
