"""Any point as a folder: plain transformers loads exactly what was previewed, and whatever goes wrong leaves nothing behind."""

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import threading
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from conftest import random_adapter
from thinkswitch import recipe, rounds, runs
from thinkswitch.errors import UserError
from thinkswitch.export import export as exporter
from thinkswitch.export import layout, verify
from thinkswitch.export import point as export_point
from thinkswitch.export.destination import HIDDEN
from thinkswitch.export.layout import TOKENIZER, blocks, checkpoint_entries
from thinkswitch.export.point import ExportPoint, ExportRequest
from thinkswitch.export.safetensors_writer import write_tensors
from thinkswitch.preset import Preset
from thinkswitch.recipe import Schedule
from thinkswitch.weights import materialise as materialiser
from thinkswitch.weights.adapter import Adapter, load_adapter
from thinkswitch.weights.checkpoint import Checkpoint, TensorInfo
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import combine, materialise, merge_blocks
from thinkswitch.weights.pair import Pair, open_pair

PRESET = Preset(name="test", device="cpu", template="thinking")
IDS = torch.arange(5, 60)[None]


def finish(steps):
    """(what the generator returned, everything it yielded)"""
    told = []
    while True:
        try:
            told.append(next(steps))
        except StopIteration as end:
            return end.value, told


def request(pair, round, t, out, schedule=Schedule(), preset=PRESET, adapter=False, **where):
    return ExportRequest(ExportPoint(pair, round, t, schedule, preset, adapter), out, **where)


def export(pair, round, t, out, schedule=Schedule(), preset=PRESET, adapter=False, blend=None, recipe=None, turn=nullcontext, **where):
    return finish(exporter.export(request(pair, round, t, out, schedule, preset, adapter, **where), blend, recipe, turn))[0]


def plan(*args, **kwargs):
    return exporter.plan_export(request(*args, **kwargs))


def rounds_of(pair, n: int):
    state = rounds.start(pair)
    for i in range(n):
        state = rounds.rebuild(pair, state, random_adapter(pair, i, rank=2 + i), 0.8, "original", Schedule())
    return state


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def strict(folder: Path):
    model, told = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, local_files_only=True)
    assert not any(told.values()), told
    return model


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden or not."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def halved(folders, tmp_path_factory):
    """The random pair as vendors store it: in bf16."""
    out = []
    for folder in folders("qwen3"):
        made = tmp_path_factory.mktemp("half") / Path(folder).name
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(made)
        AutoTokenizer.from_pretrained(folder).save_pretrained(made)
        out.append(str(made))
    return open_pair(*out)


@pytest.fixture
def pair(folders):
    return open_pair(*folders("qwen3"))


# ---- what is written


@pytest.mark.parametrize("family, tied", [("qwen3", True), ("qwen3", False), ("qwen2", False), ("llama", True)])
@torch.inference_mode()
def test_a_blend_reloads_strictly_as_its_materialised_self(folders, tmp_path, monkeypatch, family, tied):
    pair = open_pair(*folders(family, tied))
    round = rounds_of(pair, 2)
    monkeypatch.setattr(materialiser, "BLOCK", 1000)  # many blocks a tensor
    done = export(pair, round, 0.4, tmp_path / "out")
    assert done.error < 1e-5 and done.same_tokens == 1
    ours, theirs = materialise(pair, round.adapters, round.point(0.4)), strict(tmp_path / "out")
    a, b = ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits
    assert (a - b).norm() / b.norm() < 1e-5
    assert ("lm_head.weight" in tensors(tmp_path / "out")) is not tied
    assert (theirs.lm_head.weight.data_ptr() == theirs.model.embed_tokens.weight.data_ptr()) is tied


@pytest.mark.parametrize("t, role", [(0, "instruct"), (1, "thinking")])
def test_the_pair_s_ends_come_out_bit_for_bit(halved, tmp_path, t, role):
    export(halved, rounds.start(halved), t, tmp_path / "out")
    before, after = tensors(getattr(halved, role).folder), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(after[n].dtype == torch.bfloat16 and torch.equal(before[n], after[n]) for n in before)


