"""The streams that carry answers where they break off, and events that need not be sent."""

from browser.driver import answered, fill, open_tab, until_answer

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
    window.fetched = {predict: 0, join: 0};
    window.fetch = (...call) => {
        const kind = /run.(predict)|queue.(join)/.exec(String(call[0].url ?? call[0]));
        if (kind) window.fetched[kind[1] || kind[2]] += 1;
        return fetchNow(...call);
    };
}"""
FETCHED = "() => window.fetched"
NEWS = 1  # an event that the pulse may send meanwhile: the memory in use has changed


def test_a_page_goes_on_when_its_stream_was_closed_on_it(tiny, visit):
    """The page was dead until somebody clicked: its events waited for an answer that no stream carried."""
    page = visit(tiny.url)
    answered(page)
    page.evaluate(CLOSE_ONCE)
    fill(page, "compare-prompt", "What is 2 + 3 + 4?")
    page.press("#compare-prompt textarea", "Enter")
    until_answer(page, "thinking", "^9$")


def quiet_page(tiny, visit):
    """A page that counts events from when it has shown everything."""
    page = visit(tiny.url)
    answered(page)
    page.wait_for_selector("#compare-switch .main-svg")
    page.wait_for_timeout(6000)
    page.evaluate(COUNT_EVENTS)
    return page


def test_a_page_at_rest_sends_no_events(tiny, visit):
    """Events of timers cost a fifth of a core in the browser, and a sixth in the server."""
    page = quiet_page(tiny, visit)
    for tab in ("Compare", "Loop", "Explore", "Export"):
        open_tab(page, tab)
        page.wait_for_timeout(6000)  # until it is drawn, and the one event after that has come
        before = page.evaluate(FETCHED)
        page.wait_for_timeout(4000)
        after = page.evaluate(FETCHED)
        assert after["predict"] == before["predict"] and after["join"] <= before["join"] + NEWS, tab


def test_an_answer_is_one_event_of_gradio_however_many_words_it_has(tiny, visit):
    """Each message cost the browser 100 ms, on the machine that decodes."""
    page = quiet_page(tiny, visit)
    fill(page, "compare-prompt", "What is 2 + 3 + 4?")
    page.click("#compare-run")
    until_answer(page, "thinking", "^9$")
    fetched = page.evaluate(FETCHED)
    assert fetched["predict"] == 1 and fetched["join"] <= NEWS


def test_answers_come_on_when_their_stream_broke_off(tiny, visit):
    """A proxy, or a laptop that slept: the browser opens the stream again and is sent what it lacks."""
    page = visit(tiny.url)
    answered(page)
    broken = []

    def break_once(route):
        if broken:
            route.continue_()
        else:
            broken.append(route)
            route.abort("connectionreset")

    page.route("**/screen?*", break_once)
    fill(page, "compare-prompt", "What is 2 + 3 + 4?")
    page.click("#compare-run")
    until_answer(page, "thinking", "^9$")
    assert broken


def test_a_page_asks_again_soon_after_its_machine_was_suspended(tiny, visit):
    """A page that is late with drawing asks less often; after an hour of sleep that must not be for hours."""
    page = visit(tiny.url)
    answered(page)
    page.clock.install()
    with page.expect_request("**/pulse"):
        pass  # the next one is asked for by the page's own clock ...
    page.clock.fast_forward(3_600_000)
    with page.expect_request("**/pulse"):
        page.clock.run_for(1000)
    with page.expect_request("**/pulse"):
        page.clock.run_for(7000)
