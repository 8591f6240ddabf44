"""A point as a GGUF base and a GGUF LoRA: names, shapes and order of rows; its scale is the slider."""

import dataclasses
import json
import shlex
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from conftest import random_adapter
from thinkswitch import rounds
from thinkswitch.cli.main import parser
from thinkswitch.errors import UserError
from thinkswitch.export import export as exporter
from thinkswitch.export import gguf_families, gguf_layout, gguf_lora, llama_cpp
from thinkswitch.export.formats import offers
from thinkswitch.recipe import Schedule
from thinkswitch.weights.adapter import load_adapter
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import open_pair
from unit.adapter_helpers import ALL_LINEAR, load, merge, save_adapter
from unit.export_helpers import PRESET, after_rounds, export, make_request
from unit.gguf_helpers import needs_llama_cpp, save_bpe_pair

SMALL = 0.14  # of an adapter's A and B: 2 % of a weight, where SLERP is LERP
LARGE = 0.7
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
KINDS = {  # family, settings, tied head, modules that the adapter changes
    "llama": ("llama", GROUPED, True, ALL_LINEAR),
    "llama, untied": ("llama", GROUPED, False, ["k_proj", "o_proj", "gate_proj"]),
    "mistral": ("mistral", GROUPED, True, ALL_LINEAR),
    "qwen2": ("qwen2", GROUPED, True, ALL_LINEAR),
    "qwen3": ("qwen3", GROUPED, False, ["q_proj", "v_proj", "down_proj"]),
}


