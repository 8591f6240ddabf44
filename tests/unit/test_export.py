"""Any point as a folder: transformers loads what was previewed, and what fails leaves nothing behind."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from conftest import random_adapter
from thinkswitch import rounds
from thinkswitch.errors import UserError
from thinkswitch.export import export as exporter
from thinkswitch.export import layout, verify
from thinkswitch.export import point as export_point
from thinkswitch.export.destination import HIDDEN
from thinkswitch.recipe import Schedule
from thinkswitch.weights import materialise as materialiser
from thinkswitch.weights.adapter import Adapter, load_adapter
from thinkswitch.weights.materialise import combine, materialise, merge_blocks
from thinkswitch.weights.pair import Pair, open_pair
from unit.export_helpers import (
    IDS,
    after_rounds,
    export,
    finish,
    load_strictly,
    load_tensors,
    make_request,
    pair_in_bf16,
    plan,
    relative_error,
    tree,
)


@pytest.fixture
def pair(folders) -> Pair:
    return open_pair(*folders("qwen3"))


@pytest.fixture(scope="module")
def bf16_pair(folders, tmp_path_factory) -> Pair:
    return pair_in_bf16(folders("qwen3"), tmp_path_factory.mktemp("bf16"))


# ---- what is written


@pytest.mark.parametrize(
    ("family", "tied"), [("qwen3", True), ("qwen3", False), ("qwen2", False), ("llama", True)]
)
@torch.inference_mode()
def test_an_export_is_the_materialised_point(folders, tmp_path, monkeypatch, family, tied):
    pair = open_pair(*folders(family, tied))
    state = after_rounds(pair, 2)
    monkeypatch.setattr(materialiser, "BLOCK", 1000)  # many blocks a tensor
    done = export(pair, state, 0.4, tmp_path / "out")
    assert done.error < 1e-5 and done.same_tokens == 1
    ours, theirs = materialise(pair, state.adapters, state.point(0.4)), load_strictly(tmp_path / "out")
    assert relative_error(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits) < 1e-5
    assert ("lm_head.weight" in load_tensors(tmp_path / "out")) is not tied
    assert (theirs.lm_head.weight.data_ptr() == theirs.model.embed_tokens.weight.data_ptr()) is tied


@pytest.mark.parametrize(("t", "role"), [(0, "instruct"), (1, "thinking")])
def test_the_pair_itself_comes_out_bit_for_bit(bf16_pair, tmp_path, t, role):
    export(bf16_pair, rounds.start(bf16_pair), t, tmp_path / "out")
    before, after = load_tensors(getattr(bf16_pair, role).folder), load_tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(before[name], tensor), name


def test_bf16_is_rounded_once(bf16_pair, tmp_path):
    state = rounds.start(bf16_pair)
    done = export(bf16_pair, state, 0.37, tmp_path / "out")
    assert 1e-4 < done.error < 0.05  # what rounding does, and no more
    for name, tensor in load_tensors(tmp_path / "out").items():
        assert torch.equal(tensor, combine(bf16_pair, [], state.point(0.37), name).bfloat16()), name


def test_a_schedule_is_followed(pair, tmp_path):
    schedule = Schedule(attention=0, norm=0, embedding=0)
    export(pair, rounds.start(pair), 1, tmp_path / "out", schedule=schedule)
    written = load_tensors(tmp_path / "out")
    for name in pair.names:
        side = pair.thinking if ".mlp." in name else pair.instruct
        assert torch.equal(written[name], side.tensor(name)), name
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text("utf-8"))
    assert recipe["schedule"]["attention"] == 0
    assert recipe["coefficients"]["model.norm.weight"] == [1, 0]


def test_shards_and_their_index(pair, tmp_path):
    out = tmp_path / "out"
    done = export(pair, rounds.start(pair), 0.5, out, shard_bytes=60_000)
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 2
    assert files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    held = {}
    for file in files:
        with safe_open(out / file, framework="pt") as shard:
            names = list(shard.keys())
            assert shard.metadata() == {"format": "pt"}
            held |= dict.fromkeys(names, file)
            size = sum(shard.get_tensor(name).nbytes for name in names)
            assert size <= 60_000 or len(names) == 1  # a tensor larger than a shard has one of its own
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    assert index["weight_map"] == held and sorted(held) == pair.names
    assert index["metadata"]["total_size"] == 4 * pair.parameters
    assert done.error < 1e-5 and load_strictly(out)


def test_hashes_are_those_of_the_files(pair, tmp_path):
    out = tmp_path / "out"
    export(pair, rounds.start(pair), 0.5, out, shard_bytes=60_000)
    hashes = json.loads((out / "recipe.json").read_text("utf-8"))["sha256"]
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    assert len(hashes) > 2 and hashes == index["metadata"]["sha256"]
    files = out.glob("*.safetensors")
    assert hashes == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_an_export_is_a_checkpoint_for_us_too(pair, tmp_path):
    export(pair, after_rounds(pair, 1), 0, tmp_path / "out")
    again = open_pair(str(tmp_path / "out"), str(pair.thinking.folder))
    assert again.names == pair.names


def test_size_modes_and_progress(pair, tmp_path):
    state = rounds.start(pair)
    planned = plan(pair, state, 0.5, tmp_path / "out")
    assert not tree(tmp_path)
    done, yielded = finish(exporter.export(make_request(pair, state, 0.5, tmp_path / "out")))
    files = list(done.folder.iterdir())
    assert done.folder == tmp_path / "out" and done.files == len(files)
    assert done.size == sum(path.stat().st_size for path in files)
    assert planned.size == pytest.approx(done.size, rel=0.05)
    assert planned.tensors == len(pair.names) and planned.dtype == "F32"
    if os.name != "nt":
        assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    stages = [stage for stage, _, _ in yielded]
    assert set(stages) == {"write", "verify"} and stages == sorted(stages, reverse=True)
    written = [(done, total) for stage, done, total in yielded if stage == "write"]
    assert written == sorted(written) and written[-1] == (4 * pair.parameters,) * 2
    verified = [done / total for stage, done, total in yielded if stage == "verify"]
    assert verified == sorted(verified) and verified[0] == 0 and verified[-1] == 1


@pytest.mark.parametrize(
    ("t", "template", "sampling"),
    [(0, "instruct", "instruct"), (1, "thinking", "thinking"), (0.5, "thinking", "thinking")],
)
def test_whose_template_and_sampling_are_exported(folders, tmp_path, t, template, sampling):
    pair = pair_in_bf16(folders("qwen3"), tmp_path / "pair")
    for role, temperature in (("instruct", 0.7), ("thinking", 0.6)):
        config = GenerationConfig(
            do_sample=True, temperature=temperature, eos_token_id=pair.instruct.turn_end
        )
        config.save_pretrained(getattr(pair, role).folder)
    (pair.instruct.folder / "pytorch_model.bin").write_bytes(b"pickle")
    out = tmp_path / "out"
    export(pair, rounds.start(pair), t, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == getattr(pair, template).tokenizer.chat_template
    temperature = {"instruct": 0.7, "thinking": 0.6}[sampling]
    assert GenerationConfig.from_pretrained(out).temperature == temperature
    assert json.loads((out / "recipe.json").read_text("utf-8"))["template"] == template
    assert not list(out.glob("*.bin"))


def test_a_tied_head_that_a_vendor_stores_twice_is_written_once(folders, tmp_path):
    """Qwen3-0.6B does: a head of its own in the file, though the config ties it."""
    sides = []
    for folder in folders("qwen3"):
        copy = Path(shutil.copytree(folder, tmp_path / Path(folder).name))
        weights = load_file(copy / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        sides.append(str(copy))
    pair = open_pair(*sides)
    assert "lm_head.weight" not in pair.names and "lm_head.weight" in pair.instruct.unused
    done = export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert done.error < 1e-5 and load_strictly(tmp_path / "out")
    assert "lm_head.weight" not in load_tensors(tmp_path / "out")


@torch.inference_mode()
@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)], ids=str)
def test_a_head_that_differs_from_its_tied_embedding_is_exported(folders, tmp_path, sides):
    """mergekit 464: "1 tensors are missing". Now the pair is untied, and the export says so."""
    copies = [Path(shutil.copytree(folder, tmp_path / Path(folder).name)) for folder in folders("qwen3")]
    for side in sides:
        weights = load_file(copies[side] / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + side + 1
        save_file(weights, copies[side] / "model.safetensors", {"format": "pt"})
    pair = open_pair(*map(str, copies))
    assert not pair.config.tie_word_embeddings and "lm_head.weight" in pair.names
    state = after_rounds(pair, 1)
    done = export(pair, state, 0.5, tmp_path / "out")
    model = load_strictly(tmp_path / "out")
    assert done.error < 1e-5 and model.config.tie_word_embeddings is False
    expected = materialise(pair, state.adapters, state.point(0.5))(input_ids=IDS).logits
    assert relative_error(model(input_ids=IDS).logits, expected) < 1e-5


# ---- adapters


@torch.inference_mode()
def test_an_adapter_holds_every_round_s_update(folders, tmp_path):
    """Ranks differ, and the second round trained fewer layers: zeros stand where it did not."""
    pair = open_pair(*folders("qwen2", False))
    first = after_rounds(pair, 1)
    some = {
        name: update
        for name, update in random_adapter(pair, 7, rank=5).low_rank.items()
        if "layers.0.self_attn.q_proj" in name or "up_proj" in name
    }
    state = rounds.rebuild(pair, first, Adapter(some), 0.8, "original", Schedule())
    planned = plan(pair, state, 0, tmp_path / "out", adapter=True)
    done = export(pair, state, 0, tmp_path / "out", adapter=True, schedule=Schedule(mlp=0.5))
    assert done.error < 1e-5
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text("utf-8"))
    assert config["r"] == config["lora_alpha"] == 2 + 5
    again = load_adapter(tmp_path / "out")
    assert again.low_rank.keys() == first.adapters[0].low_rank.keys()
    for name in again.low_rank:
        exact = sum(adapter.delta(name) for adapter in state.adapters if name in adapter.low_rank)
        assert torch.allclose(again.delta(name), exact, atol=1e-6), name
    ours = materialise(pair, state.adapters, state.instruct)(input_ids=IDS).logits
    base = AutoModelForCausalLM.from_pretrained(pair.instruct.folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path / "out").eval()(input_ids=IDS).logits
    assert relative_error(theirs, ours) < 1e-5
    assert planned.dtype == "F32" and planned.template == "instruct"
    assert planned.tensors == 2 * len(again.low_rank)


@torch.inference_mode()
def test_an_adapter_of_a_local_checkpoint_loads_from_any_working_directory(pair, tmp_path, monkeypatch):
    """peft and transformers take relative paths from the working directory, not from the adapter's folder."""
    monkeypatch.chdir(pair.instruct.folder.parent)
    local = open_pair(pair.instruct.folder.name, pair.thinking.folder.name)
    state = after_rounds(local, 1)
    done = export(local, state, 0, tmp_path / "out", adapter=True)
    expected = materialise(local, state.adapters, state.instruct)(input_ids=IDS).logits
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(done.code, names)
    assert relative_error(names["model"](input_ids=IDS).logits, expected) < 1e-5


