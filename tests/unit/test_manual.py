"""The manual: docs/ as pages beside the app."""

import re

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ui import manual

HREF = re.compile(r'href="([^"]*)"')


@pytest.fixture(scope="module")
def client():
    return TestClient(Starlette(routes=manual.routes()), base_url="http://127.0.0.1")


def test_the_contents_name_every_document_and_what_people_need_first_comes_first(client):
    listed = re.findall(r'<li><a href="([^"]+)">([^<]+)</a>', client.get("/manual/").text)
    assert {name for name, _ in listed} == {path.stem for path in manual.DOCS.glob("*.md")}
    assert listed[0] == ("commands", "Commands")


@pytest.mark.parametrize("name", sorted(manual.documents()))
def test_a_page_has_its_tables_and_no_dead_link(client, name):
    answer = client.get(f"/manual/{name}")
    assert answer.status_code == 200 and f"<title>{manual.title(name)} – " in answer.text
    assert "|---" not in answer.text and "<script" not in answer.text and "<img" not in answer.text
    for address in HREF.findall(answer.text):
        inside = address in ("../", "./", "../favicon.ico", "../manual.css")
        assert inside or address.startswith("https://") or address in manual.documents()


@pytest.mark.parametrize("name", ["nothing", "..", "..%2FREADME", "commands.md", "%2Fetc%2Fpasswd"])
def test_nothing_else_is_served(client, name):
    assert client.get(f"/manual/{name}", follow_redirects=False).status_code == 404


def test_html_in_a_document_stays_text(monkeypatch, tmp_path):
    (tmp_path / "x.md").write_text(
        "# A <b>title</b>\n\n<script>alert(1)</script> [up](../secret.md)\n", "utf-8"
    )
    monkeypatch.setattr(manual, "documents", lambda: {"x": tmp_path / "x.md"})
    found = TestClient(Starlette(routes=manual.routes())).get("/manual/x").text
    manual.rendered.cache_clear()
    manual.title.cache_clear()
    assert "&lt;script&gt;" in found and "<b>" not in found and "<a>up</a>" in found
