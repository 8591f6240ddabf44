"""The stream of Compare: what has changed, once, to the page that asked."""

import json

import gradio as gr
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from thinkswitch.recipe import Schedule
from ui.compare import screen_stream
from ui.compare import tab as compare
from ui.compare.question import COLUMNS
from ui.widgets.html import quiet
from unit.compare.helpers import run


@pytest.fixture
def session(page):
    return page.sessions.get("s")


def taken(session):
    """What a browser receives: the messages before the end."""
    *messages, end = screen_stream.messages(session)
    assert end == "event: end\ndata:\n\n"
    return [json.loads(message.removeprefix("data: ")) for message in messages]


def test_a_page_is_sent_its_answers_and_then_only_what_changes(page, session):
    run(page, 1)
    [first] = taken(session)
    assert {f"compare-{column}" for column in COLUMNS} < first["parts"].keys()
    assert "\\boxed{7}" in first["parts"]["compare-thinking"]["answer"]
    assert first["parts"]["compare-dots"] == {"frames": []} and not first["stoppable"]
    assert [message["parts"] for message in taken(session)] == [{}]
    session.write(None, {"frames": [{"t": 0.5}]})
    assert taken(session)[0]["parts"] == {"compare-dots": {"frames": [{"t": 0.5}]}}
    # the browser forgets frames when a prompt is typed; a click of before must not bring them back
    assert taken(session)[0]["parts"] == {}


def test_what_a_browser_did_not_receive_is_sent_again(session):
    session.write(None, {"status": quiet("x")})
    interrupted = screen_stream.messages(session)
    assert "compare-status" in next(interrupted)
    interrupted.close()
    assert "compare-status" in taken(session)[0]["parts"]


def test_text_from_outside_is_escaped_and_markup_is_not(session):
    session.write(None, {"status": "<script>alert(1)</script>"})
    assert taken(session)[0]["parts"]["compare-status"] == "&lt;script&gt;alert(1)&lt;/script&gt;"
    session.write(None, {"status": quiet("done")})
    assert taken(session)[0]["parts"]["compare-status"].startswith("<span")


def test_only_an_open_page_has_a_stream(page, session):
    client = TestClient(Starlette(routes=[screen_stream.route(page)]))
    session.write(None, {"status": "x"})
    answer = client.get("/screen", params={"page": "s"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert '"compare-status": "x"' in answer.text and answer.text.endswith(screen_stream.END)
    for stranger in ("t", ""):
        assert client.get("/screen", params={"page": stranger}).text == screen_stream.END
    assert not page.sessions.is_open("t")  # asking opens nothing


def test_no_event_of_gradio_writes_to_the_columns(page):
    """Its messages came in any order, some twice, and each cost the browser 100 ms beside the decode."""
    with gr.Blocks() as blocks:
        view = compare.lay_out(page, gr.State(Schedule()))
        compare.connect(page, view)
    ours = {part._id for part in (*view.cards.values(), view.status, view.dots, view.trace_chart, view.stop)}
    assert not any(ours & {output._id for output in fn.outputs} for fn in blocks.fns.values())


def test_every_part_of_the_screen_is_a_component_of_the_page(page):
    with gr.Blocks():
        view = compare.lay_out(page, gr.State(Schedule()))
    on_page = {part.elem_id for part in (*view.cards.values(), view.status, view.dots, view.trace_chart)}
    written = (*view.cards, "status", "frames", "trace_chart")
    assert {screen_stream.element_of(part) for part in written} == on_page