def test_an_adapter_of_a_hub_checkpoint_names_its_id(pair, tmp_path):
    """This machine's path of the Hub's cache was of no use to others, and told them who made the adapter."""
    instruct = dataclasses.replace(pair.instruct, name="somebody/instruct")
    export(Pair(instruct, pair.thinking), after_rounds(pair, 1), 0, tmp_path / "out", adapter=True)
    written = (tmp_path / "out" / "adapter_config.json").read_text("utf-8")
    assert json.loads(written)["base_model_name_or_path"] == "somebody/instruct"
    assert str(pair.instruct.folder) not in written


@pytest.mark.parametrize(("number", "t"), [(0, 0), (1, 0.5), (1, 1)])
def test_what_is_no_update_of_the_instruct_checkpoint_is_no_adapter(pair, tmp_path, number, t):
    message = f"round {number}, t = {t} is no LoRA update.*choose that, or export the whole"
    with pytest.raises(UserError, match=message):
        plan(pair, after_rounds(pair, number), t, tmp_path / "out", adapter=True)


# ---- refused before work


def assert_refused(pair, out, message, t=0.5, **request):
    for attempt in (plan, export):
        with pytest.raises(UserError, match=message):
            attempt(pair, rounds.start(pair), t, out, **request)


def test_a_target_is_checked_before_work(pair, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("the only copy", encoding="utf-8")
    before = tree(tmp_path)
    assert_refused(pair, tmp_path / "theirs", "already exists")
    assert_refused(pair, tmp_path / "theirs", "what no export has written .thesis.txt.", replace=True)
    assert_refused(pair, pair.instruct.folder / "out", "would mix with")
    assert_refused(pair, pair.thinking.folder, "would mix with", replace=True)
    assert_refused(pair, tmp_path / "\0", "cannot be a folder")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("t", [-0.1, 1.5, float("nan")])
def test_t_is_a_share(pair, tmp_path, t):
    assert_refused(pair, tmp_path / "out", "t must lie between 0 and 1", t)


def test_too_small_a_disk(pair, tmp_path, monkeypatch):
    size = plan(pair, rounds.start(pair), 0.5, tmp_path / "out").size
    usage = shutil._ntuple_diskusage(10**9, 0, size)  # not enough with the margin
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert_refused(pair, tmp_path / "out", "make room, or name a folder on another disk")
    assert not tree(tmp_path)


def test_types_of_numbers_that_are_not_known(pair, tmp_path):
    entries = {
        name: dataclasses.replace(entry, dtype="F8_E4M3") for name, entry in pair.instruct.entries.items()
    }
    odd = Pair(dataclasses.replace(pair.instruct, entries=entries), pair.thinking)
    with pytest.raises(UserError, match="as F8_E4M3; export knows F32"):
        plan(odd, rounds.start(pair), 0, tmp_path / "out")


# ---- leftovers of killed exports


def leave_killed_export(parent: Path, size: int) -> Path:
    hidden = parent / f"{HIDDEN}0123"
    hidden.mkdir()
    (hidden / "weights").write_bytes(bytes(size))
    hidden.with_name(f"{hidden.name}.lock").touch()
    return hidden


def test_planning_changes_nothing(pair, tmp_path):
    """The Export tab plans at every keystroke; it removed folders that it took for a killed export's."""
    leave_killed_export(tmp_path, 10)
    before = tree(tmp_path)
    plan(pair, rounds.start(pair), 0, tmp_path / "out")
    assert tree(tmp_path) == before


def test_an_export_removes_leftovers_and_leaves_running_ones_alone(pair, tmp_path):
    running = exporter.export(make_request(pair, rounds.start(pair), 0.5, tmp_path / "running"))
    next(running)
    stale = leave_killed_export(tmp_path, 10)
    export(pair, rounds.start(pair), 0, tmp_path / "out")
    assert not stale.exists()
    finish(running)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "running"]


