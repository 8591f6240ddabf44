"""The Models tab: which pairs a visitor may name, and what a check reports."""

import dataclasses
import json
import re
import shutil
import struct
from types import SimpleNamespace

import gradio as gr
import pytest

from conftest import TINY
from thinkswitch.catalogue import Machine
from thinkswitch.errors import UserError
from thinkswitch.preset import PRESETS, load_preset
from thinkswitch.weights.pair_report import PairReport
from ui.models import report as pair_report
from ui.models import tab as models
from ui.studio import Studio
from ui.widgets import html

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
    said = pair_report.report_html(load_preset("tiny"))
    for fact in (
        "The two are compatible",
        "qwen3, 4 layers, hidden 128",
        "835,840 parameters",
        "(BF16)",
        "free",
    ):
        assert fact in said
    assert "<th>Thinking</th><td>its chat template opens the trace" in said
    assert "<th>Instruct</th><td>its chat template does not open the trace" in said


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
        said = str(pair_report.report_html(preset))
    except UserError as error:  # refused while reading
        said = str(html.error(str(error)))
    assert "<img" not in said


def test_names_and_types_in_a_report_are_text(monkeypatch):
    """Whatever reading a header lets through."""
    hostile = PairReport((("size", HOSTILE), (HOSTILE, "2")), (HOSTILE,), (HOSTILE,))
    monkeypatch.setattr("thinkswitch.weights.pair_report.report_of", lambda *args: hostile)
    phase = SimpleNamespace(name=HOSTILE, needs=1, have=2, advice=HOSTILE, parts={HOSTILE: 1})
    said = pair_report.report_html(load_preset("tiny")) + pair_report.memory_row(phase)
    assert "<img" not in said.lower()
    assert said.lower().count("&lt;img") == 8


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
    assert '<b>tiny</b> is ready<span class="detail"> · 2 × 835,840 parameters · cpu, float32 · ' in said
    assert re.search(r"float32 · [\d.e+]+ [MG]B</span>", said)  # as measured: two digits, or it never rests


def test_the_same_checkpoint_on_both_sides_is_remarked_on():
    """PAGE m15: it was "compatible", loaded, and all angles were 0; nobody said why."""
    tiny = load_preset("tiny")
    said = pair_report.report_html(dataclasses.replace(tiny, thinking=tiny.instruct))
    assert "What is odd" in said and "both sides are the same weights and are asked alike" in said
    assert "What is odd" not in pair_report.report_html(tiny)
    swapped = pair_report.report_html(
        dataclasses.replace(tiny, instruct=tiny.thinking, thinking=tiny.instruct)
    )
    assert "are the two the wrong way round?" in swapped


def test_the_same_checkpoint_on_both_sides_is_named_when_it_is_loaded(studio):
    pair = studio.loaded.pair
    twice = dataclasses.replace(pair, thinking=pair.instruct)
    assert models.sides(twice) == "one checkpoint on both sides, 835,840 parameters"
    assert models.sides(pair) == "2 × 835,840 parameters"


def test_numbers_of_parameters_are_short():
    assert [models.count_of(n) for n in (999, 835_840, 134_515_008, 999_600_000, 4_022_468_096)] == [
        "999",
        "835,840",
        "135 M",
        "1 B",
        "4.02 B",
    ]


def test_a_phase_that_does_not_fit_reaches_beyond_what_is_free():
    phase = SimpleNamespace(name="think", needs=8e9, have=4e9, advice="lower rows to 2", parts={"cache": 8e9})
    said = pair_report.memory_row(phase)
    assert 'class="phase over"' in said and "--free:50.00%" in said and "width:100.00%" in said
    assert "8 GB of 4 GB free" in said and "does not fit: lower rows to 2" in said
    fits = SimpleNamespace(name="think", needs=1e9, have=4e9, advice=None, parts={"a": 0.75e9, "b": 0.25e9})
    said = pair_report.memory_row(fits)
    assert "width:18.75%" in said and "width:6.25%" in said and "✓ fits" in said


def test_presets_that_fit_are_listed_first(monkeypatch):
    monkeypatch.setattr(models, "machine", lambda: Machine(memory=16e9, gpu=8.5e9))
    rows = models.rows_of(models.offered(Studio(load_preset("tiny"), "tiny")))
    assert [row["name"] for row in rows[:2]] == ["tiny", "smol"] and rows[-1]["name"] == "qwen3_30b_a3b"
    fits = [row["fits"] for row in rows]
    assert fits == sorted(fits, reverse=True) and {True, False} == set(fits)
    assert len(rows) == len(list(PRESETS.glob("*.yaml")))
