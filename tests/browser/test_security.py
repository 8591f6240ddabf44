"""Who may speak to the server, and what a public demo shows."""

import urllib.request

from browser.driver import answered, choose, drag, fill, open_tab, plotted, toast, unfold, until
from browser.proxy import Proxy
from conftest import ROOT, TINY


def test_foreign_hosts_and_files_are_refused(tiny):
    assert tiny.status_of("/") == 200 and tiny.status_of("/config", "localhost:7860") == 200
    assert tiny.status_of("/", "evil.example") == 400  # DNS rebinding
    assert tiny.status_of("/config", "evil.example:7860") == 400
    for path in ("/etc/passwd", ROOT / "README.md", TINY / "instruct/config.json"):
        assert tiny.status_of(f"/gradio_api/file={path}") == 403
    assert tiny.status_of("/monitoring") == 403


def test_uploads_from_pages_of_other_sites_are_refused(tiny):
    """PAGE, security: with a foreign Origin 30 MB were accepted."""
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        assert tiny.status_of("/gradio_api/upload", origin=origin) == 403
    assert tiny.status_of("/gradio_api/upload", origin=tiny.url.rstrip("/")) == 200


def test_the_page_names_no_folder_of_this_machine(endless):
    """PAGE, security: /config had four absolute paths, so a shared page told its owner's name."""
    for path in ("", "config"):
        with urllib.request.urlopen(endless.url + path) as answer:
            sent = answer.read().decode()
        assert "pair/instruct" in sent and "problems.jsonl" in sent
        for secret in (str(endless.folder), str(ROOT)):
            assert secret not in sent


def test_the_page_works_behind_a_proxy_below_a_path(serve, visit):
    """As nginx does it: below /studio, with the app's own address as the host."""
    server = serve("--allowed-host", "localhost", "--root-path", "/studio")
    proxy = Proxy(server.url, "/studio")
    page = visit(proxy.url)
    answered(page)
    plotted(page, "compare-switch")
    drag(page, 0.2)
    until(page, "compare-blend", r"t = 0\.2")
    assert server.status_of("/gradio_api/upload", origin=proxy.url.removesuffix("/studio/")) == 200
    assert server.status_of("/gradio_api/upload", origin="http://evil.example") == 403
    page.close()
    proxy.shutdown()


def test_in_a_demo_a_visitor_stops_only_what_is_theirs(serve, visit):
    """The button is there for the one who started the run; the server decides, not the button."""
    server = serve("--demo")
    mine, other = visit(server.url), visit(server.url)
    for page in (mine, other):
        answered(page)
        open_tab(page, "Loop")
    mine.click("#loop-start")
    until(mine, "loop-progress", "round")
    name = server.runs[0].name
    choose(other, "loop-run", name)
    other.wait_for_selector("#loop-stop:not([disabled])")
    other.click("#loop-stop")
    assert "another visitor started" in toast(other)
    assert server.runs and not (server.runs[0] / "stop").exists()
    mine.click("#loop-stop")
    until(mine, "loop-progress", "[Ss]topp")


def test_with_a_password_nothing_answers_without_it(serve):
    server = serve("--host", "0.0.0.0", "--auth", "me:secret")
    assert server.status_of("/config") == 401
    assert server.status_of(f"/gradio_api/file={ROOT}/README.md") == 401
    assert server.status_of("/", "evil.example") == 400


def test_a_demo_shows_no_paths_and_exports_into_one_folder(serve, visit):
    server = serve("--demo")
    page = visit(server.url)
    answered(page)
    open_tab(page, "Models")
    assert not page.locator("#models-instruct").is_visible()
    page.click("#models-check")
    until(page, "models-report", "compatible")
    open_tab(page, "Loop")
    unfold(page, "loop-knobs")
    page.wait_for_selector("#knob-seed")
    assert page.locator("#knob-train_set, #knob-instruct").count() == 0
    assert not page.locator("#loop-log-box").is_visible()
    open_tab(page, "Export")
    for name in ("../out", "/tmp/out", "a/b", ".."):
        fill(page, "export-folder", name)
        page.press("#export-folder textarea, #export-folder input", "Tab")
        until(page, "export-plan", "is not a plain name")
        page.wait_for_selector("#export-start[disabled]")
    fill(page, "export-folder", "mine")
    page.click("#export-start")
    until(page, "export-status", "Exported")
    assert (server.folder / "exports/mine/model.safetensors").is_file()
    sent = [page.content()]
    for path in ("", "config"):  # what the browser is sent, shown or not
        with urllib.request.urlopen(server.url + path) as answer:
            sent.append(answer.read().decode())
    for secret in (str(server.folder), str(ROOT), "site-packages"):
        assert not any(secret in page for page in sent), secret
