"""The presets of published pairs against what is recorded of these pairs: no Hub, no weights."""

import json
import re
from types import SimpleNamespace

import pytest
from transformers import AutoConfig

from conftest import ROOT, pretend_gpu
from thinkswitch.errors import UserError
from thinkswitch.memory_plan import file_bytes, plan_memory, weight_bytes
from thinkswitch.preset import PRESETS, load_preset
from thinkswitch.think_tags import KNOWN_TAGS, read_setting, tags_between
from thinkswitch.weights.checkpoint import open_checkpoint
from thinkswitch.weights.families import SUPPORTED, WITH_VISION, require_supported
from thinkswitch.weights.kv_cache import cache_bytes
from thinkswitch.weights.pair import Pair, config_differences
from unit.recorded_configs import RECORDED, hub_config, recorded_pair

BF16 = 2
LARGEST_CARD = 16  # GB, of the presets that are recorded here
NAMES = {  # preset: (instruct, thinking, model_type on the Hub)
    "qwen3_vl_2b": ("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-2B-Thinking", "qwen3_vl"),
    "qwen3_vl_4b": ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-4B-Thinking", "qwen3_vl"),
    "qwen3_vl_8b": ("Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-VL-8B-Thinking", "qwen3_vl"),
    "ministral3_3b": (
        "mistralai/Ministral-3-3B-Instruct-2512-BF16",
        "mistralai/Ministral-3-3B-Reasoning-2512",
        "mistral3",
    ),
    "ministral3_8b": (
        "mistralai/Ministral-3-8B-Instruct-2512-BF16",
        "mistralai/Ministral-3-8B-Reasoning-2512",
        "mistral3",
    ),
    "ministral3_14b": (
        "mistralai/Ministral-3-14B-Instruct-2512-BF16",
        "mistralai/Ministral-3-14B-Reasoning-2512",
        "mistral3",
    ),
    "phi4_mini": ("microsoft/Phi-4-mini-instruct", "microsoft/Phi-4-mini-reasoning", "phi3"),
    "olmo3_7b": ("allenai/Olmo-3-7B-Instruct", "allenai/Olmo-3-7B-Think", "olmo3"),
    "lfm25_1b": ("LiquidAI/LFM2.5-1.2B-Instruct", "LiquidAI/LFM2.5-1.2B-Thinking", "lfm2"),
    "glm4_9b": ("zai-org/GLM-4-9B-0414", "zai-org/GLM-Z1-9B-0414", "glm4"),
    "seed_coder_8b": (
        "ByteDance-Seed/Seed-Coder-8B-Instruct",
        "ByteDance-Seed/Seed-Coder-8B-Reasoning-bf16",
        "llama",
    ),
    "nemotron_1b": ("Qwen/Qwen2.5-1.5B-Instruct", "nvidia/OpenReasoning-Nemotron-1.5B", "qwen2"),
    "nemotron_7b": ("Qwen/Qwen2.5-7B-Instruct", "nvidia/OpenReasoning-Nemotron-7B", "qwen2"),
    "nemotron_14b": ("Qwen/Qwen2.5-14B-Instruct", "nvidia/OpenReasoning-Nemotron-14B", "qwen2"),
}
DOCUMENT = (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8")


def text_of(name: str) -> str:
    return (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def table_row(name: str) -> list[str]:
    """The cells of a preset's line in docs/pairs.md."""
    [line] = [line for line in DOCUMENT.splitlines() if line.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_all_that_is_recorded_is_a_preset_and_says_where_it_is_from():
    assert set(RECORDED) == set(NAMES)
    assert len({NAMES[name][:2] for name in NAMES}) >= 10
    for entry in RECORDED.values():
        assert entry["source"] and entry["unsure"]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_names_the_pair_of_the_table(name):
    instruct, thinking, model_type = NAMES[name]
    preset = load_preset(name)
    assert (preset.instruct, preset.thinking) == (instruct, thinking)
    cells = table_row(name)
    assert cells[1] == f"{instruct.split('/')[1]} / {thinking.split('/')[1]}"
    assert cells[2] == model_type == RECORDED[name]["config"]["model_type"]


@pytest.mark.parametrize("name", NAMES)
def test_its_type_is_supported_and_its_tags_are_known(name):
    config = hub_config(name)
    assert config.model_type in (*SUPPORTED, *WITH_VISION)
    require_supported(name, recorded_pair(name).config)
    tags = tags_between(*RECORDED[name]["tags"])
    assert tags in KNOWN_TAGS
    assert read_setting(load_preset(name).think_tags) in (None, tags)


@pytest.mark.parametrize("name", NAMES)
def test_its_head_says_what_is_known_and_what_is_not(name):
    head = text_of(name).split("\nname: ")[0]
    for line in (
        "# Card: ",
        "# Licence: ",
        "# Verified: ",
        "# Not verified: these weights were never loaded here",
    ):
        assert f"\n{line}" in head
    assert re.search(r"Disk: 2 x \d+ GB", head)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_worked_out_by_hand(name):
    """One side in NF4 with embeddings and head in bf16; the cache of a token before any window is full."""
    pair, entry = recorded_pair(name), RECORDED[name]
    assert weight_bytes(pair, BF16, four_bit=True) / 1e9 == pytest.approx(entry["nf4_gb"], rel=0.1)
    a_token = cache_bytes(pair.config, BF16, tokens=2) - cache_bytes(pair.config, BF16, tokens=1)
    assert a_token / 1e3 == pytest.approx(entry["kv_kb"], rel=0.03)


def test_olmo_s_long_traces_cost_a_quarter():
    """Eight of 32 layers keep all, the others 4095 tokens."""
    config = recorded_pair("olmo3_7b").config
    a_token = cache_bytes(config, BF16, tokens=10_001) - cache_bytes(config, BF16, tokens=10_000)
    assert a_token == 524_288 / 4


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_is_made_and_the_table_has_its_card_and_download(name, gpu):
    card = int(re.search(r"# Card: NVIDIA with (\d+) GB", text_of(name))[1])
    assert card <= LARGEST_CARD
    gpu(card)
    phases = {phase.name: phase for phase in plan_memory(recorded_pair(name), load_preset(name))}
    assert list(phases) == ["load", "think", "measure", "distil", "compare", "export", "disk"]
    assert phases["distil"].advice is None
    download = file_bytes(recorded_pair(name)) / 1e9 + RECORDED[name]["vision_gb"]
    _, _, _, card_cell, download_cell, *_ = table_row(name)
    assert card_cell.startswith(f"{card} GB: ")
    assert float(download_cell.removeprefix("2 x ").removesuffix(" GB")) == pytest.approx(download, abs=0.5)


@pytest.fixture
def gpu(monkeypatch):
    """`gpu(8)`: an NVIDIA card of 8 GB, of which 95 % are free."""
    return lambda gigabytes: pretend_gpu(monkeypatch, 0.95 * gigabytes * 1e9)


# ---- pairs that are refused


def sides(model_type: str, instruct_rope: dict, thinking_rope: dict) -> Pair:
    ropes = [{"rope_type": "default", **rope} for rope in (instruct_rope, thinking_rope)]
    configs = [AutoConfig.for_model(model_type, rope_parameters=rope) for rope in ropes]
    return Pair(*(SimpleNamespace(config=config) for config in configs))


@pytest.mark.parametrize(
    "model_type, instruct, thinking",
    [
        ("phi3", 250_000.0, 500_000.0),  # phi-4 and Phi-4-reasoning
        ("qwen3", 1_000_000.0, 5_000_000.0),  # Qwen3-4B and Qwen3-4B-Thinking-2507
    ],
)
def test_other_ropes_are_refused_in_the_document_s_words(model_type, instruct, thinking):
    pair = sides(model_type, {"rope_theta": instruct}, {"rope_theta": thinking})
    [sentence] = config_differences(pair)
    assert re.search(rf"rope_parameters differs .*{instruct}.* / .*{thinking}", sentence)
    if sentence not in DOCUMENT:  # cut short in the table
        for rope in (instruct, thinking):
            assert f"{{'rope_type': 'default', 'rope_theta': {rope}, …" in DOCUMENT


@pytest.mark.parametrize(
    "config, sentence",
    [
        (
            {"model_type": "mellum"},
            "is a mellum model, and mixture-of-experts layers are not supported yet; known are",
        ),
        ({"model_type": "falcon_h1"}, "is a falcon_h1 model; known are"),
        (
            {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}},
            "is quantised; interpolation needs the original weights",
        ),
        (
            {"model_type": "exaone", "auto_map": {"AutoConfig": "configuration_exaone.ExaoneConfig"}},
            "contains custom code which must be executed",
        ),
    ],
)
def test_other_types_are_refused_in_the_document_s_words(tmp_path, monkeypatch, config, sentence):
    """None of their code is run, and nobody is asked: transformers asked on the terminal."""
    asked = []
    monkeypatch.setattr("builtins.input", asked.append)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=re.escape(sentence)):
        open_checkpoint(str(tmp_path))
    assert not asked
    assert sentence in DOCUMENT
