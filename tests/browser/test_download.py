"""A pair on the Hub: its download is shown, and can be cancelled."""

from pathlib import Path

import pytest

from browser.driver import answered, fill, open_tab, until
from conftest import save_pair
from fake_hub import Hub


@pytest.fixture
def hub(tmp_path):
    """A Hub with a pair of which the second shard never comes to its end."""
    hub = Hub()
    # the Hub's client writes 10 MiB at a time
    made = save_pair(tmp_path / "pair", hidden_size=256, intermediate_size=4096, shard="14MB")
    for role, folder in zip(("Instruct", "Thinking"), map(Path, made), strict=True):
        hub.publish(f"models/lab/Pair-{role}", folder)
    hub.stall["lab/Pair-Instruct/model-00002-of-00002.safetensors"] = 12_000_000
    yield hub
    hub.shutdown()


def test_a_download_is_shown_and_can_be_cancelled(serve, visit, hub, tmp_path):
    server = serve(HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="0")
    page = visit(server.url)
    page.wait_for_selector("#models-offer")
    height = page.locator("#header").bounding_box()["height"]
    open_tab(page, "Models")
    fill(page, "models-instruct", "lab/Pair-Instruct")
    fill(page, "models-thinking", "lab/Pair-Thinking")
    page.click("#models-load")
    until(page, "models-outcome", "Downloading")
    said = until(page, "models-status", r"Downloading Pair-Instruct and Pair-Thinking: 2\d\.\d of 51\.7 MB")
    assert "tiny stays in use" in said and page.locator("#models-line .progress-bar").is_visible()
    assert page.locator("#header").bounding_box()["height"] == height
    assert page.locator("#models-offer").count() == 0
    page.click("#models-cancel")
    kept = "Download cancelled; files that had arrived whole are kept.*tiny is still loaded"
    until(page, "models-outcome", kept)
    until(page, "models-status", "tiny is ready")
    page.wait_for_selector("#models-offer")
    assert page.locator("#models-cancel").count() == 0
    assert list((tmp_path / "hf").rglob("*.incomplete")) == []
    open_tab(page, "Compare")
    page.click("#compare-run")
    assert "3 answers" in answered(page)
