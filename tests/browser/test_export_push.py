"""The Export tab pushes to the Hub: huggingface_hub as installed, against the Hub in fake_hub.py."""

import threading

from browser.driver import answered, fill, open_tab, until
from fake_hub import Hub


def test_an_export_is_pushed_from_the_page_once_it_is_there(serve, visit, tmp_path):
    hub = Hub()
    settings = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
    server = serve(HF_ENDPOINT=hub.endpoint, HF_TOKEN=hub.account.token, **settings)
    page = visit(server.url)
    answered(page)
    open_tab(page, "Export")
    until(page, "export-plan", "are free there")
    assert not page.is_visible("#export-push-box")  # nothing to push yet
    page.click("#export-start:not([disabled])")
    until(page, "export-status", "Exported")
    page.wait_for_selector("#export-push:not([disabled])")

    fill(page, "export-push-name", "stranger/half")
    page.click("#export-push")
    until(page, "export-push-status", "No repository of stranger is yours to write")
    fill(page, "export-push-name", "me/half")
    hub.account.held = threading.Event()
    page.click("#export-push:not([disabled])")
    until(page, "export-push-status", " of ")  # bytes
    page.click("#export-push-stop:not([disabled])")
    until(page, "export-push-status", "stopped and nothing was published")
    assert hub.repos["models/me/half"].keys() == {".gitattributes"}
    hub.account.held.set()
    page.click("#export-push:not([disabled])")
    until(page, "export-push-status", "Pushed to")
    assert page.is_disabled("#export-push-stop")
    link = page.locator("#export-push-status a")
    assert link.get_attribute("href") == f"{hub.endpoint}/me/half"
    assert hub.account.private == {"me/half": True}
    [exported] = (server.folder / "exports").iterdir()
    there = {name: text for name, text in hub.repos["models/me/half"].items() if name != ".gitattributes"}
    assert there == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert hub.account.token not in server.log + page.content()
    hub.shutdown()
