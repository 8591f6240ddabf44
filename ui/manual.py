"""The documents in docs/ as pages of the app: /manual/ lists them, /manual/commands is one."""

from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from ui.widgets.assets import ASSETS, asset

DOCS = Path(__file__).parents[1] / "docs"
ORDER = ("commands", "settings", "data", "own-pair", "pairs", "gguf", "method")  # then the others


def routes() -> list[Route]:
    style = Route("/manual.css", lambda request: FileResponse(ASSETS / "manual.css"))
    return [Route("/manual/", contents), Route("/manual/{name}", page), style]


def contents(request: Request) -> Response:
    items = (Markup('<li><a href="{}">{}</a></li>').format(name, title(name)) for name in documents())
    return framed("Manual", Markup("<h1>Manual</h1><ul>{}</ul>").format(Markup("").join(items)))


def page(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in documents():
        return PlainTextResponse("there is no such page in the manual", status_code=404)
    return framed(title(name), rendered(name))


def framed(heading: str, body: Markup) -> HTMLResponse:
    return HTMLResponse(Markup(asset("manual.html")).format(title=heading, body=body))


@cache
def documents() -> dict[str, Path]:
    """By their names in addresses, the ones that people need first."""
    found = {path.stem: path for path in sorted(DOCS.glob("*.md"))}
    first = {name: found[name] for name in ORDER if name in found}
    return first | found


@cache
def title(name: str) -> str:
    """The first line of a document, without its mark."""
    with open(documents()[name], encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


@cache
def rendered(name: str) -> Markup:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(documents()[name].read_text("utf-8"))
    for token in tokens:
        for part in token.children or ():
            if part.type == "link_open":
                point(part)
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def point(link: Token) -> None:
    """To another page of the manual, or out of it in a tab of its own; what is not served is no link."""
    address = str(link.attrs.pop("href"))
    if address.startswith(("http://", "https://")):
        link.attrs |= {"href": address, "target": "_blank", "rel": "noopener noreferrer"}
    elif address.removesuffix(".md") in documents():
        link.attrs["href"] = address.removesuffix(".md")
