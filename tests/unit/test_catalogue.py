"""What a list of presets says before anything is read of their checkpoints."""

import json
import socket

import pytest

from thinkswitch import catalogue
from thinkswitch.catalogue import Machine, entry, fit
from thinkswitch.preset import PRESETS, Preset, load_preset

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
LAPTOP = Machine(memory=16e9)


def gpu(gigabytes: float) -> Machine:
    return Machine(memory=64e9, gpu=gigabytes * 1e9)


def test_what_the_head_of_a_preset_states():
    found = entry("glm4_9b")
    assert (found.card, found.compare, found.download) == (12, 24, "2 × 19 GB")
    assert (found.task, found.needs) == ("AIME 2026", "12 GB card")
    assert found.pair == "GLM-4-9B-0414 / GLM-Z1-9B-0414"
    smol = entry("smol")
    assert (smol.card, smol.memory, smol.download, smol.task) == (None, 2, "270 MB", "word problems")


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_that_ships_says_what_it_needs_or_that_it_is_refused(name):
    found = entry(name)
    assert found.refused or found.needs
    assert found.task and found.name == name
    assert found.download or found.refused or name == "tiny"


def test_a_list_reads_nothing_from_the_hub(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("it asked somebody"))
    for name in NAMES:
        fit(entry(name), LAPTOP)
        catalogue.is_here(load_preset(name))


@pytest.mark.parametrize(
    "name, machine, fits, why",
    [
        ("tiny", LAPTOP, True, "fits"),
        ("smol", Machine(memory=1e9), False, "needs 2 GB of memory"),
        ("glm4_9b", LAPTOP, False, "no NVIDIA card"),
        ("glm4_9b", gpu(8.6), False, "needs 12 GB, the card has 9 GB"),
        ("glm4_9b", gpu(12.88), True, "fits, with shorter answers in Compare"),
        ("glm4_9b", gpu(25.8), True, "fits"),
        ("qwen3_30b_a3b", gpu(80), False, "not supported yet"),
    ],
)
def test_whether_a_preset_fits_this_machine(name, machine, fits, why):
    assert fit(entry(name), machine) == (fits, why)


def test_a_preset_of_ones_own_states_nothing(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("instruct: lab/a\nthinking: lab/b\nheld_out_set: lab/sums:test\n")
    found = entry(str(file))
    assert (found.name, found.pair, found.task, found.needs) == ("own", "a / b", "sums", "")
    assert fit(found, LAPTOP) == (None, "Check plans its memory")


def test_weights_are_here_when_every_shard_is(tmp_path, monkeypatch):
    here = {"config.json", "model.safetensors.index.json"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))

    def cached(name, file, revision=None):
        return str(tmp_path / file) if file in here else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    pair = Preset(instruct="lab/a", thinking=str(PRESETS / "tiny/thinking"))
    assert not catalogue.is_here(pair)
    here.add("1.safetensors")
    assert not catalogue.is_here(pair)
    here.add("2.safetensors")
    assert catalogue.is_here(pair)
    here -= {"model.safetensors.index.json"}
    assert not catalogue.is_here(pair)
    here.add("model.safetensors")
    assert catalogue.is_here(pair)


def test_a_damaged_index_in_the_hub_s_cache_is_no_checkpoint(tmp_path, monkeypatch):
    """The list of presets ended in a traceback on every page."""
    index = tmp_path / "index"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **named: str(index))
    for content in ("", "[" * 100_000, "[]", '{"weight_map": 3}', '{"weight_map": {"a": [1]}}'):
        index.write_text(content)
        assert not catalogue.weights_are_here("owner/name@v1")


def test_what_is_no_name_is_not_here():
    assert not catalogue.is_here(Preset(instruct="a b/c/d", thinking=""))
