"""The Compare tab: three answers, the slider, the spectrum, and two visitors at once."""

import re

import pytest

from browser.driver import (
    HOSTILE,
    SLIDER,
    answered,
    drag,
    fill,
    open_tab,
    text,
    toast,
    unfold,
    until,
    until_answer,
)


def test_the_page_is_up_before_torch_and_answers_by_itself(serve, visit):
    page = visit(serve().url)
    early = text(page, "models-status")
    assert "torch" in early or "ready" not in early
    until(page, "models-status", "tiny is ready.*835,840")
    answered(page)
    assert page.locator("#compare-instruct .answer menclose").count() == 1  # \boxed{…}, rendered
    assert "trace" not in text(page, "compare-instruct")
    assert "trace" in text(page, "compare-thinking") and "✓" in text(page, "compare-thinking")


def test_letting_go_of_the_slider_changes_the_blend_and_keeps_the_ends(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    ends = text(page, "compare-instruct"), text(page, "compare-thinking")
    drag(page, 0.1)
    low = until(page, "compare-blend", r"t = 0\.(0|1)\d?.*tokens/s")
    assert "trace" not in low  # it answers at once
    drag(page, 0.95)
    until(page, "compare-blend", r"t = 0\.9\d.*trace.*tokens/s")
    assert (text(page, "compare-instruct"), text(page, "compare-thinking")) == ends  # tokens and seconds, too


def test_the_keyboard_does_all_of_it(tiny, visit):
    """Gradio reports a slider's release for the mouse only; our script adds the keys. Enter runs."""
    page = visit(tiny.url)
    answered(page)
    page.locator(SLIDER).focus()
    page.keyboard.press("Home")
    until(page, "compare-blend", r"^instruct.*tokens/s")
    fill(page, "compare-prompt", "What is 2 + 3 + 4?")
    page.press("#compare-prompt textarea", "Enter")
    until_answer(page, "thinking", r"^9$")
    assert page.input_value("#compare-prompt textarea") == "What is 2 + 3 + 4?"


def test_example_chips_ask(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    chip = page.locator("#compare-examples button").nth(1)
    start = chip.inner_text()[:20]
    chip.click()
    starts = "start => document.querySelector('#compare-prompt textarea').value.startsWith(start)"
    page.wait_for_function(starts, arg=start)
    until(page, "compare-thinking", "[✓✗]")
    until_answer(page, "thinking", "^(yes|no|maybe)$")


def test_scrubbing_a_rendered_spectrum_needs_no_server(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    page.click("#compare-spectrum")
    until(page, "compare-status", "11 answers.* in ")
    asked = []

    def request(request):
        if "queue/join" in request.url:
            asked.append(request.url)

    page.on("request", request)
    seen = []
    for t in (0.1, 0.3, 0.6, 0.9):
        drag(page, t, release=False)
        seen.append(until(page, "compare-blend", rf"t = 0\.{round(10 * t)}\b"))
    moves = 4 * 4
    page.mouse.up()
    assert len(set(seen)) == 4 and "trace" not in seen[0] and "trace" in seen[3]
    assert len(asked) < moves  # the timers ask once a second; a decode per move would be more


def test_rendered_points_are_dots_that_can_be_clicked_and_played(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    assert not page.locator("#compare-dots").is_visible()
    page.click("#compare-spectrum")
    until(page, "compare-status", "11 answers.* in ")
    dots = page.locator("#compare-dots .axis button")
    labels = dots.evaluate_all("dots => dots.map(dot => dot.getAttribute('aria-label'))")
    assert [label.split(",")[0] for label in labels] == [f"t = {n / 10:g}" for n in range(11)]
    assert "thought" not in labels[0] and "right, thought" in labels[10]
    track = page.locator(SLIDER).bounding_box()
    for place, t in ((0, 0), (10, 1)):
        box = dots.nth(place).bounding_box()
        thumb = track["x"] + 12 + (track["width"] - 24) * t
        assert box["x"] + box["width"] / 2 == pytest.approx(thumb, abs=1)
    dots.nth(3).click()
    until(page, "compare-blend", r"^blend · t = 0\.3\b")
    assert float(page.input_value(SLIDER)) == 0.3
    page.locator(SLIDER).focus()
    page.keyboard.press("Space")
    until(page, "compare-blend", "^thinking")
    assert float(page.input_value(SLIDER)) == 1
    page.locator("#compare-prompt textarea").press_sequentially(" 5")
    page.wait_for_selector("#compare-dots", state="hidden")  # they are of another prompt


def test_the_strip_shows_where_this_prompt_switches(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    page.wait_for_selector("#compare-switch .js-plotly-plot .main-svg")
    y = page.evaluate(
        "() => Array.from(document.querySelector('#compare-switch .js-plotly-plot')._fullData[0].y)"
    )
    assert len(y) >= 5 and all(0 <= p <= 1 for p in y)
    assert y[0] < 0.01 and y[-1] > 0.99


@pytest.mark.parametrize("width", [1280, 1920, 390])
def test_the_slider_is_the_axis_of_the_curve(tiny, visit, width):
    """The slider was 650 pixels wide and the curve below it 1100 (PAGE M2)."""
    page = visit(tiny.url, width=width)
    answered(page)
    page.wait_for_selector("#compare-switch .js-plotly-plot .main-svg")
    curve = page.locator("#compare-switch .nsewdrag").bounding_box()
    slider = page.locator(SLIDER).bounding_box()
    thumb = 12  # half of it
    assert slider["x"] + thumb == pytest.approx(curve["x"], abs=1)
    assert slider["x"] + slider["width"] - thumb == pytest.approx(curve["x"] + curve["width"], abs=1)


@pytest.mark.parametrize("typed, t", [("7", 1), ("-1", 0), ("0.33", 0.33), ("", 0.5)])
def test_the_box_of_t_takes_enter_and_refuses_politely(tiny, visit, typed, t):
    """7 was an error of Gradio's with a traceback in the log; Enter did nothing (PAGE M4)."""
    page = visit(tiny.url)
    answered(page)
    box = page.locator("#compare-t input[type=number]")
    box.fill(typed)
    box.press("Enter")
    until(page, "compare-blend", {0: "^instruct", 1: "^thinking"}.get(t, rf"^blend · t = {t}\b"))
    assert float(box.input_value()) == float(page.input_value(SLIDER)) == t
    assert page.locator(".toast-body").count() == 0
    assert "Traceback" not in tiny.log


def test_an_answer_is_rendered_or_raw_and_can_be_copied(tiny, visit):
    r"""`\boxed{17}` was the first thing that a newcomer saw (PAGE M3)."""
    page = visit(tiny.url)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answered(page)
    until_answer(page, "thinking", r"^\d+$|^(yes|no|maybe)$")
    page.click("#compare-blend .view")
    until_answer(page, "thinking", r"^\\boxed\{")
    page.reload()
    answered(page)
    until_answer(page, "thinking", r"^\\boxed\{")  # the choice is kept
    page.click("#compare-thinking .copy")
    page.wait_for_function("() => document.querySelector('#compare-thinking .copy').textContent === 'copied'")
    raw = page.inner_text("#compare-thinking .answer")
    assert page.evaluate("() => navigator.clipboard.readText()") == raw
    page.click("#compare-thinking .view")
    until_answer(page, "thinking", r"^\d+$|^(yes|no|maybe)$")


def test_a_page_that_opens_before_the_pair_is_there_gets_its_curve(serve, visit):
    """It stayed empty until somebody clicked, on every first visit after a start."""
    page = visit(serve().url)
    page.wait_for_selector("#compare-switch .js-plotly-plot .main-svg")


def test_a_reload_brings_back_what_was_set(tiny, visit):
    """What is set is encrypted in the browser's storage: a change there is all that can be seen of it."""
    page = visit(tiny.url)
    answered(page)
    stored = (
        "() => JSON.stringify(Object.entries(localStorage).filter(([key]) => key.startsWith('thinkswitch')))"
    )

    def written(change) -> None:
        before = page.evaluate(stored)
        change()
        page.wait_for_function(f"before => ({stored})() !== before", arg=before)

    written(lambda: fill(page, "compare-prompt", "What is 9 - 4 + 7?"))
    written(lambda: page.locator(SLIDER).fill("0.8"))
    page.reload()
    restored = "() => document.querySelector('#compare-prompt textarea')?.value === 'What is 9 - 4 + 7?'"
    page.wait_for_function(restored)
    assert float(page.input_value(SLIDER)) == 0.8
    until_answer(page, "thinking", r"^12$")


def test_an_empty_prompt_is_refused_in_one_sentence(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    fill(page, "compare-prompt", "  ")
    page.click("#compare-run")
    assert "the prompt is empty" in toast(page)
    until(page, "compare-status", "the prompt is empty")  # it stays when the toast has gone


def test_compare_uses_the_schedule_of_explore(tiny, visit):
    """With every kind at 0 the blend answers at once even at t = 0.9."""
    page = visit(tiny.url)
    answered(page)
    open_tab(page, "Explore")
    for kind in ("attention", "mlp", "norm", "embedding"):
        fill(page, f"schedule-{kind}", 0)
        page.press(f"#schedule-{kind} input[type=number]", "Tab")
    until(page, "schedule-status", "this schedule")
    open_tab(page, "Compare")
    drag(page, 0.9)
    until(page, "compare-status", "schedule of Explore: .* in ")
    assert "trace" not in text(page, "compare-blend")


def tokens(page) -> int:
    shown = re.search(r"([\d,]+) tokens", text(page, "compare-thinking"))
    return int(shown[1].replace(",", ""))


def test_two_visitors_do_not_see_each_other_and_stop_only_their_own(endless, visit):
    a, b = visit(endless.url), visit(endless.url)
    until(a, "models-status", "is ready")
    for page, word in ((a, "alpha"), (b, "beta")):
        fill(page, "compare-prompt", word)
        page.click("#compare-run")
        until(page, "compare-thinking", r"[1-9]\d+ tokens")
    assert [page.input_value("#compare-prompt textarea") for page in (a, b)] == ["alpha", "beta"]
    b.click("#compare-stop:not([disabled])")
    until(b, "compare-thinking", "stopped")
    before = tokens(a)
    grew = """before => {
        const shown = /([0-9,]+) tokens/.exec(document.getElementById('compare-thinking').innerText);
        return Number(shown[1].replaceAll(',', '')) > before;
    }"""
    a.wait_for_function(grew, arg=before)
    assert "stopped" not in text(a, "compare-thinking")
    a.keyboard.press("Escape")
    until(a, "compare-thinking", "stopped")


def test_hostile_text_stays_text(endless, visit):
    """The vocabulary of this pair, and so its answers, hold scripts, images, links, templates, open tags."""
    page = visit(endless.url)
    until(page, "models-status", "is ready")
    unfold(page, "compare-sampling")
    page.get_by_label("custom", exact=True).check()
    fill(page, "compare-limit", 600)
    fill(page, "compare-prompt", "".join(HOSTILE))
    page.click("#compare-run")
    answered(page)
    columns = ("compare-instruct", "compare-blend", "compare-thinking")
    for raw in (False, True):
        if raw:
            page.click("#compare-blend .view")
        assert page.evaluate("() => window.hacked") is None
        for column in columns:
            harmful = page.locator(f"#{column}").locator("img, script, style, b, a:not([href^=http])")
            assert harmful.count() == 0
    said = "".join(
        page.evaluate("id => document.getElementById(id).textContent", column) for column in columns
    )
    assert sum(hostile in said for hostile in HOSTILE) >= 3, said[:500]
    assert page.locator("#compare-run").is_visible()


TABS = {
    "Models": "#models-check",
    "Loop": "#loop-start",
    "Explore": "#explore-angles .main-svg",
    "Export": "#export-start",
    "Compare": SLIDER,
}
FITS = "() => document.documentElement.scrollWidth <= window.innerWidth + 1"
UNNAMED = """() => [...document.querySelectorAll('button, input, textarea, select')]
    .filter(e => e.offsetParent && e.type !== 'hidden' && !e.closest('.table-wrap'))
    .filter(e => !(e.innerText?.trim() || e.ariaLabel || e.title || e.labels?.length
        || e.getAttribute('aria-labelledby') || e.placeholder))
    .map(e => e.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize("width,dark", [(1280, True), (390, False), (390, True)])
def test_every_tab_fits_and_is_labelled(tiny, visit, width, dark):
    page = visit(tiny.url, width=width, height=844, dark=dark)
    until(page, "models-status", "is ready")
    for name, landmark in TABS.items():
        open_tab(page, name)
        page.wait_for_selector(landmark)
        page.wait_for_function(FITS)
        assert page.evaluate(UNNAMED) == [], name
    assert page.evaluate("() => document.body.classList.contains('dark')") is dark