def test_bf16_is_rounded_once(halved, tmp_path):
    round = rounds.start(halved)
    done = export(halved, round, 0.37, tmp_path / "out")
    assert 1e-4 < done.error < 0.05  # what rounding does, and no more
    for name, tensor in tensors(tmp_path / "out").items():
        assert torch.equal(tensor, combine(halved, [], round.point(0.37), name).bfloat16()), name


def test_a_schedule_is_followed(pair, tmp_path):
    round, schedule = rounds.start(pair), Schedule(attention=0, norm=0, embedding=0)
    export(pair, round, 1, tmp_path / "out", schedule)
    written = tensors(tmp_path / "out")
    for name in pair.names:
        side = pair.thinking if ".mlp." in name else pair.instruct
        assert torch.equal(written[name], side.tensor(name)), name
    told = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert told["schedule"]["attention"] == 0 and told["coefficients"]["model.norm.weight"] == [1, 0]


def test_shards_and_their_index(pair, tmp_path):
    done = export(pair, rounds.start(pair), 0.5, tmp_path / "out", shard_bytes=60_000)
    files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2 and files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    index, held = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text()), {}
    for file in files:
        with safe_open(tmp_path / "out" / file, framework="pt") as shard:
            assert shard.metadata() == {"format": "pt"}
            held |= dict.fromkeys(shard.keys(), file)
            size = sum(shard.get_tensor(n).nbytes for n in shard.keys())
            assert size <= 60_000 or len(shard.keys()) == 1  # a tensor larger than a shard has one of its own
    assert index["weight_map"] == held and sorted(held) == pair.names
    assert index["metadata"]["total_size"] == 4 * pair.parameters
    assert done.error < 1e-5 and strict(tmp_path / "out")


def test_what_is_written_is_a_checkpoint_for_us_too(pair, tmp_path):
    export(pair, rounds_of(pair, 1), 0, tmp_path / "out")
    again = open_pair(str(tmp_path / "out"), str(pair.thinking.folder))
    assert again.names == pair.names


def test_files_are_aligned_and_readable_by_all(tmp_path):
    """Wide types first, the head padded: every tensor begins at a multiple of its own size."""
    entries = {"a": TensorInfo((3,), "BF16", "x.safetensors"), "b": TensorInfo((2, 2), "F32", "x.safetensors")}
    values = {"a": torch.tensor([1, 2, 3]).bfloat16(), "b": torch.arange(4.).view(2, 2)}
    finish(write_tensors(tmp_path, entries, lambda name: iter([values[name]]), {n: Future() for n in entries}))
    head = int.from_bytes((tmp_path / "x.safetensors").read_bytes()[:8], "little")
    assert head % 8 == 0
    table = json.loads((tmp_path / "x.safetensors").read_bytes()[8:8 + head])
    assert table["b"]["data_offsets"] == [0, 16] and table["a"]["data_offsets"] == [16, 22]
    assert all(torch.equal(values[n], t) for n, t in load_file(tmp_path / "x.safetensors").items())


def test_modes_size_and_progress(pair, tmp_path):
    old = os.umask(0o077)
    try:
        done, told = finish(exporter.export(request(pair, rounds.start(pair), 0.5, tmp_path / "out")))
    finally:
        os.umask(old)
    assert done.folder == tmp_path / "out" and done.files == len(list(done.folder.iterdir()))
    assert done.size == sum(p.stat().st_size for p in done.folder.iterdir())
    if os.name != "nt":
        assert {p.stat().st_mode & 0o777 for p in done.folder.iterdir()} == {0o644} and done.folder.stat().st_mode & 0o777 == 0o755
    writes = [(d, n) for stage, d, n in told if stage == "write"]
    assert writes == sorted(writes) and writes[-1] == (4 * pair.parameters,) * 2
    assert [step[0] for step in told] == ["write"] * len(writes) + ["verify"] * 4 and told[-1] == ("verify", 3, 3)
    planned = plan(pair, rounds.start(pair), 0.5, tmp_path / "other")
    assert planned.size == pytest.approx(done.size, rel=0.05) and planned.tensors == len(pair.names) and planned.dtype == "F32"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("t, template, sampling", [(0, "instruct", "instruct"), (1, "thinking", "thinking"), (0.5, "thinking", "thinking")])