def test_room_that_leftovers_take_counts_as_free(pair, tmp_path, monkeypatch):
    """They are hidden, so nobody who is told to make room would find them."""
    size = plan(pair, rounds.start(pair), 0.5, tmp_path / "out").size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, size))
    assert_refused(pair, tmp_path / "out", "make room")
    leave_killed_export(tmp_path, size)
    assert plan(pair, rounds.start(pair), 0.5, tmp_path / "out").free >= 2 * size


def test_an_export_that_a_kill_had_hidden_is_not_overwritten(pair, tmp_path):
    """It comes back before the target is checked: so `replace` is asked for again, before any work."""
    hidden = leave_killed_export(tmp_path, 10)
    export(pair, rounds.start(pair), 0, tmp_path / "out")
    before = tree(tmp_path / "out")
    hidden = leave_killed_export(tmp_path, 10)
    (hidden / "replaced").mkdir()
    os.rename(tmp_path / "out", hidden / "replaced" / "out")
    with pytest.raises(UserError, match="already exists"):
        next(exporter.export(make_request(pair, rounds.start(pair), 1, tmp_path / "out")))
    assert tree(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# ---- whole or not at all


def test_replacing(pair, tmp_path):
    """An empty folder and an earlier export go; one to which somebody added a file stays."""
    state, out = rounds.start(pair), tmp_path / "out"
    out.mkdir()
    export(pair, state, 0, out, replace=True)
    export(pair, state, 1, out, replace=True, shard_bytes=60_000)
    norm = load_tensors(out)["model.norm.weight"]
    assert torch.equal(norm, pair.thinking.tensor("model.norm.weight"))
    assert not (out / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "notes.md").write_text("mine", encoding="utf-8")
    before = tree(tmp_path)
    assert_refused(pair, out, "what no export has written .notes.md.", replace=True)
    assert tree(tmp_path) == before


def fail_at(call: int, error: BaseException, function=None):
    """A stand-in for a function that raises `error` from its `call`-th call on (from 1)."""
    calls = 0

    def failing(*args):
        nonlocal calls
        calls += 1
        if calls >= call:
            raise error
        return function(*args)

    return failing


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
IO_ERROR = OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("module", "name", "call", "error", "kind", "message"),
    [
        (
            layout,
            "merge_blocks",
            6,
            NO_SPACE,
            UserError,
            "failed .No space left on device. and nothing is left",
        ),
        (layout, "merge_blocks", 6, UserError("truncated"), UserError, "truncated"),
        (layout, "merge_blocks", 6, MemoryError("too much"), MemoryError, "too much"),
        (layout, "merge_blocks", 6, KeyboardInterrupt("now"), KeyboardInterrupt, "now"),
        (verify, "load_export", 1, RuntimeError("bad file"), RuntimeError, "bad file"),
        (exporter, "model_card", 1, IO_ERROR, UserError, "Input/output error"),
        (exporter, "fsync_tree", 1, IO_ERROR, UserError, "Input/output error"),
    ],
    ids=["full disk", "bad source", "no memory", "interrupt", "loading", "card", "sync"],
)
@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_leaves_nothing_and_what_was_there_unharmed(
    pair, tmp_path, monkeypatch, replace, module, name, call, error, kind, message
):
    state, out = rounds.start(pair), tmp_path / "deep" / "er" / "out"
    if replace:
        export(pair, state, 0, out)
    before = tree(tmp_path)
    monkeypatch.setattr(module, name, fail_at(call, error, merge_blocks))
    with pytest.raises(kind, match=message):
        export(pair, state, 0.5, out, replace=replace)
    assert tree(tmp_path) == before  # not even the folders above


