"""Gradio's stream of answers, where it closes on an event that has just been sent; and a page at rest."""

from browser.driver import answered, fill, until_answer

CLOSE_ONCE = """() => {
    const fetchNow = window.fetch;
    let closed = false;
    window.fetch = async (...call) => {
        const address = String(call[0].url ?? call[0]);
        if (closed || !address.includes('/queue/data')) return fetchNow(...call);
        closed = true;
        const headers = {'Content-Type': 'text/event-stream'};
        return new Response('data: {"msg": "close_stream"}\\n\\n', {headers});
    };
}"""
COUNT_EVENTS = """() => {
    const fetchNow = window.fetch;
    window.joined = 0;
    window.fetch = (...call) => {
        window.joined += String(call[0].url ?? call[0]).includes('/queue/join');
        return fetchNow(...call);
    };
}"""


def test_a_page_goes_on_when_its_stream_was_closed_on_it(tiny, visit):
    """The page was dead until somebody clicked: its events waited for an answer that no stream carried."""
    page = visit(tiny.url)
    answered(page)
    page.evaluate(CLOSE_ONCE)
    fill(page, "compare-prompt", "What is 2 + 3 + 4?")
    page.press("#compare-prompt textarea", "Enter")
    until_answer(page, "thinking", "^9$")


def test_a_page_at_rest_sends_no_events(tiny, visit):
    """Events of timers cost a fifth of a core in the browser, and a sixth in the server."""
    page = visit(tiny.url)
    answered(page)
    page.wait_for_selector("#compare-switch .main-svg")
    page.wait_for_timeout(6000)
    page.evaluate(COUNT_EVENTS)
    page.wait_for_timeout(5000)
    assert page.evaluate("() => window.joined") <= 4  # the machine's load may have changed twice
