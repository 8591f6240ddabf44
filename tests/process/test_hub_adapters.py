"""A thinking side that is an adapter on the Hub: small files, its header, its weights, then its base's."""

import re
from pathlib import Path

import pytest
import torch

from conftest import save_pair
from unit.adapter_helpers import WEIGHTS, edit_weights, save_adapter


@pytest.fixture(scope="module")
def instruct(tmp_path_factory) -> str:
    return save_pair(tmp_path_factory.mktemp("pair"))[0]


def publish(hub, instruct: str, adapter: str) -> list[str]:
    """Names on the Hub that no other test has in the cache."""
    owner = f"lab{len(hub.repos)}"
    folders = {"instruct": instruct, "adapter": adapter}
    return [hub.publish(f"models/{owner}/{name}", Path(folder)) for name, folder in folders.items()]


def weights(seen) -> list[str]:
    """The files of weights that were sent beyond their headers, in their order."""
    files = [a.path for a in seen if a.path.endswith(".safetensors") and a.method == "GET"]
    whole = [a.path for a in seen if a.path in files and a.sent and not a.range.startswith("bytes=0-")]
    return list(dict.fromkeys(whole))


def ask(instruct: str, thinking: str, preset: Path) -> tuple:
    preset.write_text(f"instruct: {instruct}\nthinking: {thinking}\n", "utf-8")
    return "ask", preset, "--prompt", "1 + 1", "--t", "0", "1", "--tokens", "2", "--greedy", "--json"


def test_checked_by_headers_then_fetched_once(hub, online, offline, instruct, tmp_path):
    names = publish(hub, instruct, save_adapter(instruct, tmp_path / "adapter"))
    with hub.watched() as seen:
        said = online("check", names[0], "+".join(names))
    assert "thinking is instruct + adapter of rank 4" in said and not weights(seen)
    with hub.watched() as seen:
        answers = online(*ask(*names, tmp_path / "pair.yaml"))
    assert [Path(path).name for path in weights(seen)] == [WEIGHTS, "model.safetensors"]
    with hub.unreachable():
        assert offline(*ask(*names, tmp_path / "pair.yaml")) == answers


def test_fetch_downloads_a_pair_once_and_says_where_it_is(hub, online, offline, home, instruct, tmp_path):
    adapter = save_adapter(instruct, tmp_path / "adapter")
    names = publish(hub, instruct, adapter)
    said, *places = online("fetch", *names).splitlines()
    assert re.fullmatch(r"downloaded [\d.]+ [kM]B", said)
    for place, role, folder in zip(places, ("instruct", "thinking"), (instruct, adapter), strict=True):
        assert place.startswith(f"{role}: {home}")
        fetched = Path(place.removeprefix(f"{role}: "))
        weights = Path(folder).glob("*.safetensors")
        assert all((fetched / file.name).read_bytes() == file.read_bytes() for file in weights)
    with hub.unreachable():
        assert offline("fetch", *names).splitlines() == ["the weights were here already", *places]


PAGE = """
import dataclasses, sys, time
from thinkswitch.preset import load_preset
from ui.pair_loader import PairLoader
preset = dataclasses.replace(load_preset("tiny"), name="smol", instruct={instruct!r}, thinking={thinking!r})
loader = PairLoader(preset, "smol", released=print)
loader.load(preset, "smol")
said = []
while loader.loading:
    said.append(loader.status)
    time.sleep(0.001)
remarks = loader.loaded.pair.thinking.remarks
print(loader.status, any("Downloading instruct: 0 of" in line for line in said), remarks)
"""


def test_the_page_downloads_what_its_adapter_stands_on(hub, online, instruct, tmp_path):
    """As the preset that is offered: a checkpoint on the Hub, an adapter that ships."""
    adapter = save_adapter(instruct, tmp_path / "adapter")
    name, _ = publish(hub, instruct, adapter)
    with hub.watched() as seen:
        done = online.send(code=PAGE.format(instruct=name, thinking=adapter))
    assert done.stdout.startswith("Ready True ('thinking is instruct + adapter"), done.stdout + done.stderr
    assert weights(seen) == [f"{name}/model.safetensors"]


def spoil(weights: dict) -> dict:
    return {key: torch.full_like(weight, float("nan")) for key, weight in weights.items()}


def test_refused_before_the_base_is_fetched(hub, online, instruct, tmp_path):
    """Settings and shapes cost no weights at all, NaN only those of the adapter."""
    special = save_adapter(instruct, tmp_path / "special", modules_to_save=["norm"])
    broken = save_adapter(instruct, tmp_path / "broken")
    edit_weights(broken, spoil)
    pickled = Path(save_adapter(instruct, tmp_path / "pickled"))
    (pickled / WEIGHTS).rename(pickled / "adapter_model.bin")
    expected = {special: "modules_to_save=['norm']", broken: "NaN", str(pickled): "pickled weights"}
    for adapter, says in expected.items():
        names = publish(hub, instruct, adapter)
        with hub.watched() as seen:
            said = online.refusal(*ask(*names, tmp_path / "pair.yaml"))
        assert said.startswith(names[1]) and says in said
        assert weights(seen) == ([f"{names[1]}/{WEIGHTS}"] if adapter == broken else [])
        assert not [asked for asked in seen if asked.path.endswith(".bin")]