@pytest.mark.parametrize("how", ["callable", "close"])
@pytest.mark.parametrize("stage", ["write", "verify"])
@pytest.mark.parametrize("large", [False, True])
def test_cancelled(pair, tmp_path, monkeypatch, large, stage, how):
    """By the callable, or by closing the generator, as a page does whose tab is closed."""
    if large:  # its comparison is at work meanwhile
        monkeypatch.setattr(export_point, "LARGE_BYTES", 0)
    reached = []

    def cancelled() -> bool:
        return how == "callable" and stage in reached

    request = make_request(pair, rounds.start(pair), 0.5, tmp_path / "a" / "out")
    steps = exporter.export(request, cancelled=cancelled)
    expected = pytest.raises(UserError, match="cancelled; nothing is left")
    with expected if how == "callable" else nullcontext():
        for name, _, _ in steps:
            reached.append(name)
            assert any((tmp_path / "a").iterdir())
            if how == "close" and name == stage:
                steps.close()
    assert reached[-1] == stage and not tree(tmp_path)


def test_a_name_that_appears_meanwhile_is_not_overwritten(pair, tmp_path):
    steps = exporter.export(make_request(pair, rounds.start(pair), 0.5, tmp_path / "out"))
    next(steps)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").write_text("new", encoding="utf-8")
    with pytest.raises(UserError, match="already exists"):
        finish(steps)
    assert tree(tmp_path) == {"out": None, "out/theirs": b"new"}