def test_whose_words_and_manners_go_along(halved, tmp_path, t, template, sampling):
    for role, temperature in (("instruct", 0.7), ("thinking", 0.6)):
        folder = getattr(halved, role).folder
        GenerationConfig(do_sample=True, temperature=temperature, eos_token_id=halved.instruct.turn_end).save_pretrained(folder)
    (halved.instruct.folder / "pytorch_model.bin").write_bytes(b"pickle")
    export(halved, rounds.start(halved), t, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == getattr(halved, template).tokenizer.chat_template
    assert GenerationConfig.from_pretrained(tmp_path / "out").temperature == {"instruct": 0.7, "thinking": 0.6}[sampling]
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["template"] == template
    assert not list((tmp_path / "out").glob("*.bin"))
    (halved.instruct.folder / "pytorch_model.bin").unlink()


def test_a_tied_head_that_a_vendor_stores_twice_is_written_once(folders, tmp_path):
    """Qwen3-0.6B does: a head of its own in the file, though the config ties it."""
    made = []
    for folder in folders("qwen3"):
        copy = Path(shutil.copytree(folder, tmp_path / Path(folder).name))
        weights = load_file(copy / "model.safetensors")
        save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, copy / "model.safetensors", {"format": "pt"})
        made.append(str(copy))
    pair = open_pair(*made)
    assert "lm_head.weight" in pair.names
    done = export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert done.error < 1e-5 and "lm_head.weight" not in tensors(tmp_path / "out") and strict(tmp_path / "out")


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux tells and resets the largest memory a process had")
def test_memory_is_the_block_s_and_not_the_tensor_s(tmp_path, monkeypatch):
    """Two sides of 64 MB and an update, in blocks of 1 MB; whole, the same tensor shows in the same measure."""
    sides = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        save_file({"w": torch.randn(4096, 4096, generator=torch.Generator().manual_seed(seed))}, folder / "model.safetensors")
        sides.append(Checkpoint(str(seed), folder, None, {"w": TensorInfo((4096, 4096), "F32", "model.safetensors")}))
    update = Adapter({"w": (torch.randn(4, 4096), torch.randn(4096, 4))})
    round = rounds.Round(1, [update], {"w": (1.0, 0.0, 1.0)}, {"w": (0.2, 0.8, 0.2)}, {"w": [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]})
    point = ExportPoint(Pair(*sides), round, 0.5, Schedule(), PRESET, False)
    monkeypatch.setattr(materialiser, "BLOCK", 1 << 18)

    def most(work) -> float:
        """MB that memory grows by."""
        Path("/proc/self/clear_refs").write_text("5")
        before = int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])
        work()
        return (int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) - before) / 1024

    entries = {"w": sides[0].entries["w"]}
    _, written = [most(lambda: finish(write_tensors(tmp_path, entries, lambda name: blocks(point, name, entries[name]), dict(w=Future()))))
                  for _ in range(2)]  # the first time is also that of much code
    whole = most(lambda: combine(point.pair, round.adapters, point.recipe, "w"))
    assert written < 16 and 60 < whole < 96, (written, whole)
    exact = combine(point.pair, round.adapters, point.recipe, "w")
    assert (load_file(tmp_path / "model.safetensors")["w"] - exact).abs().max() < 1e-5


# ---- adapters


@torch.inference_mode()
def test_an_adapter_holds_every_round_s_update(folders, tmp_path):
    """Ranks differ, and the second round trained fewer layers: zeros stand where it did not."""
    pair = open_pair(*folders("qwen2", False))
    state = rounds_of(pair, 1)
    some = random_adapter(pair, 7, rank=5)
    some = Adapter({n: ab for n, ab in some.low_rank.items() if "layers.0.self_attn.q_proj" in n or "up_proj" in n})
    round = rounds.rebuild(pair, state, some, 0.8, "original", Schedule())
    done = export(pair, round, 0, tmp_path / "out", adapter=True, schedule=Schedule(mlp=0.5))
    assert done.error < 1e-5
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 2 + 5 and config["base_model_name_or_path"] == pair.instruct.name
    again = load_adapter(tmp_path / "out")
    for name in again.low_rank:
        exact = sum(a.delta(name) for a in round.adapters if name in a.low_rank)
        assert torch.allclose(again.delta(name), exact, atol=1e-6), name
    assert again.low_rank.keys() == state.adapters[0].low_rank.keys()
    ours = materialise(pair, round.adapters, round.instruct)(input_ids=IDS).logits
    base = AutoModelForCausalLM.from_pretrained(pair.instruct.folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path / "out").eval()(input_ids=IDS).logits
    assert (ours - theirs).norm() / ours.norm() < 1e-5
    names: dict = {}
    exec(done.code, names)  # transformers finds the base by itself
    assert (ours - names["model"](input_ids=IDS).logits).norm() / ours.norm() < 1e-5
    planned = plan(pair, round, 0, tmp_path / "other", adapter=True)
    assert planned.dtype == "F32" and planned.tensors == 2 * len(again.low_rank) and planned.template == "instruct"


