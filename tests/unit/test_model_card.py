"""The card and mergekit's configuration: they claim what was measured, and names from outside stay names."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from thinkswitch import __version__, recipe, rounds, runs
from thinkswitch.export.model_card import md_code, md_text
from thinkswitch.recipe import Schedule
from thinkswitch.weights.pair import Pair, open_pair
from thinkswitch.weights.prompting import Prompting
from unit.export_helpers import PRESET, after_rounds, export

WARNING = "not of this point"
EVIL = "x`|\n---\nlicense: mit\n---\n<script>alert(1)</script>\n```"


@pytest.fixture
def pair(folders) -> Pair:
    return open_pair(*folders("qwen3"))


def read_card(folder: Path) -> tuple[dict, str]:
    """The front matter and the body."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = re.split("^---\n", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front), body


def make_run(folder: Path, **changes) -> Path:
    """A run folder with the scores of rounds 0 to 2."""
    for number in range(3):
        for think_rate, role in enumerate(("instruct", "thinking")):
            row = dict(
                time=1.0,
                round=number,
                phase="measure",
                step=30,
                total=30,
                checkpoint=role,
                n=30,
                correct=10 + number,
                accuracy=(10 + number) / 30,
                low=0.1,
                high=0.5,
                think_rate=float(think_rate),
                mean_tokens=4.25,
            )
            runs.append(folder / "events.jsonl", {**row, "step": 10}, {**row, **changes})
    return folder


def test_the_card_says_what_the_sides_were_asked_with(pair, folders, tmp_path):
    """Without its system prompt the same checkpoint does not think, so the scores would not come again."""
    state = after_rounds(pair, 1)
    _, plain = read_card(export(pair, state, 0.5, tmp_path / "plain").folder)
    assert "Measured with" not in plain
    prompting = (Prompting(template_args="{enable_thinking: false}"), Prompting(system=EVIL))
    asked = Pair(
        dataclasses.replace(pair.instruct, prompting=prompting[0]),
        dataclasses.replace(pair.thinking, prompting=prompting[1]),
    )
    _, body = read_card(export(asked, state, 0.5, tmp_path / "asked").folder)
    assert "- instruct: arguments of the chat template `{enable_thinking: false}`" in body
    assert "- thinking: system prompt `x'/ --- license: mit --- <script>alert(1)</script> '''`" in body


def with_names(pair: Pair, instruct: str, thinking: str) -> Pair:
    """The pair as if it came from the Hub."""
    return Pair(
        dataclasses.replace(pair.instruct, name=instruct), dataclasses.replace(pair.thinking, name=thinking)
    )


# ---- the card


def test_the_card(pair, tmp_path):
    run = make_run(tmp_path / "my-run")
    state, out = after_rounds(pair, 1), tmp_path / "a b" / "out"
    done = export(pair, state, 0.5, out, schedule=Schedule(mlp=0.5), run=run)
    front, body = read_card(done.folder)
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "thinkswitch"],
    }
    assert "| instruct | `" + "/".join(pair.instruct.folder.parts[-2:]) in body
    assert "`my-run`" in body and '"mlp": 0.5' in body
    assert "| 1 | instruct | 30 | 36.7 % [10.0, 50.0] | 0.00 | 4.2 |" in body
    assert "| 2 |" not in body and body.count("| 0 | ") == 2
    assert WARNING in body and f"differ by more than {done.error:.2g} of their norm" in body


def test_card_and_recipe_name_the_version_that_made_them(pair, tmp_path):
    done = export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert f"made by ThinkSwitch Studio {__version__} " in read_card(done.folder)[1]
    assert json.loads((done.folder / "recipe.json").read_text("utf-8"))["version"] == __version__


def test_the_code_on_the_card_loads_the_export(pair, tmp_path, monkeypatch):
    done = export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    code = re.search("```python\n(.*?)\n```", read_card(done.folder)[1], re.DOTALL)[1]
    assert len(code.splitlines()) == len(done.code.splitlines()) == 3
    assert "'./out'" in code and repr(str(tmp_path / "out")) in done.code
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["model"].dtype == torch.float32 and names["tokenizer"].chat_template


def test_no_path_of_this_machine_is_written(pair, tmp_path):
    done = export(pair, after_rounds(pair, 1), 0.5, tmp_path / "out", run=make_run(tmp_path / "run"))
    for name in ("README.md", "recipe.json", "config.json"):
        text = (done.folder / name).read_text("utf-8")
        assert str(tmp_path) not in text and not re.search(r"/(?:home|root|work|tmp|Users)/", text), name


