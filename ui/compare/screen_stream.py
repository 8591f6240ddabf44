"""The stream that carries a page's screen of Compare to its browser, where screen.js draws it.

An event of Gradio costs a browser about 100 ms for each message, on the machine that decodes. Here a message
costs what has to be drawn.
"""

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr
from markupsafe import escape
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ui.compare.question import COLUMNS, STAGES
from ui.sessions import Screen, Session
from ui.studio import Studio
from ui.widgets.events import follow_news, on

WATCHED = (*COLUMNS, *STAGES, "trace_chart")  # what a page waits for
ELEMENTS = {"status": "compare-status", "trace_chart": "compare-switch", "frames": "compare-dots"}
END = "event: end\ndata:\n\n"
FOLLOW = "asked => { window.followScreen(asked.page); }"


def element_of(part: str) -> str:
    """The elem_id of what shows a part of the screen."""
    return ELEMENTS.get(part) or f"compare-{part.replace('_', '-')}"


def shown(part: str, value: Any) -> Any:
    """A part as its component takes it. Plain text is escaped: only `Markup` is taken as HTML."""
    if part == "status":
        return str(escape(value))
    return {"frames": value} if part == "frames" else value


def messages(session: Session) -> Iterator[str]:
    """What has changed on the screen, until everything that was asked is answered.

    What is sent again would bring back what the browser has forgotten by itself: frames of a prompt that was
    typed over, a frame that was left by dragging.
    """
    for screen in session.watch(WATCHED):
        yield f"data: {json.dumps(message(session, screen))}\n\n"
        session.sent = screen.parts  # only now: a browser that went away has to be sent it again
    yield END


def message(session: Session, screen: Screen) -> dict[str, Any]:
    changed = {part: value for part, value in screen.parts.items() if session.sent.get(part) != value}
    parts = {element_of(part): shown(part, value) for part, value in changed.items()}
    return {"parts": parts, "stoppable": screen.stoppable, "warned": screen.warned}


def route(studio: Studio) -> Route:
    """Where a browser listens. Who knows the session hash of a page may read what it shows.

    A page that is being reloaded may ask once more after its session has ended: its stream just ends.
    """

    def answer(request: Request) -> Response:
        page = request.query_params.get("page", "")
        is_open = studio.sessions.is_open(page)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = messages(studio.sessions.get(page)) if is_open else iter([END])
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return Route("/screen", answer)


def follow(studio: Studio, asked: gr.JSON) -> None:
    """Listen after every click that the server has answered with `asked`; and show warnings."""
    on(asked.change, None, asked, None, js=FOLLOW, trigger_mode="multiple")

    def warn(request: gr.Request) -> None:
        for sentence in studio.sessions.get(str(request.session_hash)).take_warnings():
            gr.Warning(escape(sentence))

    follow_news("warnings", warn)
