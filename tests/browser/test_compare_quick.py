"""Compare under quick hands: whatever is clicked, the page shows what was asked last, and shows it whole.

Generators that were superseded before their first message emptied the columns, and requests were ordered by
the start of their threads. It depends on timing, so each test looks again after a while.
"""

import pytest

from browser.driver import SLIDER, answered, choose, fill, open_tab, text, unfold, until, until_answer

WHOLE = """blend => {
    const text = column => document.querySelector(`#compare-${column}`).innerText;
    const answered = ['instruct', 'blend', 'thinking'].every(c => /tokens.s/.test(text(c))
        && document.querySelector(`#compare-${c} .answer`).textContent);
    const title = document.querySelector('#compare-blend .title').innerText;
    return answered && title === blend && document.querySelector('#compare-stop').disabled;
}"""
SETTLED_MS = 1500  # a message that is late comes within this time


@pytest.fixture
def page(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    return page


@pytest.fixture
def busy_page(page):
    """Beside a sweep every decode waits for its turns."""
    open_tab(page, "Explore")
    fill(page, "explore-problems", 400)
    page.click("#explore-sweep-start")
    until(page, "explore-status", "Sweeping: [1-9]")
    open_tab(page, "Compare")
    yield page
    open_tab(page, "Explore")
    page.click("#explore-sweep-stop")
    page.wait_for_selector("#explore-sweep-stop[disabled]")


def click_slider(page, t: float) -> None:
    box = page.locator(SLIDER).bounding_box()
    page.mouse.click(box["x"] + 12 + (box["width"] - 24) * t, box["y"] + box["height"] / 2)


def eight_clicks(page) -> None:
    for t in (0.2, 0.7, 0.4, 0.9, 0.1, 0.6, 0.3, 0.8):
        click_slider(page, t)


def ten_arrows(page) -> None:
    page.locator(SLIDER).focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(40)


def title(page, column: str) -> str:
    return page.inner_text(f"#compare-{column} .title")


def blend_title(page) -> str:
    return f"blend · t = {float(page.input_value(SLIDER)):g}"


def assert_whole(page) -> None:
    """Every column answers what was asked last, and Stop is Stop."""
    page.wait_for_function(WHOLE, arg=blend_title(page))  # Stop alone may still be that of the click before
    page.wait_for_timeout(SETTLED_MS)
    assert (title(page, "instruct"), title(page, "thinking")) == ("instruct", "thinking")
    assert title(page, "blend") == blend_title(page)
    for column in ("instruct", "blend", "thinking"):
        assert page.inner_text(f"#compare-{column} .answer") and "tokens/s" in text(page, f"compare-{column}")
    assert "stopped" not in text(page, "compare-status") and " in " in text(page, "compare-status")
    assert page.inner_text("#compare-stop").strip().startswith("Stop")
    assert page.locator("#compare-stop").is_disabled()


@pytest.mark.parametrize("moves", [eight_clicks, ten_arrows])
def test_quick_moves_of_the_slider(page, moves):
    for _ in range(2):
        moves(page)
        assert_whole(page)


@pytest.mark.parametrize("moves", [eight_clicks, ten_arrows])
def test_quick_moves_of_the_slider_beside_a_sweep(busy_page, moves):
    for _ in range(2):
        moves(busy_page)
        assert_whole(busy_page)


def test_quick_moves_and_runs_by_turns(busy_page):
    """Run decodes the ends anew while the slider has gone on."""
    for t in (0.2, 0.7, 0.4):
        busy_page.click("#compare-run")
        click_slider(busy_page, t)
    assert_whole(busy_page)


def test_enter_twice_and_clicks_on_run(page):
    fill(page, "compare-prompt", "What is 2 + 3 + 4?")
    page.press("#compare-prompt textarea", "Enter")
    page.press("#compare-prompt textarea", "Enter")
    until_answer(page, "thinking", r"^9$")
    assert_whole(page)
    page.dblclick("#compare-run")
    assert_whole(page)
    fill(page, "compare-prompt", "What is 2 + 3 + 5?")
    page.click("#compare-run", click_count=10)
    until_answer(page, "thinking", r"^10$")
    assert_whole(page)


def test_settings_changed_during_a_decode(page):
    """The round, the template and the sampling are asked by the same handler."""
    unfold(page, "compare-sampling")
    for template in ("instruct", "thinking", "auto"):
        page.click("#compare-run")
        page.locator("#compare-template").get_by_label(template, exact=True).check()
    page.click("#compare-run")
    choose(page, "compare-round", "Round 0")
    assert_whole(page)


def test_frames_of_another_prompt_are_not_shown(page):
    """Typing is to forget the rendered spectrum; it returned `[]`, which told Gradio to leave it as it is."""
    page.click("#compare-spectrum")
    until(page, "compare-status", "11 answers together, in")
    page.wait_for_selector("#compare-stop[disabled]", state="attached")
    fill(page, "compare-prompt", "What is 1 + 1 + 1?")
    click_slider(page, 0.9)
    until_answer(page, "thinking", r"^3$")
    assert_whole(page)