@pytest.mark.parametrize("number, t", [(0, 0), (1, 0.5), (1, 1)])
def test_what_is_no_update_of_the_instruct_checkpoint_is_no_adapter(pair, tmp_path, number, t):
    with pytest.raises(UserError, match=f"round {number}, t = {t} is no LoRA update.*choose that, or export the whole"):
        plan(pair, rounds_of(pair, number), t, tmp_path / "out", adapter=True)


# ---- refused before work


def refused(pair, out, says, t=0.5, **kwargs):
    with pytest.raises(UserError, match=says):
        plan(pair, rounds.start(pair), t, out, **kwargs)
    with pytest.raises(UserError, match=says):
        export(pair, rounds.start(pair), t, out, **kwargs)


def test_places_that_are_refused(pair, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("the only copy")
    before = tree(tmp_path)
    refused(pair, tmp_path / "theirs", "already exists")
    refused(pair, tmp_path / "theirs", "what no export has written .thesis.txt.", replace=True)
    refused(pair, tmp_path / "file", "is a file", replace=True)
    refused(pair, tmp_path / "file" / "out", "is a file")
    refused(pair, tmp_path / "\0", "cannot be a folder")
    refused(pair, tmp_path / ("x" * 300), "cannot be a folder")
    for folder in (pair.instruct.folder, pair.thinking.folder):
        for out in (folder, folder / "out", folder.parent):
            refused(pair, out, "would mix with", replace=True)
    for t in (-0.1, 1.5, float("nan")):
        refused(pair, tmp_path / "out", "t must lie between 0 and 1", t)
    monkeypatch.setattr(os, "access", lambda *a: False)
    refused(pair, tmp_path / "a" / "b", "is not writable")
    assert tree(tmp_path) == before


def test_too_small_a_disk(pair, tmp_path, monkeypatch):
    size = plan(pair, rounds.start(pair), 0.5, tmp_path / "out").size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, size))  # not enough with the margin
    refused(pair, tmp_path / "out", "make room, or name a folder on another disk")
    assert not tree(tmp_path)


def test_a_link_to_a_checkpoint_is_that_checkpoint(pair, tmp_path):
    (tmp_path / "link").symlink_to(pair.instruct.folder)
    refused(pair, tmp_path / "link", "would mix with", replace=True)


def test_kinds_of_numbers_that_are_not_known(pair, tmp_path):
    odd = {n: dataclasses.replace(e, dtype="F8_E4M3") for n, e in pair.instruct.entries.items()}
    with pytest.raises(UserError, match="as F8_E4M3; export knows F32"):
        plan(Pair(dataclasses.replace(pair.instruct, entries=odd), pair.thinking), rounds.start(pair), 0, tmp_path / "out")


# ---- whole or not at all


def test_replacing(pair, tmp_path):
    """An empty folder and an earlier export go; one to which somebody added a file stays."""
    round = rounds.start(pair)
    (tmp_path / "out").mkdir()
    export(pair, round, 0, tmp_path / "out", replace=True)
    export(pair, round, 1, tmp_path / "out", replace=True, shard_bytes=60_000)
    assert torch.equal(tensors(tmp_path / "out")["model.norm.weight"], pair.thinking.tensor("model.norm.weight"))
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out" / "notes.md").write_text("mine")
    before = tree(tmp_path)
    refused(pair, tmp_path / "out", "what no export has written .notes.md.", replace=True)
    assert tree(tmp_path) == before