def lora_pair(folder: Path, kind: str = "qwen3", size: float = LARGE, **settings):
    family, changes, tied, modules = KINDS[kind]
    instruct = save_bpe_pair(folder, family, tied, **changes).instruct.folder
    settings = {"target_modules": modules} | settings
    return open_pair(str(instruct), save_adapter(str(instruct), folder / "adapter", size, **settings))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`exported(kind)`: (pair, what an export of t = 1 says, its folder)."""
    made = {}

    def get(kind: str):
        if kind not in made:
            folder = tmp_path_factory.mktemp("lora")
            pair = lora_pair(folder, kind)
            out = folder / "out"
            done = export(pair, rounds.start(pair), 1.0, out, gguf=("BF16", "LORA"), preset=PRESET)
            made[kind] = pair, done, out
        return made[kind]

    return get


@pytest.fixture
def without_llama_cpp(monkeypatch):
    monkeypatch.setattr(llama_cpp, "is_here", lambda: False)


def files_of(folder: Path) -> tuple[Path, Path]:
    """(base, LoRA)"""
    [lora] = folder.glob("*-LoRA.gguf")
    [base] = set(folder.glob("*.gguf")) - {lora}
    return base, lora


def updates_in(file: Path, pair) -> dict[str, torch.Tensor]:
    """B A of every weight of a LoRA file, in the order of rows of the checkpoint."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    config = pair.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found = {}
    for name in [name for name in stored if name.endswith(".lora_a")]:
        weight = name.removesuffix(".lora_a")
        a, b = stored.pop(name), stored.pop(f"{weight}.lora_b")
        rows = torch.from_numpy(np.array(b.data, dtype=np.float32))
        count = heads.get(weight.split(".")[-2]) if config.model_type in ("llama", "mistral") else None
        if count:  # back from neighbours to halves
            rows = rows.reshape(count, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
        found[weight] = rows @ torch.from_numpy(np.array(a.data, dtype=np.float32))
    assert not stored
    return found


def llama_cpp_name(pair, source: str) -> str:
    arch = gguf_families.FAMILIES[pair.config.model_type].architecture
    names = gguf.get_tensor_name_map(gguf_layout.ARCHITECTURE_IDS[arch], 2)
    return names.get_name(source, (".weight", ".bias"))


# ---- tensors and keys


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_holds_the_update_under_llama_cpp_s_names(exported, kind):
    pair, _, out = exported(kind)
    base, lora = files_of(out)
    found = updates_in(lora, pair)
    adapter = pair.update
    assert found.keys() == {llama_cpp_name(pair, name) for name in adapter.low_rank}
    for name in adapter.low_rank:
        assert torch.allclose(found[llama_cpp_name(pair, name)], adapter.delta(name), atol=1e-5), name
    fields = gguf.GGUFReader(lora).fields
    assert fields["general.type"].contents() == "adapter" and fields["adapter.type"].contents() == "lora"
    assert fields["adapter.lora.alpha"].contents() == 4  # the rank: its scale is in B
    of_base = gguf.GGUFReader(base).fields["general.architecture"].contents()
    assert fields["general.architecture"].contents() == of_base


def test_the_base_is_the_instruct_checkpoint(exported, without_llama_cpp, tmp_path):
    pair, _, out = exported("llama")
    base, _ = files_of(out)
    export(pair, rounds.start(pair), 0.0, tmp_path / "plain", gguf=("BF16",))
    [plain] = (tmp_path / "plain").glob("*.gguf")
    ours, theirs = gguf.GGUFReader(base).tensors, gguf.GGUFReader(plain).tensors
    assert [tensor.name for tensor in ours] == [tensor.name for tensor in theirs]
    assert all(np.array_equal(a.data, b.data) for a, b in zip(ours, theirs, strict=True))


@needs_llama_cpp
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_computes_at_every_scale_what_the_live_blend_does(exported, kind):
    _, done, _ = exported(kind)  # it is refused where they differ beyond rounding
    assert done.same_tokens >= 0.8
    assert "at the scales 0, 0.25, 0.5, 0.75, 1 is the live blend's" in done.verified


@needs_llama_cpp
def test_a_scale_is_the_pair_s_own_t_where_slerp_is_lerp(tmp_path):
    """What the scales compute differs from each other, so a scale that is ignored shows."""
    pair = lora_pair(tmp_path, "llama", SMALL)
    state = rounds.start(pair)
    export(pair, state, 1.0, tmp_path / "out", gguf=("BF16", "LORA"))
    assert "arc" not in (tmp_path / "out" / "README.md").read_text("utf-8")
    base, lora = files_of(tmp_path / "out")
    prefixes = [[5 + i, 60, 7] for i in range(20)]
    scales = (0.0, 0.5, 1.0, 40.0)  # far beyond the end the answers are others
    _, likeliest = llama_cpp.ask(base, [], prefixes, lora, scales)
    blend = Blend(pair, [])
    for t, tokens in zip(scales[:3], likeliest, strict=False):
        blend.place([state.point(t)])
        with torch.inference_mode():
            logits = torch.stack([blend(input_ids=torch.tensor([ids])).logits[0, -1] for ids in prefixes])
        top = logits.max(-1).values
        theirs = [logits[i, 0 if token is None else token] for i, token in enumerate(tokens)]
        behind = [float(x - y) for x, y, token in zip(top, theirs, tokens, strict=True) if token is not None]
        assert len(behind) >= 15 and max(behind) < 0.25
    assert likeliest[3] != likeliest[0]


@needs_llama_cpp
def test_what_was_read_at_another_scale_is_not_reused(exported):
    """llama.cpp's cache of prompts does not know the scale: after a change it gave back the old tokens."""
    base, lora = files_of(exported("qwen3")[2])
    prefixes = [[1 + i * 7 % 300 for i in range(20)], [3 + i * 11 % 300 for i in range(25)]] * 4
    prefixes = [prefix[: 8 + i] for i, prefix in enumerate(prefixes)]
    _, moved = llama_cpp.ask(base, [], prefixes, lora, (0.0, 0.25, 1.0, 0.0))
    _, [alone] = llama_cpp.ask(base, [], prefixes, lora, (1.0,))
    assert moved[2] == alone and moved[3] == moved[0] != alone


@needs_llama_cpp
def test_rows_in_the_order_of_the_checkpoint_are_told_from_rounding(monkeypatch, exported, tmp_path):
    """The base's queries and keys are reordered, so B's must be."""
    pair, _, _ = exported("llama")
    monkeypatch.setattr(gguf_lora, "heads_of", lambda *_: 0)
    with pytest.raises(UserError, match=r"computes something else with .* at the scale"):
        export(pair, rounds.start(pair), 1.0, tmp_path / "out", gguf=("BF16", "LORA"))
    assert not (tmp_path / "out").exists()


@needs_llama_cpp
def test_a_lora_that_llama_cpp_cannot_load_is_a_sentence(exported, tmp_path):
    base, _ = files_of(exported("qwen2")[2])
    _, other = files_of(exported("llama")[2])
    with pytest.raises(UserError, match=r"llama\.cpp does not take what was written"):
        llama_cpp.ask(base, [], [[1]], other)


@pytest.mark.parametrize("settings", [{"use_rslora": True, "lora_alpha": 3}, {"r": 6, "lora_alpha": 20}])
def test_the_scale_of_any_training_is_in_the_file(tmp_path, without_llama_cpp, settings):
    """rsLoRA divides alpha by the root of the rank, which llama.cpp does not know."""
    pair = lora_pair(tmp_path, **settings)
    export(pair, rounds.start(pair), 1.0, tmp_path / "out", gguf=("LORA",))
    found = updates_in(files_of(tmp_path / "out")[1], pair)
    instruct, adapter = str(pair.instruct.folder), str(pair.thinking.folder)
    merged = load(merge(instruct, adapter, tmp_path / "merged")).state_dict()
    for name, weight in load(instruct).state_dict().items():
        update = found.get(llama_cpp_name(pair, name), torch.zeros_like(weight))
        assert torch.allclose(weight + update, merged[name], atol=1e-5), name


def test_16_bits_take_half(exported, tmp_path, without_llama_cpp):
    pair, _, out = exported("qwen3")
    export(pair, rounds.start(pair), 1.0, tmp_path / "out", gguf=("LORA_F16",))
    base, lora = files_of(tmp_path / "out")
    assert base.name.endswith("-Q8_0.gguf") and lora.name.endswith("-F16-LoRA.gguf")
    whole = files_of(out)[1]
    types = [{tensor.tensor_type for tensor in gguf.GGUFReader(file).tensors} for file in (lora, whole)]
    assert types == [{Type.F16}, {Type.F32}] and lora.stat().st_size < 0.6 * whole.stat().st_size
    for name, update in updates_in(lora, pair).items():
        exact = updates_in(whole, pair)[name]
        assert 0 < (update - exact).norm() / exact.norm() < 2e-3


def test_a_matrix_beyond_16_bits_is_refused(tmp_path, without_llama_cpp):
    """It would have become infinity."""
    pair = lora_pair(tmp_path, lora_alpha=10_000_000)
    with pytest.raises(UserError, match="too large for 16 bits; ask for LORA instead"):
        export(pair, rounds.start(pair), 1.0, tmp_path / "out", gguf=("LORA_F16",))
    assert not (tmp_path / "out").exists()


def test_a_damaged_lora_leaves_nothing(monkeypatch, exported, tmp_path, without_llama_cpp):
    write_files = exporter.write_files

    def damaging(point, files):
        written = yield from write_files(point, files)
        content = bytearray(files[0].path.read_bytes())
        if files[0].quantisation == "LORA":
            content[-40] ^= 255
        files[0].path.write_bytes(content)
        return written

    monkeypatch.setattr(exporter, "write_files", damaging)
    pair, _, _ = exported("qwen3")
    with pytest.raises(UserError, match=r"LoRA\.gguf is not what was written"):
        export(pair, rounds.start(pair), 1.0, tmp_path / "out", gguf=("BF16", "LORA"))
    assert not (tmp_path / "out").exists()


# ---- rounds


@needs_llama_cpp
def test_after_a_round_the_base_is_its_instruct_checkpoint(exported, tmp_path):
    """So the scale leads from the trained instinct to the rebuilt deliberation.

    The page's blend holds adapters of other runs, too.
    """
    pair = lora_pair(tmp_path, "llama", SMALL)
    update = random_adapter(pair, 0, size=0.1)
    state = rounds.rebuild(pair, rounds.start(pair), update, 0.8, "original", Schedule())
    blend = Blend(pair, [random_adapter(pair, 9), *state.adapters])
    out = tmp_path / "out"
    export(pair, state, 1.0, out, gguf=("BF16", "LORA"), blend=blend, slots=[1])
    base, lora = files_of(out)
    assert "-round-1-t0-" in base.name and "-round-1-t1-" in lora.name
    export(pair, state, 0.0, tmp_path / "plain", gguf=("BF16",))
    [plain] = (tmp_path / "plain").glob("*.gguf")
    ours, theirs = gguf.GGUFReader(base).tensors, gguf.GGUFReader(plain).tensors
    assert all(np.array_equal(a.data, b.data) for a, b in zip(ours, theirs, strict=True))
    name = "model.layers.0.self_attn.q_proj.weight"
    instruct, thinking = state.instruct[name], state.thinking[name]
    expected = thinking[1] * pair.update.delta(name)
    expected += (thinking[2] - instruct[2]) * state.adapters[0].delta(name)
    assert torch.allclose(updates_in(lora, pair)[llama_cpp_name(pair, name)], expected, atol=1e-5)


@needs_llama_cpp
def test_what_the_rounds_have_changed_is_a_lora_of_two_checkpoints_too(tmp_path):
    pair = save_bpe_pair(tmp_path, "llama", **GROUPED)
    state = after_rounds(pair, 2)
    done = export(pair, state, 0.0, tmp_path / "out", gguf=("BF16", "LORA"))
    base, lora = files_of(tmp_path / "out")
    assert done.same_tokens >= 0.8
    assert "-round-0-t0-" in base.name and "-round-2-t0-" in lora.name
    assert "50 % of what the rounds have changed" in done.code
    name = "model.layers.1.mlp.up_proj.weight"
    expected = sum(adapter.delta(name) for adapter in state.adapters)
    assert torch.allclose(updates_in(lora, pair)[llama_cpp_name(pair, name)], expected, atol=1e-5)


# ---- what cannot be had


def test_what_is_no_lora_is_refused_and_the_card_is_off(exported, tmp_path):
    pair, _, _ = exported("qwen3")
    two = save_bpe_pair(tmp_path, "qwen3")
    for chosen, t in ((pair, 0.0), (pair, 0.5), (two, 1.0)):  # nothing, SLERP's arc, another checkpoint
        request = make_request(chosen, rounds.start(chosen), t, tmp_path / "out", gguf=("LORA",))
        with pytest.raises(UserError, match="is no LoRA update of the instruct checkpoint"):
            exporter.plan_export(request)
        [card] = [offer for offer in offers(request.point) if offer.format.name == "GGUF LORA"]
        assert "is no LoRA update" in card.reason
    point = make_request(pair, rounds.start(pair), 1.0, tmp_path / "out").point
    [card] = [offer for offer in offers(point) if offer.format.name == "GGUF LORA"]
    assert card.size and not card.reason
    both = make_request(pair, rounds.start(pair), 1.0, tmp_path / "out", gguf=("LORA", "LORA_F16"))
    with pytest.raises(UserError, match="ask for one of LORA, LORA_F16"):
        exporter.plan_export(both)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"use_dora": True}, "use_dora=True"), ({"modules_to_save": ["lm_head"]}, "modules_to_save")],
)
def test_what_llama_cpp_cannot_take_is_refused_when_the_pair_is_opened(tmp_path, settings, says):
    with pytest.raises(UserError, match=says):
        lora_pair(tmp_path, **settings)


