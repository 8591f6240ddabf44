"""The header on every tab: theme, hints, tabs with an address, the machine's load, where the keyboard is."""

import re
import urllib.request

import pytest

from browser.driver import SLIDER, answered, drag, open_tab, text, until

OPEN_TAB = "() => document.querySelector('#tabs [role=tab][aria-selected=true]')?.dataset.tabId"
DARK = "() => document.body.classList.contains('dark')"
HINTS = "() => [...document.querySelectorAll('.hint')].filter(h => h.offsetParent).map(h => h.dataset.hint)"


def until_tab(page, name: str) -> None:
    page.wait_for_function(f"name => ({OPEN_TAB})() === name", arg=name)


def test_a_reload_stays_on_the_tab_and_back_goes_to_the_one_before(tiny, visit):
    """PAGE m10: after a reload the page was on Compare, and Back left the app for about:blank."""
    page = visit(tiny.url)
    assert page.evaluate("() => location.hash") == ""
    open_tab(page, "Loop")
    open_tab(page, "Explore")
    assert page.evaluate("() => location.hash") == "#explore"
    page.reload()
    until_tab(page, "explore")
    page.go_back()
    until_tab(page, "loop")
    page.go_back()
    until_tab(page, "compare")
    assert page.url == tiny.url
    page.go_forward()
    until_tab(page, "loop")
    page.evaluate("() => { location.hash = '#nothing'; }")
    until_tab(page, "loop")


def test_an_address_names_its_tab_and_keeps_the_theme_asked_for(tiny, visit):
    page = visit(tiny.url, dark=True)
    open_tab(page, "Export")
    assert page.url.endswith("?__theme=dark#export")
    page.reload()
    until_tab(page, "export")
    page.wait_for_function(DARK)


def test_the_theme_is_the_system_s_until_the_switch_is_used_and_then_remembered(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    page.wait_for_selector("#compare-switch .js-plotly-plot .main-svg")
    ink = "() => document.querySelector('#compare-switch .js-plotly-plot')._fullLayout.font.color"
    assert not page.evaluate(DARK) and page.evaluate(ink) == "#3c4654"
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(DARK)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"() => !({DARK})()")
    page.click("#theme-switch")
    page.wait_for_function(DARK)
    page.wait_for_function(f"() => ({ink})() === '#c9ced6'")  # charts stay legible
    page.reload()
    page.wait_for_function(DARK)
    page.emulate_media(color_scheme="dark")
    page.click("#theme-switch")
    page.wait_for_function(f"() => !({DARK})()")
    page.reload()
    page.wait_for_selector(SLIDER)
    assert not page.evaluate(DARK)  # although the system's is dark now