def failing(after: int, error: Exception):
    def call(*args, count=[0]):
        count[0] += 1
        if count[0] > after:
            raise error
        return merge_blocks(*args)
    return call


@pytest.mark.parametrize("where, error, says", [
    ("merge_blocks", OSError(errno.ENOSPC, "No space left on device"), "failed .No space left on device., nothing is left"),
    ("merge_blocks", UserError("truncated"), "truncated"), ("merge_blocks", MemoryError("too much"), "too much"),
    ("merge_blocks", KeyboardInterrupt("now"), "now"),
    ("reload", RuntimeError("bad file"), "bad file"), ("model_card", OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ("fsync_tree", OSError(errno.EIO, "Input/output error"), "Input/output error")])
@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_leaves_nothing_and_what_was_there_unharmed(pair, tmp_path, monkeypatch, where, error, says, replace):
    round, out = rounds.start(pair), tmp_path / "deep" / "er" / "out"
    if replace:
        export(pair, round, 0, out)
    before = tree(tmp_path)
    owner = {"reload": verify, "merge_blocks": layout}.get(where, exporter)
    monkeypatch.setattr(owner, where, failing(5 if where == "merge_blocks" else 0, error))
    kind = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(kind, match=says):
        export(pair, round, 0.5, out, replace=replace)
    assert tree(tmp_path) == before  # not even the folders above


def test_a_rename_that_fails_gives_the_old_folder_back(pair, tmp_path, monkeypatch):
    round, real = rounds.start(pair), os.rename
    export(pair, round, 0, tmp_path / "out")
    before = tree(tmp_path)

    def rename(a, b):
        if HIDDEN in str(a):
            raise OSError(errno.EACCES, "Permission denied")
        real(a, b)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(UserError, match="Permission denied"):
        export(pair, round, 1, tmp_path / "out", replace=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("stage", ["write", "verify"])
def test_cancelled(pair, tmp_path, monkeypatch, stage, large):
    """By the callable, and by closing the generator, as a page does whose tab is closed. A large one's comparison is at work then."""
    if large:
        monkeypatch.setattr(export_point, "LARGE_BYTES", 0)
    for how in ("callable", "close"):
        told = []
        steps = exporter.export(request(pair, rounds.start(pair), 0.5, tmp_path / "a" / "out"),
                               cancelled=lambda: how == "callable" and bool(told) and told[-1][0] == stage)
        with pytest.raises(UserError, match="cancelled; nothing is left") if how == "callable" else nullcontext():
            for step in steps:
                told.append(step)
                assert any((tmp_path / "a").iterdir())
                if how == "close" and step[0] == stage:
                    steps.close()
        assert told[-1][0] == stage and not tree(tmp_path)


def test_a_name_that_appears_meanwhile_is_not_overwritten(pair, tmp_path):
    steps = exporter.export(request(pair, rounds.start(pair), 0.5, tmp_path / "out"))
    next(steps)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").write_text("new")
    with pytest.raises(UserError, match="already exists"):
        finish(steps)
    assert list(tree(tmp_path)) == ["out", "out/theirs"]


def test_what_killed_exports_left_is_swept(pair, tmp_path):
    """Before free space is counted, or it would stand in the way for ever."""
    dead, alive, other = (tmp_path / f"{HIDDEN}{name}" for name in (f"{2**22 + 1}-x", f"{os.getpid()}-x", "notes-x"))
    for folder in (dead, alive, other):
        folder.mkdir()
    plan(pair, rounds.start(pair), 0, tmp_path / "out")
    assert not dead.exists() and alive.exists() and other.exists()


# ---- verified


def test_wrong_numbers_are_refused_with_their_figure(pair, tmp_path, monkeypatch):
    def swapped(pair, adapters, point, name, step):
        return (rows * (1.01 if "1.mlp.up_proj" in name else 1) for rows in merge_blocks(pair, adapters, point, name, step))

    monkeypatch.setattr(layout, "merge_blocks", swapped)
    with pytest.raises(UserError, match=r"differ from the live blend by 0\.01 at layer 2, MLP .*rounding explains 0.0001, so nothing was kept"):
        export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert not tree(tmp_path)


def test_not_a_number_is_refused(halved, tmp_path, monkeypatch):
    real = merge_blocks
    monkeypatch.setattr(layout, "merge_blocks", lambda *a: (rows * (float("nan") if "norm" in a[3] else 1) for rows in real(*a)))
    with pytest.raises(UserError, match="by nan at layer 1, first norm"):
        export(halved, rounds.start(halved), 0.5, tmp_path / "out")


def test_what_transformers_does_not_know_is_refused(pair, tmp_path, monkeypatch):
    """It would drop the tensor, or make a missing one up, and go on."""
    real = checkpoint_entries
    monkeypatch.setattr(exporter, "checkpoint_entries", lambda *a: {n: e for n, e in real(*a).items() if "1.mlp.up_proj" not in n})
    with pytest.raises(UserError, match="missing keys.*up_proj"):
        export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert not tree(tmp_path)


def test_a_tokenizer_that_does_not_travel_is_refused(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "TOKENIZER", tuple(n for n in TOKENIZER if n != "chat_template.jinja"))
    with pytest.raises((UserError, ValueError), match="chat template|chat_template"):
        export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert not tree(tmp_path)


def test_the_page_s_blend_serves(pair, tmp_path, monkeypatch):
    """It holds other runs' adapters, too, and others decode on it: it is theirs between any two parts."""
    round = rounds_of(pair, 2)
    blend = Blend(pair, [random_adapter(pair, 9), *round.adapters])
    events = []

    @contextmanager
    def turn():
        events.append("in")
        yield
        events.append("out")

    blend.model.model.layers[1].mlp.register_forward_hook(lambda *_: events.append("blend"))
    monkeypatch.setattr(verify, "reload", lambda *a, real=verify.reload: (events.append("loaded"), real(*a))[1])
    moved = {n: (c[0], c[1], 0.0, *c[2:]) for n, c in round.point(0.3).items()}
    done = export(pair, round, 0.3, tmp_path / "out", blend=blend, recipe=moved, turn=turn)
    assert done.error < 1e-5 and events[0] == "loaded" and events.count("blend") == len(verify.PROBES)
    assert all(events[i - 1:i + 2] == ["in", "blend", "out"] for i, event in enumerate(events) if event == "blend")
    with pytest.raises(UserError, match="differ from the live blend"):  # the wrong basis shows
        export(pair, round, 0.3, tmp_path / "other", blend=blend)


def test_a_four_bit_blend_has_a_wider_bound(pair, tmp_path):
    done = export(pair, rounds.start(pair), 0.5, tmp_path / "out", preset=dataclasses.replace(PRESET, four_bit=True))
    assert 0.05 < done.error < 0.3


def test_a_layer_that_adds_nothing_is_no_difference(pair):
    """0 / 0: a pruned model, or one that was grown with empty layers, could not be exported."""
    blend, same = Blend(pair), verify.Comparison()
    blend.place([rounds.start(pair).point(0.5)])
    with torch.no_grad():
        for side in blend.model.model.layers[0].mlp.down_proj.layers:
            side.weight.zero_()
    blend.model.model.layers[0].mlp.down_proj.stacked = None
    hidden = torch.ones(1, 2, pair.config.hidden_size)
    same.same = [torch.tensor([True])]
    same.hear(blend, "layer 1, MLP", (hidden,), {}, 0 * hidden)
    assert same.judged({torch.float32}).error == 0
    same.hear(blend, "layer 1, MLP", (hidden,), {}, 0 * hidden + 1e-9)
    with pytest.raises(UserError, match="by inf at layer 1, MLP"):
        same.judged({torch.float32})


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("family, tied", [("qwen3", True), ("qwen2", False)])
def test_a_large_one_is_verified_from_the_disk(folders, tmp_path, monkeypatch, family, tied, adapter):
    """A 4 B pair: two sides live and a third model plain would be 48 GB; layer by layer the same is compared in some MB."""
    pair = open_pair(*folders(family, tied))
    round, t = rounds_of(pair, 2), 0 if adapter else 0.4
    small = export(pair, round, t, tmp_path / "small", adapter=adapter)
    monkeypatch.setattr(export_point, "LARGE_BYTES", 0)
    monkeypatch.setattr(exporter, "KEPT", 1)  # the writer is one layer ahead of the comparison; it waited for layers whose vectors it had to write first
    whole = Blend.__init__
    monkeypatch.setattr(Blend, "__init__", lambda self, *a, **k: (whole(self, *a, **k), seen.append(sum(p.numel() for p in self.parameters())))[0])
    seen = []
    large = export(pair, round, t, tmp_path / "large", adapter=adapter)
    assert large.error < 1e-5 and large.same_tokens == small.same_tokens == 1
    assert seen and max(seen) < 0.05 * pair.parameters  # gains and biases only
    monkeypatch.setattr(layout, "merge_blocks", lambda *a: (rows * (1.01 if "1.mlp.up_proj" in a[3] else 1) for rows in merge_blocks(*a)))
    if not adapter:
        with pytest.raises(UserError, match="by 0.01 at layer 2, MLP"):
            export(pair, round, t, tmp_path / "wrong")


@pytest.mark.parametrize("where", ["probes", "open_offloaded", "record_parts"])
def test_a_comparison_that_fails_meanwhile_holds_nobody_up(pair, tmp_path, monkeypatch, where):
    monkeypatch.setattr(export_point, "LARGE_BYTES", 0)
    monkeypatch.setattr(exporter, "KEPT", 1)
    monkeypatch.setattr(verify, where, failing(0, UserError("the comparison broke")))
    with pytest.raises(UserError, match="the comparison broke"):
        export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert not tree(tmp_path)


def test_a_writer_that_fails_meanwhile_ends_the_comparison(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(export_point, "LARGE_BYTES", 0)
    monkeypatch.setattr(layout, "merge_blocks", failing(12, OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert not tree(tmp_path) and not [t for t in threading.enumerate() if t.name.startswith("ThreadPool")]


def test_hashes_are_those_of_the_files(pair, tmp_path):
    export(pair, rounds.start(pair), 0.5, tmp_path / "out", shard_bytes=60_000)
    out = tmp_path / "out"
    told = json.loads((out / "recipe.json").read_text())["sha256"]
    assert len(told) > 2 and told == json.loads((out / "model.safetensors.index.json").read_text())["metadata"]["sha256"]
    assert told == {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in out.glob("*.safetensors")}


@pytest.mark.parametrize("schedule", [Schedule(), Schedule(attention=0.5, mlp=1.5, norm=0, embedding=0.25), Schedule(depth=(0.2, 1.0, 0.6))])
def test_the_mergekit_recipe_means_the_same(pair, tmp_path, schedule):
    """Read as mergekit reads it: first filter that is part of the name, gradients over the layers (evaluate_setting, gradient_weighted_average)."""
    export(pair, rounds.start(pair), 0.6, tmp_path / "out", schedule)
    config = yaml.safe_load((tmp_path / "out" / "mergekit.yml").read_text())
    [piece] = config["slices"]
    depth = piece["sources"][0]["layer_range"][1]
    assert config["merge_method"] == "slerp" and config["base_model"] == piece["sources"][0]["model"] and depth == pair.config.num_hidden_layers

    def t_of(name):
        value = next(v["value"] for v in config["parameters"]["t"] if v.get("filter", "") in name)
        if not isinstance(value, list):
            return value
        layer = recipe.layer_of(name)
        destination = (0 if layer is None else layer / max(1, depth - 1)) * (len(value) - 1)
        low = min(int(destination), len(value) - 2)
        return value[low] * (1 - (destination - low)) + value[low + 1] * (destination - low)

    for name in pair.names:
        if recipe.layer_of(name) is not None or recipe.module_kind(name) == "embedding":
            assert t_of(name) == pytest.approx(recipe.scheduled_t(name, 0.6, schedule, depth), abs=1e-9), name


def test_updates_have_no_mergekit_recipe(pair, tmp_path):
    export(pair, rounds_of(pair, 1), 0.5, tmp_path / "out")
    assert not (tmp_path / "out" / "mergekit.yml").exists()


# ---- the card


def read_card(folder: Path) -> tuple[dict, str]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = re.split("^---\n", text, maxsplit=2, flags=re.M)
    return yaml.safe_load(front), body


def scored(folder: Path, rounds=(0, 1, 2)) -> Path:
    for r in rounds:
        for i, role in enumerate(("instruct", "thinking")):
            row = dict(round=r, phase="measure", step=30, total=30, checkpoint=role, n=30, correct=10 + r, accuracy=(10 + r) / 30,
                       low=0.1, high=0.5, think_rate=float(i), mean_tokens=4.25)
            runs.append(folder / "events.jsonl", dict(row, step=10), row)
    return folder


def test_the_card(pair, tmp_path):
    done = export(pair, rounds_of(pair, 1), 0.5, tmp_path / "a b" / "out", Schedule(mlp=0.5), run=scored(tmp_path / "my-run"))
    front, body = read_card(done.folder)
    assert front == dict(library_name="transformers", pipeline_tag="text-generation", tags=["merge", "thinkswitch"])
    assert "| instruct | `" + "/".join(pair.instruct.folder.parts[-2:]) in body and "`my-run`" in body and '"mlp": 0.5' in body
    assert "| 1 | instruct | 30 | 36.7 % [10.0, 50.0] | 0.00 | 4.2 |" in body and "| 2 |" not in body and body.count("| 0 | ") == 2
    assert "not of this point" in body and f"differ by more than {done.error:.2g} of their norm" in body
    code = re.search("```python\n(.*?)\n```", body, re.S)[1]
    assert len(code.splitlines()) == 3 and "'./out'" in code and "'./out'" not in done.code and len(done.code.splitlines()) == 3
    written = body + (done.folder / "recipe.json").read_text() + (done.folder / "config.json").read_text()
    assert str(tmp_path) not in written and not re.search(r"/(?:home|root|work|tmp|Users)/", written)
    names: dict = {}
    exec(done.code, names)
    assert names["model"].dtype == torch.float32 and names["tokenizer"].chat_template


@pytest.mark.parametrize("t, schedule", [(0, Schedule()), (1, Schedule()), (1, Schedule(mlp=0.5))])
def test_scores_are_claimed_only_by_what_was_measured(pair, tmp_path, t, schedule):
    done = export(pair, rounds_of(pair, 1), t, tmp_path / "out", schedule, run=scored(tmp_path / "run"))
    assert ("not of this point" in read_card(done.folder)[1]) is (schedule != Schedule())


def test_a_bare_pair_has_no_scores(pair, tmp_path):
    assert "Nothing was measured." in read_card(export(pair, rounds.start(pair), 0, tmp_path / "out").folder)[1]


@pytest.mark.parametrize("adapter", [False, True])
def test_hub_ids_stay_whole(pair, tmp_path, adapter):
    """On the Hub the card links both parents; an adapter has one."""
    parents = ["Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Thinking-2507"]
    hub = Pair(*(dataclasses.replace(side, name=name) for side, name in zip((pair.instruct, pair.thinking), parents)))
    front, body = read_card(export(hub, rounds_of(pair, 1), 0, tmp_path / "out", adapter=adapter).folder)
    assert front["base_model"] == (parents[:1] if adapter else parents) and all(f"`{p}`" in body for p in parents)
    assert (front["library_name"], front["base_model_relation"]) == (("peft", "adapter") if adapter else ("transformers", "merge"))


def test_hostile_names_stay_names(pair, tmp_path):
    evil = "x`|\n---\nlicense: mit\n---\n<script>alert(1)</script>\n```"
    hub = Pair(dataclasses.replace(pair.instruct, name=f"{evil}: [a"), pair.thinking)
    out, run = tmp_path / "o'ut\"\n```\nimport os", scored(tmp_path / evil.replace("/", ""))
    done = export(hub, rounds.start(pair), 0.5, out, preset=dataclasses.replace(PRESET, name=evil), run=run)
    front, body = read_card(done.folder)
    assert front["base_model"] == [" ".join(f"{evil}: [a".split())]
    assert list(front) == ["library_name", "pipeline_tag", "base_model", "base_model_relation", "tags"]
    for line in body.splitlines():
        assert "<script>" not in line or re.search(r"`[^`]*<script>[^`]*`", line), line
    assert len(re.findall("^```", body, re.M)) == 2 and not re.search("^(import os|license|---)", body, re.M)
    names: dict = {}
    exec(done.code, names)
    assert names["model"] is not None
