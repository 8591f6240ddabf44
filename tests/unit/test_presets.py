"""The presets that ship: against their data sets' schemas, the vendors' settings and the memory plan."""

import re
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config, Qwen3MoeConfig

from conftest import ROOT, SETS
from thinkswitch import grading, memory_plan, problems
from thinkswitch.errors import UserError
from thinkswitch.preset import PRESETS, Preset, load_preset
from thinkswitch.weights.checkpoint import TensorInfo, open_checkpoint
from thinkswitch.weights.families import SUPPORTED
from thinkswitch.weights.pair import Pair

PATHS = sorted(PRESETS.glob("*.yaml"))
REAL = [path.stem for path in PATHS if path.stem != "tiny"]
MIXTURE = "qwen3_30b_a3b"


def text_of(name: str) -> str:
    return (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_paper_s_tasks_and_three_more_pairs_ship():
    loaded = [load_preset(name) for name in REAL]
    assert len({(p.instruct, p.thinking) for p in loaded}) >= 4
    of_paper = [p for p in loaded if p.thinking == "Qwen/Qwen3-4B-Thinking-2507"]
    assert {p.kind for p in of_paper} == {"integer", "choice"}
    assert all((p.prompts, p.held_out, p.fresh) == (15, 30, False) for p in of_paper)


@pytest.mark.parametrize("name", REAL)
def test_a_preset_is_short_grouped_and_states_only_differences(name):
    text = text_of(name)
    given, defaults = yaml.safe_load(text), Preset()
    assert text.startswith("# ")
    assert len(text.splitlines()) < 45
    assert not {key for key, value in given.items() if value == getattr(defaults, key)}
    for group in ("The pair", "The task", "Sampling"):
        assert f"\n# {group}\n" in text


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_preset_points_into_presets_or_to_the_hub(path):
    """Nothing of the machine it was written on."""
    text = path.read_text(encoding="utf-8")
    given = yaml.safe_load(text)
    checkpoint, data_set = r"[\w.-]+/[\w.-]+", r"[\w.-]+(/[\w.-]+){1,2}:\w+"
    patterns = dict(instruct=checkpoint, thinking=checkpoint, train_set=data_set, held_out_set=data_set)
    for key, pattern in patterns.items():
        value = given[key]
        assert not Path(value).is_absolute()
        assert ".." not in value
        assert (PRESETS / value).exists() or re.fullmatch(pattern, value), value
    assert not re.search(r"file://|[A-Z]:\\\\|~/|/(?:home|root|work|tmp|Users|mnt)/", text)


@pytest.mark.parametrize("name", REAL)
def test_sampling_is_as_the_vendors_say(name):
    preset = load_preset(name)
    # Qwen2.5's generation_config.json, and the model card of Qwen3-4B-Instruct-2507
    instruct = (preset.instruct_temperature, preset.instruct_top_p, preset.instruct_top_k)
    assert instruct == (0.7, 0.8, 20)
    # the model card of Qwen3-4B-Thinking-2507
    thinking = (preset.think_temperature, preset.think_top_p, preset.think_top_k)
    assert thinking == (0.6, 0.95, 20)
    assert not preset.greedy
    # 16 384 is the instruct card's advice
    assert preset.think_tokens > preset.instruct_tokens or preset.instruct_tokens == 16_384


# ---- the tasks


@pytest.fixture
def hub(monkeypatch):
    """`datasets.load_dataset` knows the sets of conftest, at these splits, and no others."""
    module = types.SimpleNamespace(load_dataset=lambda *names, split: SETS[(*names, split)])
    monkeypatch.setitem(sys.modules, "datasets", module)


def rows_of(source: str) -> list[dict]:
    path, _, split = source.partition(":")
    owner, name, *config = path.split("/")
    return SETS[(f"{owner}/{name}", *config, split)]


@pytest.mark.parametrize("name", REAL)
def test_prompts_hold_the_question_and_not_the_solution(name, hub):
    preset = load_preset(name)
    train, held = problems.train_and_held_out(preset)
    assert (len(train), len(held)) == (preset.prompts, preset.held_out)
    assert not {p.key for p in train} & {p.key for p in held}
    sources = {preset.train_set, preset.held_out_set}
    rows = {row.get("problem", row.get("question")): row for source in sources for row in rows_of(source)}
    for problem in train + held:
        [row] = [row for question, row in rows.items() if question in problem.prompt]
        for paragraph in row.get("context", {}).get("contexts", []):
            assert paragraph in problem.prompt
        for solution in ("solution", "long_answer"):
            assert solution not in row or row[solution] not in problem.prompt
        assert problem.prompt.endswith("\\boxed{}.")
        assert problem.kind == preset.kind


RIGHT = {
    "integer": "So \\boxed{{{}}}.",
    "choice": "The abstract says so. \\boxed{{\\text{{{}}}}}",
    "math": "\\boxed{{{}}}",
}


@pytest.mark.parametrize("name", REAL)
def test_answers_can_be_graded(name, hub, monkeypatch):
    """Mathematics is compared as text here; tests/process/test_math_worker.py compares it for real."""
    monkeypatch.setattr(grading, "equal_maths", lambda right, found: False)
    for problem in problems.held_out(load_preset(name)):
        kind = problem.kind
        wrong = {"integer": "-7", "choice": "no" if problem.answer == "yes" else "yes", "math": "0"}[kind]
        assert grading.grade(RIGHT[kind].format(problem.answer), problem.answer, kind)
        assert not grading.grade(RIGHT[kind].format(wrong), problem.answer, kind)
        assert not grading.grade("I ran out of tok", problem.answer, kind)


# ---- the cards

QWEN3_4B = Qwen3Config(
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151_936,
    tie_word_embeddings=True,
    max_position_embeddings=262_144,
)
QWEN25_1B = Qwen2Config(
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    vocab_size=151_936,
    tie_word_embeddings=True,
    max_position_embeddings=32_768,
)
QWEN25_7B = Qwen2Config(
    hidden_size=3584,
    intermediate_size=18_944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152_064,
    tie_word_embeddings=False,
    max_position_embeddings=32_768,
)


@dataclass(frozen=True)
class Card:
    """What a preset's comment and docs/own-pair.md say of the machine it needs, in GB."""

    config: object  # the published shape
    size: int  # the smallest card for the loop, in 4 bits
    rows: int  # traces of full length decoded at once on it
    think: float  # memory that they take
    distil: float
    compare: int  # the smallest card for Compare at full length
    checkpoint: int  # disk for one of the two


CARDS = {
    "qwen3_4b_aime": Card(QWEN3_4B, 8, rows=1, think=6.9, distil=6.0, compare=24, checkpoint=8),
    "qwen3_4b_pubmedqa": Card(QWEN3_4B, 8, rows=2, think=7.1, distil=6.0, compare=16, checkpoint=8),
    "openthinker3_1b": Card(QWEN25_1B, 6, rows=5, think=5.5, distil=3.8, compare=6, checkpoint=3),
    "openthinker3_7b": Card(QWEN25_7B, 12, rows=3, think=10.6, distil=9.4, compare=24, checkpoint=15),
    "openthinker2_7b": Card(QWEN25_7B, 12, rows=6, think=11.0, distil=9.4, compare=16, checkpoint=15),
}
CARD_SIZES = (6, 8, 12, 16, 24)
IN_WORDS = {1: "one", 2: "two", 3: "three", 5: "five", 6: "six"}


def test_every_preset_that_can_run_has_a_card():
    assert set(CARDS) == set(REAL) - {MIXTURE}


def pair_of(config) -> Pair:
    """A pair of the shape alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    entries = {n: TensorInfo(tuple(p.shape), "BF16", "x") for n, p in model.named_parameters()}
    side = types.SimpleNamespace(config=model.config, entries=entries, name="shape")
    return Pair(side, side)


@pytest.fixture
def gpu(monkeypatch):
    """`gpu(8)`: an NVIDIA card of 8 GB, of which 95 % are free."""

    def machine(preset):
        return dict(device="cuda", dtype=torch.bfloat16, four_bit=preset.four_bit is not False)

    def insert(gigabytes: int) -> None:
        monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 0.95 * gigabytes * 1e9)

    monkeypatch.setattr(memory_plan, "resolve_device", machine)
    return insert


@pytest.mark.parametrize("name", CARDS)
def test_the_loop_fits_the_card_that_is_named(name, gpu):
    card, preset = CARDS[name], load_preset(name)
    gpu(card.size)
    pair = pair_of(card.config)
    fitted = memory_plan.fit_to_memory(pair, preset)
    phases = {phase.name: phase for phase in memory_plan.plan_memory(pair, fitted)}
    assert fitted.four_bit
    assert (fitted.rows, fitted.think_tokens) == (card.rows, preset.think_tokens)
    assert all(phases[phase].advice is None for phase in ("think", "measure", "distil"))
    assert phases["think"].needs / 1e9 == pytest.approx(card.think, abs=0.06)
    assert phases["distil"].needs / 1e9 == pytest.approx(card.distil, abs=0.06)
    assert memory_plan.file_bytes(pair) / 1e9 == pytest.approx(card.checkpoint, abs=0.5)


@pytest.mark.parametrize("name", CARDS)
def test_compare_fits_the_card_that_is_named_and_no_smaller_one(name, gpu):
    card, preset = CARDS[name], replace(load_preset(name), four_bit=True)
    pair = pair_of(card.config)
    fits = []
    for size in CARD_SIZES:
        gpu(size)
        [compare] = [phase for phase in memory_plan.plan_memory(pair, preset) if phase.name == "compare"]
        if compare.advice is None:
            fits.append(size)
    assert min(fits) == card.compare


def test_traces_of_32k_tokens_fit_12_gigabytes(gpu):
    """The advice in the comment of qwen3_4b_aime."""
    assert "With 12 GB: --set think_tokens=32768" in text_of("qwen3_4b_aime")
    gpu(12)
    longer = replace(load_preset("qwen3_4b_aime"), think_tokens=32_768)
    fitted = memory_plan.fit_to_memory(pair_of(QWEN3_4B), longer)
    assert (fitted.rows, fitted.think_tokens) == (1, 32_768)


@pytest.mark.parametrize("name", CARDS)
def test_comment_and_docs_name_the_card(name):
    card, preset = CARDS[name], load_preset(name)
    text = text_of(name)
    assert f"# Card: NVIDIA with {card.size} GB; Compare at full length needs {card.compare} GB." in text
    assert f"Disk: 2 x {card.checkpoint} GB" in text
    table = (ROOT / "docs" / "own-pair.md").read_text(encoding="utf-8").splitlines()
    [row] = [line for line in table if line.startswith(f"| `{name}` |")]
    traces = f"{IN_WORDS[card.rows]} {preset.think_tokens // 1024}k trace"
    assert f"| {card.size} GB: {traces}" in row


# ---- what is not supported yet


def test_a_mixture_of_experts_is_refused_from_its_config_alone(tmp_path):
    """Qwen3-30B-A3B's shape: neither tokenizer nor weights are needed to say no."""
    config = Qwen3MoeConfig(
        hidden_size=2048,
        moe_intermediate_size=768,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        num_experts=128,
        num_experts_per_tok=8,
    )
    config.save_pretrained(tmp_path)
    message = "is a qwen3_moe model, and mixture-of-experts layers are not supported yet; known are "
    with pytest.raises(UserError, match=re.escape(message + ", ".join(SUPPORTED))):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("headers_only", [True, False])
def test_a_mixture_of_experts_is_refused_before_its_weights_are_fetched(tmp_path, monkeypatch, headers_only):
    Qwen3MoeConfig(num_experts=128).save_pretrained(tmp_path)
    fetched = []

    def snapshot_download(name, allow_patterns):
        fetched.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    message = "^Qwen/Qwen3-30B-A3B-Instruct-2507 is a qwen3_moe model, and mixture-of-experts"
    with pytest.raises(UserError, match=message):
        open_checkpoint(load_preset(MIXTURE).instruct, headers_only)
    assert len(fetched) == 1
    assert "*.safetensors" not in fetched[0]
