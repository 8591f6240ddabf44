"""Photographs every tab of a running studio, light and dark, in three sizes; films the slider (slider.gif).

    ./start.sh --port 7860 &
    python dev/shots.py http://127.0.0.1:7860/ FOLDER

Renders the spectrum, takes a sweep of the newest round and looks at a sample first, so that there is
something to see.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

TABS = ("Models", "Loop", "Compare", "Explore", "Export")
SIZES = {
    "wide": {"width": 1280, "height": 720},
    "stage": {"width": 1920, "height": 1080},
    "narrow": {"width": 390, "height": 844},
}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]
ANSWERED = "() => / in \\d+\\.\\d+ s/.test(document.querySelector('#compare-status')?.innerText)"
RENDERED = "() => document.querySelectorAll('#compare-dots .axis button').length === 11"
FILM = {"width": 1280, "height": 720}
FRAME_MS, LAST_FRAME_MS = 450, 1800
SWEPT = "() => document.querySelector('#explore-sweep-stop').disabled"


def prepare(page: Page) -> None:
    """Sweep the pair, then the newest round if there is one."""
    page.wait_for_function(ANSWERED, timeout=120_000)
    open_tab(page, "Explore")
    rounds = page.locator("#explore-round input")
    for place in (0, 1):
        rounds.click()
        options = page.get_by_role("option")
        if options.count() <= place:
            return
        options.nth(place).click()
        page.click("#explore-sweep-start")
        page.wait_for_timeout(1500)  # until the sweep has started, so that its end can be seen
        page.wait_for_function(SWEPT, timeout=300_000)


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).first.click()


def photograph(page: Page, folder: Path, kind: str) -> None:
    page.wait_for_function(ANSWERED, timeout=120_000)
    for name in TABS:
        open_tab(page, name)
        if name == "Models":
            page.click("#models-check")
        if name == "Compare":
            page.click("#compare-spectrum")
            page.locator("#compare-thinking summary").click()
        page.wait_for_timeout(2500)  # until charts and answers are drawn
        page.screenshot(path=folder / f"{name.lower()}-{kind}.png", full_page=True)


def film(page: Page, file: Path) -> None:
    """The slider over a rendered spectrum, from 0 to 1, as a GIF."""
    page.wait_for_function(ANSWERED, timeout=120_000)
    for hint in page.locator("#hints .dismiss").all():
        hint.click()
    page.click("#compare-spectrum")
    page.wait_for_function(RENDERED, timeout=120_000)
    page.wait_for_selector("#compare-switch .main-svg")
    page.wait_for_timeout(3000)  # until the curve is fine
    frames = []
    for dot in page.locator("#compare-dots .axis button").all():
        dot.click()
        page.mouse.move(0, 0)
        page.wait_for_timeout(400)
        picture = Image.open(io.BytesIO(page.screenshot()))
        frames.append(picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    first, *others = frames
    first.save(file, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


def main(url: str, folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for theme in ("light", "dark"):
            for size, viewport in SIZES.items():
                page = browser.new_context(viewport=viewport).new_page()
                page.goto(f"{url}?__theme={theme}")
                if (theme, size) == ("light", "wide"):
                    prepare(page)
                photograph(page, Path(folder), f"{theme}-{size}")
        page = browser.new_context(viewport=FILM).new_page()
        page.goto(f"{url}?__theme=light")
        film(page, Path(folder) / "slider.gif")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
