"""What ships in presets/: each against data of the Hub sets' schemas, the vendors' figures, and the plan of memory that it states."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config, Qwen3MoeConfig

from conftest import SETS
from thinkswitch import grading, memory_plan, problems
from thinkswitch.errors import UserError
from thinkswitch.preset import PRESETS, Preset, load_preset
from thinkswitch.weights.checkpoint import TensorInfo, open_checkpoint
from thinkswitch.weights.families import SUPPORTED
from thinkswitch.weights.pair import Pair

PATHS = sorted(PRESETS.glob("*.yaml"))
REAL = [p.stem for p in PATHS if p.stem != "tiny"]
VENDOR = dict(instruct_temperature=0.7, instruct_top_p=0.8, instruct_top_k=20,  # Qwen2.5's generation_config.json, Qwen3-2507's cards
              think_temperature=0.6, think_top_p=0.95, think_top_k=20)  # Qwen3-4B-Thinking-2507's card

ANSWERED = {"integer": "So \\boxed{{{}}}.", "choice": "The abstract says so. \\boxed{{\\text{{{}}}}}", "math": "\\boxed{{{}}}"}

SHAPES = {
    "Qwen/Qwen3-4B-Instruct-2507": Qwen3Config(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
                                               vocab_size=151_936, tie_word_embeddings=True, max_position_embeddings=262_144),
    "Qwen/Qwen2.5-1.5B-Instruct": Qwen2Config(hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
                                              vocab_size=151_936, tie_word_embeddings=True, max_position_embeddings=32_768),
    "Qwen/Qwen2.5-7B-Instruct": Qwen2Config(hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
                                            vocab_size=152_064, tie_word_embeddings=False, max_position_embeddings=32_768),
}
NUMBERS = dict(one=1, two=2, three=3, four=4, five=5, six=6, seven=7, eight=8)


@pytest.fixture
def hub(monkeypatch):
    """`datasets.load_dataset` knows the sets above, at these splits, and no others."""
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *names, split: SETS[(*names, split)]))


def test_the_paper_s_tasks_and_three_more_pairs_ship():
    loaded = [load_preset(name) for name in REAL]
    assert len({(p.instruct, p.thinking) for p in loaded}) >= 4
    papers = [p for p in loaded if p.thinking == "Qwen/Qwen3-4B-Thinking-2507"]
    assert {p.kind for p in papers} == {"integer", "choice"} and all((p.prompts, p.held_out, p.fresh) == (15, 30, False) for p in papers)


@pytest.mark.parametrize("name", REAL)
def test_it_is_short_grouped_and_says_what_differs_only(name):
    text = (PRESETS / f"{name}.yaml").read_text()
    given, defaults = yaml.safe_load(text), Preset()
    assert len(text.splitlines()) < 45 and text.startswith("# ")
    assert not {k for k, v in given.items() if v == getattr(defaults, k)}  # only knobs off their default
    for group in ("The pair", "The task", "Sampling"):
        assert f"\n# {group}\n" in text


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_it_points_into_presets_or_to_the_hub(path):
    """Nothing of the machine it was written on."""
    given = yaml.safe_load(path.read_text())
    for key, pattern in (("instruct", r"[\w.-]+/[\w.-]+"), ("thinking", r"[\w.-]+/[\w.-]+"),
                         ("train_set", r"[\w.-]+(/[\w.-]+){1,2}:\w+"), ("held_out_set", r"[\w.-]+(/[\w.-]+){1,2}:\w+")):
        value = given[key]
        assert not Path(value).is_absolute() and ".." not in value
        assert (PRESETS / value).exists() or re.fullmatch(pattern, value), value
    assert not re.search(r"file://|[A-Z]:\\\\|~/|/(?:home|root|work|tmp|Users|mnt)/", path.read_text())


@pytest.mark.parametrize("name", REAL)
def test_samples_as_the_vendors_say(name):
    preset = load_preset(name)
    assert {k: getattr(preset, k) for k in VENDOR} == VENDOR and not preset.greedy
    assert preset.think_tokens > preset.instruct_tokens or preset.instruct_tokens == 16_384  # the instruct card's advice


@pytest.mark.parametrize("name", REAL)
def test_problems_can_be_asked_and_graded(name, hub):
    preset = load_preset(name)
    train, held = problems.train_and_held_out(preset)
    assert (len(train), len(held)) == (preset.prompts, preset.held_out)
    assert not {p.key for p in train} & {p.key for p in held}
    rows = {}
    for source in (preset.train_set, preset.held_out_set):
        repository, _, split = source.partition(":")
        parts = repository.split("/")
        rows |= {row.get("problem", row.get("question")): row for row in SETS[("/".join(parts[:2]), *parts[2:], split)]}
    for problem in train + held:
        [row] = [row for asked, row in rows.items() if asked in problem.prompt]
        for paragraph in row.get("context", {}).get("contexts", []):
            assert paragraph in problem.prompt
        assert row.get("solution", "\0") not in problem.prompt and row.get("long_answer", "\0") not in problem.prompt
        assert problem.prompt.endswith("\\boxed{}.") and problem.kind == preset.kind
    for problem in held:
        wrong = {"integer": "-7", "choice": "no" if problem.answer == "yes" else "yes", "math": "0"}[problem.kind]
        say = ANSWERED[problem.kind].format
        if problem.kind != "math" or problem is held[0]:  # a process each
            assert grading.grade(say(problem.answer), problem.answer, problem.kind) and not grading.grade(say(wrong), problem.answer, problem.kind)
            assert not grading.grade("I ran out of tok", problem.answer, problem.kind)


@pytest.mark.parametrize("name", [n for n in REAL if n != "qwen3_30b_a3b"])
def test_the_card_it_names_is_what_the_plan_says(name, monkeypatch):
    """The comment's figures, computed again from the published shape."""
    preset, text = load_preset(name), (PRESETS / f"{name}.yaml").read_text()
    [said] = re.findall(r"# Card: NVIDIA with (\d+) GB\. By hardware\.plan, not measured: ([\d.]+) GB for (\w+) traces? of (\d[\d ]+\d) tokens(?: at once)? "
                        r"in 4 bits, ([\d.]+) GB to distil", text)
    size, think, rows, tokens, distil = int(said[0]), float(said[1]), NUMBERS[said[2]], int(said[3].replace(" ", "")), float(said[4])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SHAPES[preset.instruct])
    side = types.SimpleNamespace(config=model.config, entries={n: TensorInfo(tuple(p.shape), "BF16", "x") for n, p in model.named_parameters()}, name=name)
    monkeypatch.setattr(memory_plan, "resolve_device", lambda preset: dict(device="cuda", dtype=torch.bfloat16, four_bit=preset.four_bit is not False))
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 0.95 * size * 1e9)
    pair = Pair(side, side)
    fitted = memory_plan.fit_to_memory(pair, preset)
    phases = {p.name: p for p in memory_plan.plan_memory(pair, fitted)}
    assert (fitted.rows, preset.think_tokens) == (rows, tokens)
    assert all(phases[p].advice is None for p in ("think", "measure", "distil"))
    assert phases["think"].needs / 1e9 == pytest.approx(think, abs=0.06) and phases["distil"].needs / 1e9 == pytest.approx(distil, abs=0.06)


def test_a_mixture_of_experts_is_refused_by_name_from_its_config(tmp_path):
    """Qwen3-30B-A3B's shape: no tokenizer and no weights are needed to say no."""
    Qwen3MoeConfig(hidden_size=2048, moe_intermediate_size=768, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4,
                   num_experts=128, num_experts_per_tok=8).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"is a qwen3_moe model, and mixture-of-experts layers are not supported yet; known are {', '.join(SUPPORTED)}$"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("headers_only", [True, False])
def test_the_mixture_of_experts_is_refused_before_its_weights_are_fetched(tmp_path, monkeypatch, headers_only):
    Qwen3MoeConfig(num_experts=128).save_pretrained(tmp_path)
    fetched = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: fetched.append(allow_patterns) or str(tmp_path))
    with pytest.raises(UserError, match="^Qwen/Qwen3-30B-A3B-Instruct-2507 is a qwen3_moe model, and mixture-of-experts"):
        open_checkpoint(load_preset("qwen3_30b_a3b").instruct, headers_only)
    assert len(fetched) == 1 and "*.safetensors" not in fetched[0]
