"""The Models tab: which pairs a visitor may name, and what a check reports."""

import dataclasses
import json
import shutil
import struct
from types import SimpleNamespace

import gradio as gr
import pytest

from conftest import TINY
from thinkswitch.errors import UserError
from thinkswitch.preset import PRESETS, load_preset
from ui.studio import Studio
from ui.tabs import models

HOSTILE = "<img src=x onerror=x()>"


def test_a_demo_takes_no_paths_whatever_is_sent():
    tiny = load_preset("tiny")
    sent = ("tiny", "/etc", "owner/model")
    assert models.wanted(Studio(tiny, "tiny", demo=True), {"tiny": "tiny"}, *sent) == tiny
    assert models.wanted(Studio(tiny, "tiny"), {"tiny": "tiny"}, *sent).instruct == "/etc"
    with pytest.raises(UserError, match=r"no preset '\.\./x'"):
        models.wanted(Studio(tiny, "tiny", demo=True), {"tiny": "tiny"}, "../x", "", "")


def test_a_demo_offers_only_pairs_that_are_here():
    """Since presets of Hub ids ship, the drop-down would have let a visitor fetch 16 GB."""
    here = [name for name in (p.stem for p in PRESETS.glob("*.yaml")) if models.is_here(load_preset(name))]
    assert here == ["tiny"]
    with gr.Blocks() as page:
        models.build(Studio(load_preset("tiny"), "tiny", demo=True))
    boxes = [block for block in page.blocks.values() if getattr(block, "elem_id", "") == "models-preset"]
    assert [box.choices for box in boxes] == [[("tiny", "tiny")]]


def test_a_preset_of_ones_own_comes_first():
    tiny = load_preset("tiny")
    assert next(iter(models.offered(Studio(tiny, "my/own.yaml")).items())) == ("my/own.yaml", "my/own.yaml")


def test_a_preset_file_is_named_without_the_folders_of_this_machine(tmp_path, monkeypatch):
    """PAGE, security: /config named them, also to those who followed a shared link."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text(PRESETS.joinpath("tiny.yaml").read_text().replace("tiny/", f"{PRESETS}/tiny/"))
    preset = load_preset(file)
    assert next(iter(models.offered(Studio(preset, str(file))).items())) == ("own.yaml", str(file))
    assert next(iter(models.offered(Studio(preset, str(file), demo=True)))) == "own"


def test_a_report_says_what_the_pair_is():
    said = models.report_html(load_preset("tiny"))
    for fact in ("compatible", "qwen3, 4 layers, hidden 128", "835,840 parameters", "(BF16)", "free"):
        assert fact in said
    assert '<b class="thinking">thinking</b> opens the trace' in said
    assert '<b class="instruct">instruct</b> does not open the trace' in said


def with_header(folder, change) -> str:
    """A copy of the embedded instruct checkpoint with a changed header."""
    shutil.copytree(TINY / "instruct", folder)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = change(json.loads(data[8 : 8 + length]))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return str(folder)


def test_a_header_cannot_put_tags_into_a_report(tmp_path):
    """A dtype of `<img ... onerror=...>` in a header from the Hub reached the page as HTML, and ran there."""

    def hostile(header: dict) -> dict:
        return {
            name: {**entry, "dtype": HOSTILE} if "dtype" in entry else entry for name, entry in header.items()
        }

    folder = with_header(tmp_path / "hostile", hostile)
    preset = dataclasses.replace(load_preset("tiny"), instruct=folder)
    try:
        said = str(models.report_html(preset))
    except UserError as error:  # refused while reading
        said = str(models.html.error(str(error)))
    assert "<img" not in said


def test_names_and_types_in_a_report_are_text():
    """Whatever reading a header lets through."""
    entry = SimpleNamespace(dtype=HOSTILE)
    side = SimpleNamespace(entries={"x": entry})
    config = SimpleNamespace(
        model_type=HOSTILE, num_hidden_layers=1, hidden_size=1, vocab_size=1, tie_word_embeddings=True
    )
    pair = SimpleNamespace(instruct=side, thinking=side, parameters=1, names=["x"], config=config)
    phase = SimpleNamespace(name=HOSTILE, needs=1, have=2, advice=HOSTILE, parts={HOSTILE: 1})
    rows = [("Size", models.size(pair)), ("Architecture", models.architecture(pair))]
    rows.append(("Verdict", models.verdict_html([HOSTILE])))
    said = models.html.facts(rows) + models.html.table([models.memory_row(phase)])
    assert "<img" not in said
    assert said.count("&lt;img") == 6


def test_the_status_says_what_failed_and_stays_text():
    loader = SimpleNamespace(
        download=None, failed=True, cancelled=False, status=HOSTILE, loading=False, progress=(0, 0)
    )
    studio = SimpleNamespace(loader=loader, loaded=None, public=str)
    assert "<img" not in models.status_html(studio)
    assert 'class="error"' in models.status_html(studio)
    loader.failed, loader.loading, loader.progress = False, True, (1, 4)
    assert "&lt;img src=x onerror=x()&gt; …" in models.status_html(studio)
    assert "width:25.0%" in models.status_html(studio)


def test_the_status_says_what_is_ready(studio):
    said = models.status_html(studio)
    assert '<b>tiny</b> is ready<span class="detail">: two checkpoints of 835,840 parameters' in said
    assert "(cpu, float32)" in said