def test_the_card_of_a_local_adapter_says_that_its_base_must_be_named_anew(pair, tmp_path):
    """unsloth 327: the path of the maker's disk stood inside, was wrong elsewhere and told who it was."""
    state = after_rounds(pair, 1)
    done = export(pair, state, 0, tmp_path / "local", adapter=True)
    local = read_card(done.folder)[1]
    assert "write the base's Hub id into `base_model_name_or_path` in `adapter_config.json`" in local
    assert "from_pretrained('path/to/instruct', dtype=" in local
    assert f"from_pretrained({str(pair.instruct.folder)!r}, dtype=" in done.code
    config = json.loads((done.folder / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == "instruct"
    for path in done.folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path
        assert str(pair.instruct.folder).encode() not in path.read_bytes(), path
    hub = with_names(pair, "somebody/instruct", "somebody/thinking")
    card = read_card(export(hub, state, 0, tmp_path / "hub", adapter=True).folder)[1]
    assert "base_model_name_or_path" not in card


@pytest.mark.parametrize(
    ("t", "schedule"), [(0, Schedule()), (1, Schedule()), (1, Schedule(mlp=0.5))], ids=str
)
def test_scores_are_claimed_only_by_what_was_measured(pair, tmp_path, t, schedule):
    run = make_run(tmp_path / "run")
    done = export(pair, after_rounds(pair, 1), t, tmp_path / "out", schedule=schedule, run=run)
    assert (WARNING in read_card(done.folder)[1]) is (schedule != Schedule())


def test_a_bare_pair_has_no_scores(pair, tmp_path):
    done = export(pair, rounds.start(pair), 0, tmp_path / "out")
    assert "Nothing was measured." in read_card(done.folder)[1]


@pytest.mark.parametrize("adapter", [False, True])
def test_hub_ids_stay_whole(pair, tmp_path, adapter):
    """On the Hub the card links both parents; an adapter has one."""
    parents = ["Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Thinking-2507"]
    hub = with_names(pair, *parents)
    front, body = read_card(export(hub, after_rounds(pair, 1), 0, tmp_path / "out", adapter=adapter).folder)
    assert front["base_model"] == (parents[:1] if adapter else parents)
    assert all(f"`{parent}`" in body for parent in parents)
    assert front["library_name"] == ("peft" if adapter else "transformers")
    assert front["base_model_relation"] == ("adapter" if adapter else "merge")


# ---- text from outside


def test_hostile_names_stay_names(pair, tmp_path):
    hub = with_names(pair, f"{EVIL}: [a", pair.thinking.name)
    out = tmp_path / "o'ut\"\n```\nimport os"
    run = make_run(tmp_path / EVIL.replace("/", ""))
    preset = dataclasses.replace(PRESET, name=EVIL)
    done = export(hub, rounds.start(pair), 0.5, out, preset=preset, run=run)
    front, body = read_card(done.folder)
    assert front["base_model"] == [" ".join(f"{EVIL}: [a".split())]
    assert list(front) == ["library_name", "pipeline_tag", "base_model", "base_model_relation", "tags"]
    for line in body.splitlines():
        outside_code = re.sub(r"(?<!\\)`[^`]*`", "", line)
        assert not re.search(r"(?<!\\)<", outside_code), line
    assert len(re.findall("^```", body, re.MULTILINE)) == 2
    assert not re.search("^(import os|license|---)", body, re.MULTILINE)
    names: dict = {}
    exec(done.code, names)
    assert names["model"] is not None


def test_text_of_events_is_escaped():
    """A checkpoint's name in events.jsonl went into the table as it was."""
    assert md_text("a | <b>*x*</b> [l](u)\n`c`") == r"a \| \<b\>\*x\*\<\/b\> \[l\]\(u\) \`c\`"
    assert md_text("thinking") == "thinking" and md_text(30) == "30"


def test_code_cannot_be_left():
    assert md_code("a`b|c\nd") == "`a'b/c d`"
    assert md_code("") == "` `"
    assert md_code("\ud800") == "`?`"
    assert len(md_code("x" * 1000)) == 122


# ---- mergekit


def mergekit_t(config: dict, name: str, depth: int) -> float:
    """t of a tensor as mergekit reads it.

    The first filter that is part of the name counts, and lists are gradients over the layers
    (`evaluate_setting`, `gradient_weighted_average`).
    """
    values = config["parameters"]["t"]
    value = next(item["value"] for item in values if item.get("filter", "") in name)
    if not isinstance(value, list):
        return value
    layer = recipe.layer_of(name)
    place = (0 if layer is None else layer / max(1, depth - 1)) * (len(value) - 1)
    low = min(int(place), len(value) - 2)
    return value[low] * (1 - (place - low)) + value[low + 1] * (place - low)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(),
        Schedule(attention=0.5, mlp=1.5, norm=0, embedding=0.25),
        Schedule(depth=(0.2, 1.0, 0.6)),
    ],
    ids=["uniform", "kinds", "depth"],
)
@pytest.mark.parametrize("family", ["qwen3", "lfm2", "olmo2"])
def test_the_mergekit_configuration_means_the_same(folders, tmp_path, family, schedule):
    pair = open_pair(*folders(family))
    export(pair, rounds.start(pair), 0.6, tmp_path / "out", schedule=schedule)
    config = yaml.safe_load((tmp_path / "out" / "mergekit.yml").read_text("utf-8"))
    [piece] = config["slices"]
    depth = piece["sources"][0]["layer_range"][1]
    assert depth == pair.config.num_hidden_layers
    assert config["merge_method"] == "slerp" and config["base_model"] == piece["sources"][0]["model"]
    for name in pair.names:
        if recipe.layer_of(name) is not None or recipe.module_kind(name) == "embedding":
            t = recipe.scheduled_t(name, 0.6, schedule, depth)
            assert mergekit_t(config, name, depth) == pytest.approx(t, abs=1e-9), name


def test_updates_have_no_mergekit_configuration(pair, tmp_path):
    export(pair, after_rounds(pair, 1), 0.5, tmp_path / "out")
    assert not (tmp_path / "out" / "mergekit.yml").exists()
