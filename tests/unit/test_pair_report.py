"""CASES 1: a check is one report of three parts, and terminal, page and model card show the same."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import byte_tokenizer, save_pair
from thinkswitch import rounds
from thinkswitch.cli.main import main
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, load_preset
from thinkswitch.weights.pair import open_headers, open_pair
from thinkswitch.weights.pair_report import report_of
from ui.models.report import report_html
from unit.adapter_helpers import save_adapter
from unit.export_helpers import export


@pytest.fixture
def copied(folders, tmp_path) -> list[Path]:
    return [Path(shutil.copytree(folder, tmp_path / Path(folder).name)) for folder in folders("qwen3")]


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def untagged(folders: list[Path]) -> None:
    """Tokenizers without tags, and templates that open no trace."""
    for folder in folders:
        text = (folder / "tokenizer.json").read_text("utf-8")
        (folder / "tokenizer.json").write_text(text.replace("think>", "thunk>"), "utf-8")
        (folder / "chat_template.jinja").write_text(byte_tokenizer().chat_template, "utf-8")


# ---- what is odd: a way to make it so, and what is said


def nothing(folders):
    pass


def no_generation_config(folders):
    (folders[1] / "generation_config.json").unlink()


def both_the_same(folders):
    folders[1] = folders[0]


def the_wrong_way_round(folders):
    folders.reverse()


def named_like_a_base_model(folders):
    folders[0] = folders[0].rename(folders[0].with_name("Qwen3-0.6B-Base"))


def named_like_a_pretrained_model(folders):
    folders[1] = folders[1].rename(folders[1].with_name("gemma-3-1b-pt"))


def with_the_date(folders):
    path = folders[1] / "chat_template.jinja"
    path.write_text("{{ strftime_now('%d %b %Y') }}" + path.read_text("utf-8"), "utf-8")


def end_of_another_model(folders):
    edit(folders[0] / "config.json", eos_token_id=3)
    edit(folders[0] / "generation_config.json", eos_token_id=3)
    edit(folders[0] / "tokenizer_config.json", eos_token="<|endoftext|>")


ODD = {
    nothing: [],
    no_generation_config: ["thinking: no generation_config.json; what ends an answer is read off"],
    both_the_same: ["both sides are the same weights and are asked alike"],
    the_wrong_way_round: ["the template of the instruct checkpoint opens the trace: are the two the wrong"],
    named_like_a_base_model: ["instruct: it is named like a base model, which was never taught its chat"],
    named_like_a_pretrained_model: ["thinking: it is named like a base model"],
    untagged: ["no template and no vocabulary shows thinking tags, so <think> is looked for"],
    with_the_date: ["thinking: its chat template writes the date; a run keeps the one on which it began"],
    end_of_another_model: ["instruct: its chat template ends a turn with '<|im_end|>', which is declared"],
}


@pytest.mark.parametrize("way", ODD, ids=lambda way: way.__name__)
def test_what_is_odd_stops_nothing(copied, way):
    way(copied)
    report = report_of(open_pair(*map(str, copied)))
    assert report.stops == () and len(report.odd) == len(ODD[way]), report.odd
    for said, expected in zip(report.odd, ODD[way], strict=True):
        assert said.startswith(expected)


@pytest.mark.parametrize("name", ["database", "Base64-Coder", "my-basement", "rebase", "ptq", "Instruct"])
def test_names_that_only_look_like_a_base_model(copied, name):
    copied[0] = copied[0].rename(copied[0].with_name(name))
    assert report_of(open_pair(*map(str, copied))).odd == ()


# ---- the same everywhere


def test_the_same_report_on_terminal_page_and_card(copied, tmp_path, capsys):
    no_generation_config(copied)
    named_like_a_base_model(copied)
    names = list(map(str, copied))
    pair = open_pair(*names)
    odd = report_of(pair).odd
    assert len(odd) == 2
    assert main(["check", *names]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("odd: ")] == [
        f"odd: {remark}" for remark in odd
    ]
    page = report_html(Preset(instruct=names[0], thinking=names[1]))
    assert all(f"<li>{remark}</li>" in page for remark in odd)
    done = export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    card = (done.folder / "README.md").read_text("utf-8").replace("\\", "")
    assert all(f"Note: {remark}." in card for remark in odd)


def test_what_a_pair_is():
    tiny = load_preset("tiny")
    facts = dict(report_of(open_pair(tiny.instruct, tiny.thinking)).facts)
    assert list(facts) == ["architecture", "size", "vocabulary", "instruct", "thinking"]
    assert facts["size"] == "835,840 parameters in 46 tensors (BF16)"
    assert facts["vocabulary"] == "vocabulary 375, tied embeddings"
    assert facts["thinking"] == "its chat template opens the trace; answers end at '<|im_end|>'"


def test_a_padded_vocabulary_is_a_fact(tmp_path):
    pair = open_pair(*save_pair(tmp_path, vocab_size=320))
    assert dict(report_of(pair).facts)["vocabulary"] == "vocabulary 320 (57 of it padding), tied embeddings"
    assert report_of(pair).odd == ()


def test_obstacles_are_all_named_and_the_odd_ones_with_them(copied, capsys):
    no_generation_config(copied)
    edit(copied[1] / "config.json", rms_norm_eps=1e-5, num_attention_heads=4)
    assert main(["check", *map(str, copied), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [stop.partition(" differs")[0] for stop in report["stops"][:2]] == [
        "num_attention_heads",
        "rms_norm_eps",
    ]
    assert "no generation_config.json" in report["odd"][0] and report["is"]["architecture"].startswith(
        "qwen3"
    )
    assert report_of(open_headers(*map(str, copied))).to_dict() == report


# ---- a folder that is an adapter


def adapter_with_the_config_of_its_base(adapter, instruct):
    shutil.copy(Path(instruct) / "config.json", adapter)


def adapter_without_tokenizer(adapter, instruct):
    for file in adapter.glob("*token*"):
        file.unlink()
    (adapter / "chat_template.jinja").unlink()


def adapter_with_an_empty_index_of_its_training(adapter, instruct):
    (adapter / "trainer_state.json").write_text("{}", "utf-8")
    (adapter / "optimizer.pt").write_bytes(b"x")


def adapter_whose_tokenizer_has_a_pad_token_more(adapter, instruct):
    tokenizer = byte_tokenizer("<think>\n")
    tokenizer.add_tokens(["<|PAD_TOKEN|>"])
    tokenizer.pad_token = "<|PAD_TOKEN|>"
    tokenizer.save_pretrained(adapter)


ADAPTERS = [
    nothing,
    adapter_with_the_config_of_its_base,
    adapter_without_tokenizer,
    adapter_with_an_empty_index_of_its_training,
    adapter_whose_tokenizer_has_a_pad_token_more,
]


@pytest.mark.parametrize("way", ADAPTERS, ids=lambda way: way.__name__)
def test_a_folder_with_an_adapter_alone_is_a_thinking_side(folders, tmp_path, way):
    """mergekit 197, FastChat 1689: "no config.json", for a folder that has none to have."""
    instruct = folders("qwen3")[0]
    adapter = Path(save_adapter(instruct, tmp_path / "adapter"))
    if way is not nothing:
        way(adapter, instruct)
    pair = open_pair(instruct, str(adapter))
    report = report_of(pair)
    assert pair.update and report.stops == () and "thinking is instruct + adapter of rank 4" in report.odd[0]
    assert pair.thinking.template_opens_think is (way is not adapter_without_tokenizer)


def pickled(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")


def without_weights(adapter):
    (adapter / "adapter_model.safetensors").unlink()


def damaged_config(adapter):
    (adapter / "adapter_config.json").write_text("[]", "utf-8")


REFUSED = {
    pickled: "its pickled weights are never opened",
    without_weights: "has no weights: adapter_model.safetensors is missing",
    damaged_config: "adapter_config.json cannot be used",
}


@pytest.mark.parametrize("way", REFUSED, ids=lambda way: way.__name__)
def test_adapters_that_cannot_be_used(folders, tmp_path, way):
    adapter = Path(save_adapter(folders("qwen3")[0], tmp_path / "adapter"))
    way(adapter)
    with pytest.raises(UserError, match=REFUSED[way]):
        open_pair(folders("qwen3")[0], str(adapter))


def test_an_adapter_as_the_instruct_side_says_where_it_belongs(folders, tmp_path):
    adapter = save_adapter(folders("qwen3")[0], tmp_path / "adapter")
    with pytest.raises(UserError, match="is an adapter; name it as thinking, and its checkpoint as instruct"):
        open_pair(adapter, folders("qwen3")[1])


# ---- adapters of odd bases


def test_an_adapter_is_exported_for_a_base_with_leftovers(tmp_path):
    """The reload took what transformers left out of the base for a fault of the export."""
    folders = save_pair(tmp_path / "pair")
    path = Path(folders[0]) / "model.safetensors"
    weights = load_file(path)
    head = {"lm_head.weight": weights["model.embed_tokens.weight"] * 2}
    save_file({**weights, **head, "extra": torch.ones(2)}, path, {"format": "pt"})
    adapter = save_adapter(folders[0], tmp_path / "adapter", 0.02)
    pair = open_pair(folders[0], adapter)
    assert pair.thinking.config.tie_word_embeddings is False and "lm_head.weight" in pair.thinking.entries
    done = export(pair, rounds.start(pair), 0.5, tmp_path / "out", adapter=True)
    assert done.error < 1e-5
