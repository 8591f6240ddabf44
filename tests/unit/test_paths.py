"""Paths as the page shows them: short, and read back as what they were."""

import json
import os
from pathlib import Path

import pytest

from thinkswitch.cli.main import parser
from thinkswitch.export.destination import resolve_path
from thinkswitch.paths import full_path, pasted, pasted_folder, pasted_target, short_path
from thinkswitch.preset import PRESETS, Preset, apply_settings, load_preset


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A current folder with a checkpoint; a home and a data folder beside it."""
    for name in ("home/me/models/a", "project/pair/instruct", "project/my+model", "data/b"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path / "home/me"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home/me"))
    return tmp_path


def test_a_path_is_shown_short_and_read_back(here):
    """PAGE, security: /config had four absolute paths, so a shared page told the user's name."""
    shown = {
        here / "project/pair/instruct": "pair/instruct",
        here / "project/my+model": "my+model",
        here / "home/me/models/a": "~/models/a",
        here / "data/b": "../data/b",
        PRESETS / "tiny/instruct": "presets/tiny/instruct",
    }
    for path, short in shown.items():
        assert short_path(str(path)) == short
        assert full_path(short) == str(path)
    both = f"{here}/project/pair/instruct+{here}/data/b"
    assert short_path(both) == "pair/instruct+../data/b"
    assert full_path("pair/instruct+../data/b") == both


@pytest.mark.parametrize(
    "text", ["", "owner/model", "owner/set:train", "owner/model+owner/adapter", "x\0y", "a" * 9999]
)
def test_what_is_no_path_stays(here, text):
    assert short_path(text) == text and full_path(text) == text


def test_what_ships_is_not_mistaken_for_something_of_the_same_name_here(here):
    (here / "project/presets/tiny/instruct").mkdir(parents=True)
    shipped = str(PRESETS / "tiny/instruct")
    short = short_path(shipped)
    assert not os.path.isabs(short) or os.name == "nt"
    assert full_path(short) == shipped


def test_a_hub_id_is_not_a_folder_of_the_program(here):
    assert full_path("tests/unit") == "tests/unit"
    assert load_preset("tiny").instruct == full_path("presets/tiny/instruct")


# ---- as people paste them


@pytest.fixture
def model(here) -> Path:
    """A checkpoint in a folder with spaces, below the home; an adapter beside it."""
    folder = here / "home/me/my models/a b"
    for path, name in ((folder, "config.json"), (folder.with_name("lora"), "adapter_config.json")):
        path.mkdir(parents=True)
        (path / name).write_text("{}", "utf-8")
        (path / "model.safetensors").touch()
    return folder


PASTED = {  # CASES 3: {model} is the folder, {home} the home
    "as it is": "{model}",
    "in quotes": '"{model}"',
    "in single quotes": "'{model}'",
    "in quotes of a word processor": "\u201c{model}\u201d",
    "in backticks, with spaces": " `{model}` ",
    "in quotes twice": "\"'{model}'\"",
    "with a line end": "{model}\n",
    "from home": "~/my models/a b",
    "from home, in quotes": '"~/my models/a b/"',
    "from a variable": "$HOME/my models/a b",
    "with a slash at the end": "{model}/",
    "with slashes at the end": "{model}//",
    "its config": "{model}/config.json",
    "its weights": "{model}/model.safetensors",
    "as an address": "file://{model}",
    "as an address of this machine, escaped": "file://localhost{escaped}",
    "as an address of its config": "file://{escaped}/config.json",
    "escaped by a terminal": "{home}/my\\ models/a\\ b",
    "with the slashes of Windows": "~\\my models\\a b\\",
}


@pytest.mark.parametrize("how", PASTED)
def test_a_folder_is_found_however_it_was_pasted(model, how):
    """A path in quotes, with a slash or down to config.json was "neither a folder nor a Hub id"."""
    home = model.parents[1]
    text = PASTED[how].format(model=model, home=home, escaped=str(model).replace(" ", "%20"))
    assert full_path(text) == str(model)
    assert parser().parse_args(["check", text, "x/y"]).instruct == str(model)
    assert apply_settings(Preset(), [f"instruct={text}"]).instruct == str(model)
    yaml = model.parents[1] / "p.yaml"
    yaml.write_text(f"instruct: {json.dumps(text)}\n", "utf-8")
    assert load_preset(yaml).instruct == str(model)


ADDRESSES = {
    "https://huggingface.co/owner/name": "owner/name",
    "https://huggingface.co/owner/name/": "owner/name",
    "http://www.huggingface.co/owner/name?library=transformers#usage": "owner/name",
    "huggingface.co/owner/name/tree/main": "owner/name",
    "https://hf.co/owner/name/blob/main/config.json": "owner/name",
    "https://huggingface.co/owner/name/resolve/main/model.safetensors?download=true": "owner/name",
    "https://huggingface.co/owner/name/tree/v1.0": "owner/name@v1.0",
    "'https://huggingface.co/owner/name/discussions/3'": "owner/name",
    "hf://owner/name": "owner/name",
    "owner/name/": "owner/name",
    " owner/name ": "owner/name",
    "owner/name/config.json": "owner/name",
    "https://huggingface.co/datasets/owner/set": "owner/set",
    "https://huggingface.co/datasets/owner/set/tree/main": "owner/set",
    "https://huggingface.co/datasets/owner/set/viewer": "owner/set",
    "https://huggingface.co/datasets/owner/set/viewer/hard/test?row=3": "owner/set/hard:test",
    "https://huggingface.co/datasets/owner/set/viewer/default/train": "owner/set:train",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_of_the_hub_is_an_id(here, address):
    assert pasted(address) == ADDRESSES[address] == full_path(address)
    assert full_path(f"{address.strip()}+{here}/data/b/") == f"{ADDRESSES[address]}+{here}/data/b"


@pytest.mark.parametrize(
    "address",
    [
        "https://huggingface.co",
        "https://huggingface.co/owner",
        "https://huggingface.co/spaces/owner/name",
        "https://huggingface.co/datasets/owner/set/blob/main/train.jsonl",
        "https://huggingface.co/datasets/owner/set/tree/v2",
        "https://example.org/owner/name",
    ],
)
def test_an_address_that_is_no_repository_stays_for_the_error(here, address):
    assert pasted(address) == address


def test_both_parts_of_a_base_and_its_adapter_are_pasted(model):
    adapter = model.with_name("lora")
    text = f"'{model}/config.json'+file://{str(adapter).replace(' ', '%20')}/adapter_config.json"
    assert full_path(text) == f"{model}+{adapter}"
    assert full_path("https://hf.co/o/n+~/my models/lora/") == f"o/n+{adapter}"


def test_a_folder_of_the_hub_s_cache_is_its_snapshot(here):
    cached = here / "data/models--owner--name"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc\n", "utf-8")
    assert full_path(str(cached)) == str(cached / "snapshots" / "abc")


def test_a_run_and_a_target_are_pasted_too(here):
    run = here / "project/my run"
    run.mkdir()
    (run / "events.jsonl").touch()
    for text in (f"'{run}'", f"{run}/", f"{run}/events.jsonl", f"file://{run}/"):
        assert pasted_folder(text) == run
        assert parser().parse_args(["status", text]).run == run
    new = here / "home/me/new run"
    for text in ("~/new run", "'~/new run/'", f"file://{new}", f'"{new}"'):
        assert pasted_target(text) == new == resolve_path(Path(text))
        assert parser().parse_args(["run", "tiny", "--out", text]).out == new
    assert load_preset(f"'{PRESETS / 'tiny.yaml'}'") == load_preset("tiny")