def test_three_hints_on_the_first_visit_each_until_it_is_dismissed_or_done(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    assert page.evaluate(HINTS) == ["slider", "loop", "export"]
    bottom = page.locator("#hints").bounding_box()
    assert bottom["y"] + bottom["height"] <= page.locator("#tabs").bounding_box()["y"]  # it covers nothing
    page.click(".hint[data-hint=loop] .go")
    until_tab(page, "loop")
    assert len(page.evaluate(HINTS)) == 3
    page.click(".hint[data-hint=loop] .dismiss")
    assert page.evaluate(HINTS) == ["slider", "export"]
    open_tab(page, "Compare")
    drag(page, 0.7)
    page.wait_for_function(f"() => ({HINTS})().join() === 'export'")
    page.reload()
    page.wait_for_selector(SLIDER)
    assert page.evaluate(HINTS) == ["export"]
    page.click(".hint[data-hint=export] .dismiss")
    assert not page.locator("#first-steps").is_visible()
    page.reload()
    page.wait_for_selector(SLIDER)
    assert page.evaluate(HINTS) == [] and not page.locator("#first-steps").is_visible()


def test_the_header_names_the_pair_the_machine_and_the_papers(tiny, visit):
    page = visit(tiny.url)
    said = until(page, "models-status", "is ready.*float32")
    assert re.search(r"tiny is ready · 2 × 835,840 parameters · cpu, float32 · [\d.]+ [MG]B", said)
    assert re.search(r"CPU\s+\d+ %\s+Memory\s+\d+ %", text(page, "machine-load"))
    links = page.locator("#tools a")
    addresses = [links.nth(i).get_attribute("href") for i in range(links.count())]
    assert addresses == ["manual/", "https://arxiv.org/abs/2606.01080", "https://arxiv.org/abs/2510.10977"]
    assert all("noopener" in links.nth(i).get_attribute("rel") for i in range(links.count()))
    with urllib.request.urlopen(tiny.url + "favicon.ico") as answer:
        assert answer.headers["Content-Type"].startswith("image/svg+xml")
        assert b"#4c8fd6" in answer.read()


@pytest.mark.parametrize("dark", [False, True])
def test_the_keyboard_s_place_is_seen_on_the_slider_and_on_dropdowns(tiny, visit, dark):
    """PAGE m3: neither had a focus ring."""
    page = visit(tiny.url, dark=dark)
    answered(page)
    page.focus("#compare-prompt textarea, #compare-prompt input")
    ring = """selector => {
        const style = getComputedStyle(document.querySelector(selector));
        return [style.outlineStyle, parseFloat(style.outlineWidth)];
    }"""
    places = {SLIDER: SLIDER, "#compare-round input": "#compare-round"}
    for _ in range(30):
        page.keyboard.press("Tab")
        reached = [
            wanted
            for wanted in places
            if page.evaluate(
                "selector => document.activeElement === document.querySelector(selector)", wanted
            )
        ]
        for wanted in reached:
            assert page.evaluate(ring, places.pop(wanted)) == ["solid", 2], wanted
        if not places:
            return
    raise AssertionError(f"Tab never reached {list(places)}")


def test_a_list_that_the_keyboard_passes_does_not_stay_open(tiny, visit):
    """PAGE m2: Tab through Round left its list open over the curve, whatever was clicked then."""
    page = visit(tiny.url)
    answered(page)
    page.focus("#compare-round input")
    page.wait_for_selector("#compare-round [role=option]")
    page.keyboard.press("Tab")
    page.wait_for_selector("#compare-round [role=option]", state="detached")
    page.keyboard.press("Shift+Tab")
    page.wait_for_selector("#compare-round [role=option]")
    page.keyboard.press("Shift+Tab")
    page.wait_for_selector("#compare-round [role=option]", state="detached")


CONTRAST = """root => {
    const parse = (colour) => {
        const canvas = document.createElement('canvas').getContext('2d');
        canvas.fillStyle = '#000';
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const alpha = colour.startsWith('rgba') ? Number(colour.split(',')[3].slice(0, -1)) : 1;
        return alpha < 0.99 ? null : [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => rgb
        .map((c) => (c /= 255, c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            const found = colour !== 'transparent' && parse(colour);
            if (found) return found;
        }
        return [255, 255, 255];
    };
    const poor = [];
    for (const element of document.querySelectorAll(`${root} *`)) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.offsetParent || element.disabled) continue;
        const style = getComputedStyle(element);
        const [a, b] = [light(parse(style.color) || [0, 0, 0]), light(behind(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const large = parseFloat(style.fontSize) >= 24
            || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
        if (ratio < (large ? 3 : 4.5)) poor.push([element.textContent.trim().slice(0, 30), ratio.toFixed(2)]);
    }
    return poor;
}"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_of_the_header_and_of_models_has_contrast(tiny, visit, dark):
    """AA: 4.5, and 3 for large text, in both themes."""
    page = visit(tiny.url, dark=dark)
    until(page, "models-status", "is ready")
    open_tab(page, "Models")
    page.click("#models-check")
    until(page, "models-report", "compatible")
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # buttons fade from how they look under the pointer
    for part in ("#header", "#first-steps", "#tab-models"):
        assert page.evaluate(CONTRAST, part) == [], part
