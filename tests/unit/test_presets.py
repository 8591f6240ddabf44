"""The presets that ship: against their data sets' schemas, the vendors' settings and the memory plan."""

import re
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import Qwen3Config, Qwen3MoeConfig

from conftest import ROOT, SETS
from thinkswitch import evaluate, grading, memory_plan, problems
from thinkswitch.errors import UserError
from thinkswitch.preset import PRESETS, Preset, load_preset
from thinkswitch.sampler import Sampling
from thinkswitch.weights.checkpoint import open_checkpoint
from thinkswitch.weights.families import SUPPORTED
from thinkswitch.weights.pair import Pair
from unit.recorded_configs import RECORDED, pair_of, recorded_pair

PATHS = sorted(PRESETS.glob("*.yaml"))
OWN = ("tiny", "smol")  # made here; the others are published pairs
REAL = [path.stem for path in PATHS if path.stem not in OWN]
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


QWEN25 = dict(temperature=0.7, top_p=0.8, top_k=20)  # its generation_config.json, and the card of Qwen3-2507
QWEN3_THINKING = dict(temperature=0.6, top_p=0.95, top_k=20)  # the card of Qwen3-4B-Thinking-2507
QWEN3_VL = (  # the cards, for text
    dict(temperature=1.0, top_p=1.0, top_k=40, presence_penalty=2.0),
    dict(temperature=1.0, top_p=0.95, top_k=20, presence_penalty=1.5),
)
MINISTRAL = (dict(temperature=0.15, top_p=1.0, top_k=0), dict(temperature=0.7, top_p=0.95, top_k=0))
SAMPLING = {  # preset: (instruct, thinking); what is not named is off. The sources are in the files.
    "qwen3_4b_aime": (QWEN25, QWEN3_THINKING),
    "qwen3_4b_pubmedqa": (QWEN25, QWEN3_THINKING),
    "qwen3_30b_a3b": (QWEN25, QWEN3_THINKING),
    "openthinker3_1b": (QWEN25 | dict(repetition_penalty=1.1), QWEN3_THINKING),
    "openthinker3_7b": (QWEN25 | dict(repetition_penalty=1.05), QWEN3_THINKING),
    "openthinker2_7b": (QWEN25 | dict(repetition_penalty=1.05), QWEN3_THINKING),
    "nemotron_1b": (QWEN25 | dict(repetition_penalty=1.1), QWEN3_THINKING),
    "nemotron_7b": (QWEN25 | dict(repetition_penalty=1.05), QWEN3_THINKING),
    "nemotron_14b": (QWEN25 | dict(repetition_penalty=1.05), QWEN3_THINKING),
    "qwen3_vl_2b": QWEN3_VL,
    "qwen3_vl_4b": QWEN3_VL,
    "qwen3_vl_8b": QWEN3_VL,
    "ministral3_3b": MINISTRAL,
    "ministral3_8b": MINISTRAL,
    "ministral3_14b": MINISTRAL,
    "phi4_mini": (dict(temperature=0, top_p=1.0, top_k=0), dict(temperature=0.8, top_p=0.95, top_k=0)),
    "olmo3_7b": (dict(temperature=0.6, top_p=0.95, top_k=0), dict(temperature=0.6, top_p=0.95, top_k=0)),
    "lfm25_1b": (
        dict(temperature=0.1, top_p=1.0, top_k=50, repetition_penalty=1.05),
        dict(temperature=0.05, top_p=1.0, top_k=50, repetition_penalty=1.05),
    ),
    "glm4_9b": (QWEN25, dict(temperature=0.6, top_p=0.95, top_k=40)),
    "seed_coder_8b": (
        dict(temperature=0.6, top_p=0.8, top_k=0, repetition_penalty=1.05),
        QWEN3_THINKING,
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_sampling_is_as_the_vendors_say(name):
    preset = load_preset(name)
    for role, expected in zip(("instruct", "thinking"), SAMPLING[name], strict=True):
        found = evaluate.sampling(preset, role)
        assert found == Sampling(**expected, max_new_tokens=found.max_new_tokens)
    assert not preset.greedy
    # 16 384 is the advice of Qwen's instruct cards
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


@dataclass(frozen=True)
class Card:
    """What a preset's comment and docs/pairs.md say of the machine it needs, in GB."""

    pair: Pair  # of the published shape
    size: int  # the smallest card for the loop, in 4 bits
    rows: int  # traces of full length decoded at once on it
    think: float  # memory that they take
    distil: float
    compare: int  # the smallest card for Compare at full length
    checkpoint: int  # disk for one of the two


def recorded_card(name: str, size: int, **figures) -> Card:
    """`name` may be another preset whose instruct checkpoint is the same."""
    return Card(recorded_pair(name), size, **figures)


CARDS = {
    "qwen3_4b_aime": Card(pair_of(QWEN3_4B), 8, rows=1, think=6.9, distil=6.0, compare=24, checkpoint=8),
    "qwen3_4b_pubmedqa": Card(pair_of(QWEN3_4B), 8, rows=2, think=7.1, distil=6.0, compare=16, checkpoint=8),
    "openthinker3_1b": recorded_card(
        "nemotron_1b", 6, rows=5, think=5.5, distil=3.8, compare=6, checkpoint=3
    ),
    "openthinker3_7b": recorded_card(
        "nemotron_7b", 12, rows=3, think=10.6, distil=9.4, compare=24, checkpoint=15
    ),
    "openthinker2_7b": recorded_card(
        "nemotron_7b", 12, rows=6, think=11.0, distil=9.4, compare=16, checkpoint=15
    ),
    "qwen3_vl_2b": recorded_card("qwen3_vl_2b", 6, rows=1, think=4.9, distil=4.0, compare=12, checkpoint=4),
    "qwen3_vl_4b": recorded_card("qwen3_vl_4b", 8, rows=1, think=6.9, distil=6.0, compare=24, checkpoint=9),
    "qwen3_vl_8b": recorded_card(
        "qwen3_vl_8b", 12, rows=1, think=10.4, distil=10.2, compare=32, checkpoint=18
    ),
    "ministral3_3b": recorded_card(
        "ministral3_3b", 8, rows=1, think=5.8, distil=5.4, compare=16, checkpoint=8
    ),
    "ministral3_8b": recorded_card(
        "ministral3_8b", 12, rows=1, think=10.1, distil=10.1, compare=24, checkpoint=18
    ),
    "ministral3_14b": recorded_card(
        "ministral3_14b", 16, rows=1, think=13.6, distil=14.0, compare=32, checkpoint=28
    ),
    "phi4_mini": recorded_card("phi4_mini", 8, rows=1, think=6.8, distil=6.3, compare=24, checkpoint=8),
    "olmo3_7b": recorded_card("olmo3_7b", 12, rows=1, think=10.9, distil=8.7, compare=32, checkpoint=15),
    "lfm25_1b": recorded_card("lfm25_1b", 4, rows=5, think=3.5, distil=3.1, compare=4, checkpoint=2),
    "glm4_9b": recorded_card("glm4_9b", 12, rows=3, think=10.7, distil=11.1, compare=24, checkpoint=19),
    "seed_coder_8b": recorded_card(
        "seed_coder_8b", 12, rows=1, think=10.1, distil=10.2, compare=24, checkpoint=17
    ),
    "nemotron_1b": recorded_card("nemotron_1b", 4, rows=2, think=3.6, distil=3.8, compare=6, checkpoint=3),
    "nemotron_7b": recorded_card(
        "nemotron_7b", 12, rows=3, think=10.6, distil=9.4, compare=24, checkpoint=15
    ),
    "nemotron_14b": recorded_card(
        "nemotron_14b", 16, rows=1, think=13.3, distil=14.7, compare=32, checkpoint=30
    ),
}
CARD_SIZES = (4, 6, 8, 12, 16, 24, 32)
IN_WORDS = {1: "one", 2: "two", 3: "three", 5: "five", 6: "six"}


def test_every_preset_that_can_run_has_a_card():
    assert set(CARDS) == set(REAL) - {MIXTURE}


@pytest.fixture
def gpu(monkeypatch):
    """`gpu(8)`: an NVIDIA card of 8 GB, of which 95 % are free."""

    def machine(preset, parameters, live=False):
        return dict(device="cuda", dtype=torch.bfloat16, four_bit=preset.four_bit is not False)

    def insert(gigabytes: int) -> None:
        monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 0.95 * gigabytes * 1e9)

    monkeypatch.setattr(memory_plan, "resolve_device", machine)
    return insert


@pytest.mark.parametrize("name", CARDS)
def test_the_loop_fits_the_card_that_is_named(name, gpu):
    card, preset = CARDS[name], load_preset(name)
    gpu(card.size)
    pair = card.pair
    fitted = memory_plan.fit_to_memory(pair, preset)
    phases = {phase.name: phase for phase in memory_plan.plan_memory(pair, fitted)}
    assert fitted.four_bit
    assert (fitted.rows, fitted.think_tokens) == (card.rows, preset.think_tokens)
    assert all(phases[phase].advice is None for phase in ("think", "measure", "distil"))
    assert phases["think"].needs / 1e9 == pytest.approx(card.think, abs=0.06)
    assert phases["distil"].needs / 1e9 == pytest.approx(card.distil, abs=0.06)
    vision = RECORDED[name]["vision_gb"] if name in RECORDED else 0
    assert memory_plan.file_bytes(pair) / 1e9 + vision == pytest.approx(card.checkpoint, abs=0.5)


@pytest.mark.parametrize("name", CARDS)
def test_compare_fits_the_card_that_is_named_and_no_smaller_one(name, gpu):
    card, preset = CARDS[name], replace(load_preset(name), four_bit=True)
    pair = card.pair
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
    table = (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8").splitlines()
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

    def snapshot_download(name, allow_patterns, **others):
        fetched.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    message = "^Qwen/Qwen3-30B-A3B-Instruct-2507 is a qwen3_moe model, and mixture-of-experts"
    with pytest.raises(UserError, match=message):
        open_checkpoint(load_preset(MIXTURE).instruct, headers_only)
    assert len(fetched) == 1
    assert "*.safetensors" not in fetched[0]
