"""Models: the list of presets, what a check reports, and a load that fails."""

import re

from browser.driver import choose, fill, open_tab, text, until
from conftest import TINY

ROW = "#models-list [role=radio]"


def test_a_failed_load_is_not_above_every_tab_and_nothing_stays_below_the_buttons(tiny, visit):
    """PAGE m14: a red error on top of every tab, and "The line above the tabs says how far it is" below."""
    page = visit(tiny.url)
    until(page, "models-status", "tiny is ready")
    open_tab(page, "Models")
    fill(page, "models-instruct", "/nonsense")
    page.click("#models-load")
    said = until(page, "models-outcome", "/nonsense is neither an existing folder nor a Hub id")
    assert "tiny is still loaded" in said
    assert re.fullmatch(r"tiny is ready.*", until(page, "models-status", "tiny is ready"))
    assert "above the tabs" not in page.inner_text("#tab-models")
    open_tab(page, "Loop")
    assert not page.get_by_text("/nonsense").is_visible()
    open_tab(page, "Models")
    fill(page, "models-instruct", "presets/tiny/instruct")
    page.click("#models-load")
    page.wait_for_function("() => document.querySelector('#models-outcome').innerText.trim() === ''")
    until(page, "models-status", "tiny is ready")


def test_the_same_folder_on_both_sides_is_remarked_on(tiny, visit):
    """PAGE m15: "compatible", and all angles were 0."""
    page = visit(tiny.url)
    until(page, "models-status", "tiny is ready")
    open_tab(page, "Models")
    fill(page, "models-thinking", TINY / "instruct")
    page.click("#models-check")
    report = until(page, "models-report", "What is odd")
    assert "both sides are the same weights" in report


def test_a_row_of_the_list_chooses_its_preset(tiny, visit):
    page = visit(tiny.url)
    open_tab(page, "Models")
    page.wait_for_selector(ROW)
    assert page.locator(ROW).count() >= 20
    assert page.get_attribute(f"{ROW}[aria-checked=true]", "data-name") == "tiny"
    row = page.locator(f"{ROW}[data-name=glm4_9b]")
    assert re.search(r"AIME 2026\s+2 × 19 GB\s+12 GB card\s+✗ no NVIDIA card", row.inner_text())
    assert "✓ fits" in page.locator(f"{ROW}[data-name=tiny]").inner_text()
    row.click()
    instruct = "#models-instruct textarea, #models-instruct input"
    page.wait_for_function("s => document.querySelector(s).value === 'zai-org/GLM-4-9B-0414'", arg=instruct)
    assert page.input_value("#models-preset input") == "glm4_9b"
    page.wait_for_selector(f"{ROW}[data-name=glm4_9b][aria-checked=true]")
    page.reload()  # what was chosen is still chosen, in the list as well
    page.wait_for_selector(f"{ROW}[data-name=glm4_9b][aria-checked=true]")
    choose(page, "models-preset", "^tiny$")
    page.wait_for_selector(f"{ROW}[data-name=tiny][aria-checked=true]")
    page.wait_for_function("s => document.querySelector(s).value === 'presets/tiny/instruct'", arg=instruct)


def test_arrows_move_the_choice_of_the_list(tiny, visit):
    page = visit(tiny.url)
    open_tab(page, "Models")
    page.focus(f"{ROW}[aria-checked=true]")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(f"{ROW}[data-name=smol][aria-checked=true]")
    assert page.evaluate("() => document.activeElement.dataset.name") == "smol"


def test_a_check_is_a_report_with_memory_as_bars(tiny, visit):
    page = visit(tiny.url)
    until(page, "models-status", "tiny is ready")
    open_tab(page, "Models")
    page.click("#models-check")
    report = until(page, "models-report", "Memory on this machine")
    assert re.search("compatible.*What it is.*835,840 parameters.*opens the trace", report, re.S)
    bars = page.locator(".memory .phase")
    names = [bars.nth(i).locator("b").inner_text() for i in range(bars.count())]
    assert names == ["Think", "Measure", "Distil", "Compare", "Export", "Disk"]
    assert bars.first.locator(".bar i").first.bounding_box()["width"] > 1
    assert text(page, "models-outcome").strip() == ""
