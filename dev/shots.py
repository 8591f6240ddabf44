"""Photographs every tab of a running studio, light and dark, wide and narrow.

    ./start.sh --port 7860 &
    python dev/shots.py http://127.0.0.1:7860/ FOLDER

Renders the spectrum, takes a sweep of the newest round and looks at a sample first, so that there is
something to see.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

TABS = ("Models", "Loop", "Compare", "Explore", "Export")
SIZES = {"wide": (1280, 860), "narrow": (390, 844)}


def prepare(page) -> None:
    page.wait_for_function(
        "() => / in \\d+\\.\\d+ s/.test(document.querySelector('#compare-status')?.innerText)",
        timeout=120_000,
    )
    page.get_by_role("tab", name="Explore").first.click()
    newest = page.locator("#explore-round input")
    for place in (0, 1):  # the pair, then the newest round
        newest.click()
        options = page.get_by_role("option")
        if options.count() <= place:
            return
        options.nth(place).click()
        page.click("#explore-sweep-start")
        page.wait_for_timeout(1500)
        page.wait_for_function(
            "() => document.querySelector('#explore-sweep-stop').disabled", timeout=300_000
        )


def photograph(page, folder: Path, kind: str) -> None:
    page.wait_for_function(
        "() => / in \\d+\\.\\d+ s/.test(document.querySelector('#compare-status')?.innerText)",
        timeout=120_000,
    )
    for name in TABS:
        page.get_by_role("tab", name=name).first.click()
        if name == "Models":
            page.click("#models-check")
        if name == "Compare":
            page.click("#compare-spectrum")
            page.locator("#compare-thinking summary").click()
        page.wait_for_timeout(2500)
        page.screenshot(path=folder / f"{name.lower()}-{kind}.png", full_page=True)


def main(url: str, folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        for theme in ("light", "dark"):
            for size, (width, height) in SIZES.items():
                page = browser.new_context(viewport=dict(width=width, height=height)).new_page()
                page.goto(f"{url}?__theme={theme}")
                if (theme, size) == ("light", "wide"):
                    prepare(page)
                photograph(page, Path(folder), f"{theme}-{size}")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
