"""Gradio's stream of answers, where it closes on an event that has just been sent."""

from browser.driver import answered

CLOSE_ONCE = """() => {
    const fetchNow = window.fetch;
    let closed = false;
    window.joined = 0;
    window.fetch = async (...call) => {
        const address = String(call[0].url ?? call[0]);
        window.joined += address.includes('/queue/join');
        if (closed || !address.includes('/queue/data')) return fetchNow(...call);
        closed = true;
        const headers = {'Content-Type': 'text/event-stream'};
        return new Response('data: {"msg": "close_stream"}\\n\\n', {headers});
    };
}"""


def test_a_page_goes_on_when_its_stream_was_closed_on_it(tiny, visit):
    """The page was dead until somebody clicked: every timer waited for an answer that no stream carried."""
    page = visit(tiny.url)
    answered(page)
    page.evaluate(CLOSE_ONCE)
    page.wait_for_function("() => window.joined >= 4")
