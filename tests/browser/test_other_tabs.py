"""Models, and the tabs together."""

from browser.driver import answered, fill, open_tab, text, until
from conftest import TINY


def test_models_says_what_differs_and_what_the_pair_is(tiny, visit):
    page = visit(tiny.url)
    until(page, "models-status", "tiny is ready")  # or that would come later, over what is awaited below
    open_tab(page, "Models")
    page.click("#models-check")
    report = until(page, "models-report", "835,840")
    assert "compatible" in report and "qwen3, 4 layers, hidden 128" in report and "free" in report
    fill(page, "models-thinking", "nowhere/at/all")
    page.click("#models-check")
    until(page, "models-report", "neither an existing folder nor a Hub id")
    page.click("#models-load")  # a load that fails says so and keeps the pair it had
    said = until(page, "models-outcome", "neither an existing folder")
    assert "tiny is still loaded" in said and "tiny is ready" in text(page, "models-status")
    fill(page, "models-thinking", TINY / "thinking")
    page.click("#models-load")
    until(page, "models-status", "tiny is ready")


def test_the_tab_that_is_opened_last_is_alive(tiny, visit):
    """Gradio drops an event while an earlier one of its kind is pending: Explore's timer never started."""
    page = visit(tiny.url)
    answered(page)
    page.evaluate("""async () => {
        const tab = name => [...document.querySelectorAll('#tabs button[role=tab]')]
            .find(button => button.innerText.trim() === name);
        for (const name of ['Models', 'Loop', 'Export', 'Loop', 'Explore']) {
            tab(name).click();
            await new Promise(done => setTimeout(done, 15));
        }
    }""")
    page.wait_for_selector("#explore-angles .main-svg", timeout=30_000)