# ---- beside the files


def test_the_commands_are_the_slider(tmp_path, without_llama_cpp):
    pair = lora_pair(tmp_path, size=SMALL)
    out = tmp_path / "a folder: mine"  # llama.cpp would end the LoRA's path at the colon
    preset = dataclasses.replace(PRESET, name="my pair")
    done = export(pair, rounds.start(pair), 0.8, out, gguf=("Q8_0", "LORA"), preset=preset)
    base, lora = files_of(out)
    lines = done.code.splitlines()
    assert shlex.split(lines[0]) == ["cd", str(out)]
    servers = [shlex.split(line, comments=True) for line in lines if "--lora-scaled" in line]
    assert [server[:3] for server in servers] == [["llama-server", "-m", base.name]] * 5
    assert [server[4] for server in servers] == [
        f"{lora.name}:{x}" for x in ("0", "0.25", "0.5", "0.75", "1")
    ]
    assert "# t = 0.4" in done.code and "/lora-adapters" in done.code and '"scale": 0.6' in done.code
    assert f"--lora {lora.name} --no-cache-prompt" in done.code
    modelfile = (out / "Modelfile").read_text("utf-8").splitlines()
    assert modelfile[0] == f"FROM ./{base.name}" and f"ADAPTER ./{lora.name}" in modelfile
    card = (out / "README.md").read_text("utf-8")
    assert "Ollama has no scale" in card and "LoRA of rank 4" in card and "- lora" in card
    kept = json.loads((out / "recipe.json").read_text("utf-8"))
    assert kept["sha256"].keys() == {base.name, lora.name} and kept["kind"] == "gguf"


def test_an_arc_is_said(exported):
    """At |update| beyond 3 % of a weight the studio's slider is no straight line."""
    assert "on SLERP's arc" in (exported("llama")[2] / "README.md").read_text("utf-8")


def test_kinds_may_be_written_in_small_letters():
    args = parser().parse_args(["export", "run", "--point", "1", "--out", "x", "--gguf", "lora", "q8_0"])
    assert args.gguf == ["LORA", "Q8_0"]


def test_all_that_is_written_is_planned(tmp_path, without_llama_cpp):
    pair = lora_pair(tmp_path)
    request = make_request(pair, rounds.start(pair), 1.0, tmp_path / "out", gguf=("LORA",))
    planned = exporter.plan_export(request)
    done = export(pair, rounds.start(pair), 1.0, tmp_path / "out", gguf=("LORA",))
    assert planned.dtype == "Q8_0/LORA" and abs(planned.size - done.size) < 60_000  # keys and vocabulary
    assert load_adapter(pair.thinking.folder).low_rank.keys() == pair.update.low_rank.keys()
