"""A schedule of Explore rules Compare, Sweep and Export: they say so, and let go of it."""

from browser.driver import SLIDER, answered, choose, fill, open_tab, text, until

NAME = "#schedule-name input"


def value_becomes(page, selector: str, value: str) -> None:
    js = "([selector, value]) => document.querySelector(selector)?.value === value"
    page.wait_for_function(js, arg=[selector, value])


def test_m7_a_schedule_in_force_is_named_truly_also_after_a_reload(tiny, visit):
    """Reloaded, the drop-down said "uniform" over other factors; an edit left the ablation's name there."""
    page = visit(tiny.url)
    answered(page)
    open_tab(page, "Explore")
    until(page, "explore-verdict", "SLERP and LERP")
    choose(page, "schedule-name", "last two thirds")
    value_becomes(page, "#schedule-embedding input", "0")
    open_tab(page, "Compare")
    until(page, "compare-schedule", "^Schedule: last two thirds – reset$")
    page.wait_for_timeout(500)  # the browser stores it
    page.reload()
    page.wait_for_selector(SLIDER)
    until(page, "compare-schedule", "last two thirds|depth curve")
    open_tab(page, "Explore")
    value_becomes(page, NAME, "last two thirds")
    fill(page, "schedule-mlp", "0.5")
    page.keyboard.press("Tab")
    value_becomes(page, NAME, "custom")
    open_tab(page, "Export")
    chip = until(page, "export-reset-schedule", "Schedule: MLP × 0.5, .*depth curve – reset")
    open_tab(page, "Compare")
    assert text(page, "compare-schedule") == chip


def test_m7_a_click_resets_the_schedule_for_good(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    open_tab(page, "Explore")
    until(page, "explore-verdict", "SLERP and LERP")
    choose(page, "schedule-name", "FFN only")
    value_becomes(page, "#schedule-norm input", "0")
    for tab, chip in (("Compare", "compare-schedule"), ("Export", "export-reset-schedule")):
        open_tab(page, tab)
        until(page, chip, "Schedule: FFN only")
    box, label = "#export-reset-schedule", "Schedule: FFN only – reset"
    fits = f"() => document.querySelector('{box}').scrollWidth <= document.querySelector('{box}').clientWidth"
    assert page.evaluate(fits), f"{label} runs over the edge of its button"
    page.click(box)
    page.wait_for_selector(box, state="hidden")
    page.wait_for_timeout(500)
    page.reload()
    answered(page)
    assert not page.is_visible("#compare-schedule")
    open_tab(page, "Explore")
    value_becomes(page, NAME, "uniform")
    value_becomes(page, "#schedule-norm input", "1")
