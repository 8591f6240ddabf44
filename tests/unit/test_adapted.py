"""A pair of a checkpoint and an adapter on it is the same pair as two checkpoints, with half the weights."""

import shutil
from pathlib import Path

import pytest
import torch

from conftest import byte_tokenizer, random_adapter
from thinkswitch import memory_plan, rounds
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, load_preset
from thinkswitch.recipe import Schedule
from thinkswitch.rounds import Round
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair, open_pair
from unit.adapter_helpers import ALL_LINEAR, WEIGHTS, edit_config, edit_weights, merge, save_adapter

TS = (0.0, 0.3, 0.55, 0.8, 1.0)
SHAPES = [("qwen3", True), ("qwen2", True), ("llama", False), ("mistral", False)]
WAYS = {
    "seven projections": {},
    "attention only, rank above alpha": {"target_modules": ["q_proj", "v_proj"], "r": 8, "lora_alpha": 15},
    "rsLoRA": {"use_rslora": True, "r": 8, "lora_alpha": 8},
    "some layers": {"layers_to_transform": [1]},
    "patterned names": {"target_modules": r".*\.mlp\.(up|down)_proj"},
    "revision": {"revision": "unsloth", "lora_dropout": 0.05, "init_lora_weights": "gaussian"},
}


@pytest.fixture
def instruct(folders) -> str:
    return folders("qwen3")[0]


def after_rounds(pair: Pair, count: int) -> Round:
    state = rounds.start(pair)
    for number in range(count):
        state = rounds.rebuild(pair, state, random_adapter(pair, number), 0.8, "previous", Schedule())
    return state


def tokens(pair: Pair, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(5, pair.config.vocab_size, (rows, 8), generator=generator)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def assert_same_pair(ours: Pair, theirs: Pair, count: int = 3) -> None:
    """Equal recipes after some rounds, and equal logits of the live blend at every t."""
    state, expected = after_rounds(ours, count), after_rounds(theirs, count)
    for name in ours.names:
        for side in ("instruct", "thinking"):
            got, want = getattr(state, side)[name], getattr(expected, side)[name]
            assert got == pytest.approx(want, abs=1e-6), (name, side)
    ids = tokens(ours, len(TS))
    blends = Blend(ours, state.adapters), Blend(theirs, expected.adapters)
    for blend, found in zip(blends, (state, expected), strict=True):
        blend.place([found.point(t) for t in TS])
    mine, other = (blend(input_ids=ids).logits for blend in blends)
    assert relative(mine, other) <= 1e-5


# ---- the algebra


@torch.inference_mode()
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}-{'tied' if shape[1] else 'untied'}")
@pytest.mark.parametrize("size", [0.02, 1.0], ids=["straight", "arc"])
def test_blend_equals_materialised_and_two_checkpoints(folders, tmp_path, shape, size):
    """A small update is interpolated by LERP, a large one along SLERP's arc."""
    instruct = folders(*shape)[0]
    adapter = save_adapter(instruct, tmp_path / "adapter", size)
    ours = open_pair(instruct, adapter)
    assert_same_pair(ours, open_pair(instruct, merge(instruct, adapter, tmp_path / "merged")))
    state = after_rounds(ours, 2)
    blend = Blend(ours, state.adapters)
    ids = tokens(ours, len(TS))
    blend.place([state.point(t) for t in TS])
    together = blend(input_ids=ids).logits
    for row, t in enumerate(TS):
        alone = materialise(ours, state.adapters, state.point(t))(input_ids=ids[row : row + 1]).logits[0]
        assert relative(together[row], alone) <= 1e-5, t


@torch.inference_mode()
@pytest.mark.parametrize("way", WAYS)
def test_adapters_made_in_every_plain_way(instruct, tmp_path, way):
    adapter = save_adapter(instruct, tmp_path / "adapter", **WAYS[way])
    theirs = open_pair(instruct, merge(instruct, adapter, tmp_path / "merged"))
    assert_same_pair(open_pair(instruct, adapter), theirs, count=1)


@torch.inference_mode()
def test_an_untied_head_may_be_adapted(folders, tmp_path):
    """peft puts a copy of the head's own weight beside its update, unless told not to: that is refused."""
    instruct = folders("llama", False)[0]
    adapter = save_adapter(instruct, tmp_path / "adapter", target_modules=["lm_head", *ALL_LINEAR])
    copy = "base_model.model.lm_head.base_layer.weight"
    assert f"1 {UNKNOWN} ('{copy}')" in refusal(instruct, adapter)
    merged = merge(instruct, adapter, tmp_path / "merged")
    edit_weights(adapter, lambda weights: without(weights, copy))
    assert_same_pair(open_pair(instruct, adapter), open_pair(instruct, merged), 1)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_adapters_of_any_float_type(instruct, tmp_path, dtype):
    adapter = save_adapter(instruct, tmp_path / "adapter")
    edit_weights(adapter, lambda weights: {key: w.to(dtype) for key, w in weights.items()})
    theirs = open_pair(instruct, merge(instruct, adapter, tmp_path / "merged"))
    assert_same_pair(open_pair(instruct, adapter), theirs, count=0)


@torch.inference_mode()
def test_matrices_on_the_disk(instruct, tmp_path):
    """Large exports are compared with such a blend."""
    pair = open_pair(instruct, save_adapter(instruct, tmp_path / "adapter"))
    state = after_rounds(pair, 1)
    ids = tokens(pair, len(TS))
    blends = Blend(pair, state.adapters), Blend(pair, state.adapters, stored=True)
    for blend in blends:
        blend.place([state.point(t) for t in TS])
    in_memory, stored = (blend(input_ids=ids).logits for blend in blends)
    assert relative(stored, in_memory) <= 1e-5


def test_a_checkpoint_with_its_adapter_is_read_like_any_other(instruct, tmp_path):
    """Whole, some of its rows, or a block at a time."""
    adapter = save_adapter(instruct, tmp_path / "adapter")
    thinking = open_pair(instruct, adapter).thinking
    merged = open_pair(instruct, merge(instruct, adapter, tmp_path / "merged")).thinking
    for name, tensor in thinking.tensors():
        assert torch.allclose(tensor, merged.tensor(name), atol=1e-6)
        rows = slice(3, 20)
        assert torch.equal(thinking.tensor(name, rows), tensor[rows])
        blocks = [block.clone() for block in thinking.stream(name, 7)]
        assert torch.allclose(torch.cat(blocks), tensor.float(), atol=1e-6)


@torch.inference_mode()
def test_4_bits_round_instruct_alone(instruct, tmp_path):
    """As QLoRA does: the update is added to what NF4 made of the instruct checkpoint's weights."""
    pair = open_pair(instruct, save_adapter(instruct, tmp_path / "adapter"))
    blend = Blend(pair, four_bit=True)
    blend.place([rounds.start(pair).thinking])
    ids = tokens(pair, 1)
    model = materialise(pair, [], rounds.start(pair).instruct, four_bit=True)
    for name, (a, b) in pair.update.low_rank.items():
        model.get_submodule(name.removesuffix(".weight")).register_forward_hook(
            lambda _, x, y, a=a, b=b: y + x[0] @ a.T @ b.T
        )
    assert relative(blend(input_ids=ids).logits, model(input_ids=ids).logits) <= 1e-5


def test_the_other_slots_are_free_to_come_and_go(instruct, tmp_path):
    """The pair's own adapter is no slot: removing a round's adapter leaves it in place."""
    pair = open_pair(instruct, save_adapter(instruct, tmp_path / "adapter"))
    blend = Blend(pair)
    ids = tokens(pair, 1)
    thinking = rounds.start(pair).thinking
    blend.place([thinking])
    before = blend(input_ids=ids).logits
    slot = blend.add(random_adapter(pair, 5))
    assert slot == 0
    blend.remove(slot)
    blend.place([thinking])
    assert torch.equal(blend(input_ids=ids).logits, before)


# ---- memory


def test_one_set_of_weights_in_memory_and_in_the_plan(instruct, tmp_path):
    adapter = save_adapter(instruct, tmp_path / "adapter")
    ours = open_pair(instruct, adapter)
    merged = open_pair(instruct, merge(instruct, adapter, tmp_path / "merged"))
    low_rank = sum(a.nbytes + b.nbytes for a, b in ours.update.low_rank.values())
    weights = memory_plan.weight_bytes(ours, 4, False)
    assert Blend(ours).nbytes == pytest.approx(weights + low_rank, rel=1e-3)  # and a rotary table
    assert Blend(merged).nbytes >= 2 * weights
    preset = Preset(device="cpu", four_bit=False)
    plans = [{p.name: p for p in memory_plan.plan_memory(pair, preset)} for pair in (ours, merged)]
    assert plans[0]["compare"].parts["weights"] == weights + low_rank
    assert plans[1]["compare"].parts["weights"] == 2 * weights


# ---- names


def test_the_ways_to_name_an_adapter(instruct, tmp_path, monkeypatch):
    adapter = save_adapter(instruct, tmp_path / "my+adapter")
    plain = save_adapter(instruct, tmp_path / "adapter")
    for thinking in (adapter, plain, f"{instruct}+{plain}"):
        pair = open_pair(instruct, thinking, headers_only=True)
        assert pair.thinking.name in (adapter, plain)
        assert "thinking is instruct + adapter of rank 4 on 14 linear layers" in pair.thinking.remarks
    with pytest.raises(UserError, match="is an adapter on other/model, but instruct is"):
        open_pair(instruct, f"other/model+{plain}")
    with pytest.raises(UserError, match="is no adapter: it has no adapter_config"):
        open_pair(instruct, f"{instruct}+{instruct}")
    with pytest.raises(UserError, match="is an adapter; name it as thinking"):
        open_pair(plain, instruct)


def test_a_preset_finds_both_parts_beside_its_file(instruct, tmp_path):
    save_adapter(instruct, tmp_path / "adapter")
    shutil.copytree(instruct, tmp_path / "instruct")
    (tmp_path / "pair.yaml").write_text("instruct: instruct\nthinking: instruct+adapter\n", "utf-8")
    preset = load_preset(tmp_path / "pair.yaml")
    assert preset.thinking == f"{tmp_path / 'instruct'}+{tmp_path / 'adapter'}"
    assert open_pair(preset.instruct, preset.thinking).update is not None


def test_whole_weights_beside_an_adapter_are_a_checkpoint(folders, tmp_path):
    """As they were before adapters could be named."""
    instruct, thinking = folders("qwen3")
    adapter = save_adapter(instruct, tmp_path / "adapter")
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(Path(thinking) / file, Path(adapter) / file)
    assert open_pair(instruct, adapter).update is None


@pytest.mark.parametrize(
    "base, says",
    [
        ("INSTRUCT", None),
        ("unsloth/Instruct-unsloth-bnb-4bit", None),
        ("unsloth/instruct-bnb-4bit", None),
        ("C:\\models\\instruct", None),
        ("Qwen/Qwen3-4B", "says it was trained on 'Qwen/Qwen3-4B', not on instruct; its shapes fit"),
        ("/home/somebody/models/base", "says it was trained on 'models/base', not on instruct"),
        (None, "does not say which checkpoint it was trained on"),
    ],
)
def test_another_base_is_a_remark(instruct, tmp_path, base, says):
    adapter = save_adapter(instruct, tmp_path / "adapter")
    edit_config(adapter, base_model_name_or_path=base)
    _, *remarks = open_pair(instruct, adapter, headers_only=True).thinking.remarks
    assert len(remarks) == bool(says) and all(says in remark for remark in remarks)


# ---- tokenizer and chat template


def test_the_adapter_s_own_tokenizer_and_template(instruct, tmp_path):
    pair = open_pair(instruct, save_adapter(instruct, tmp_path / "adapter"))
    assert pair.thinking.template_opens_think and not pair.instruct.template_opens_think
    assert pair.thinking.stop_token_ids == pair.instruct.stop_token_ids


def test_a_template_alone_goes_with_the_instruct_tokenizer(instruct, tmp_path):
    adapter = Path(save_adapter(instruct, tmp_path / "adapter"))
    for file in adapter.glob("*token*"):
        file.unlink()
    assert open_pair(instruct, str(adapter)).thinking.template_opens_think
    (adapter / "chat_template.jinja").unlink()
    thinking = open_pair(instruct, str(adapter)).thinking
    assert not thinking.template_opens_think and thinking.remarks[1:] == ()


def test_a_tokenizer_of_another_vocabulary_is_not_used(instruct, tmp_path):
    adapter = save_adapter(instruct, tmp_path / "adapter")
    tokenizer = byte_tokenizer("<new><think>\n")
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(adapter)
    thinking = open_pair(instruct, adapter).thinking
    assert not thinking.template_opens_think
    assert "tokenizer is not used: the tokenizers differ in 1 tokens ('<new>')" in thinking.remarks[-1]


# ---- what is refused


def refusal(instruct: str, adapter: str) -> str:
    with pytest.raises(UserError) as caught:
        open_pair(instruct, adapter)
    return str(caught.value)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "modules_to_save=['embed_tokens', 'lm_head']"),
        ({"modules_to_save": ["norm"]}, "modules_to_save=['norm']"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern={'q_proj': 8}"),
        ({"alpha_pattern": {"q_proj": 16}}, "alpha_pattern={'q_proj': 16}"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embed_tokens.lora_embedding_A"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices=[1, 2]"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication="),
    ],
)
def test_what_peft_can_do_and_a_recipe_cannot_hold(folders, tmp_path, settings, says):
    """PEFT saves these; the first reader left out what it did not know without a word."""
    instruct = folders("llama", False)[0]
    sentence = refusal(instruct, save_adapter(instruct, tmp_path / "adapter", **settings))
    assert says in sentence and "merge it into its checkpoint with peft" in sentence


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"setting_of_tomorrow": 3}, "setting_of_tomorrow=3"),
        ({"r": 0}, "has the rank 0"),
        ({"r": None}, "has the rank None"),
        ({"r": 5}, "no update of rank 5"),
        ({"lora_alpha": "many"}, "lora_alpha 'many'"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
    ],
)
def test_settings_that_are_refused(instruct, tmp_path, changes, says):
    adapter = save_adapter(instruct, tmp_path / "adapter")
    edit_config(adapter, **changes)
    assert says in refusal(instruct, adapter)


KEY = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
UNKNOWN = "tensors that are no LoRA update of a linear layer"


def without(weights: dict, key: str) -> dict:
    return {name: tensor for name, tensor in weights.items() if name != key}


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda w: {}, "is empty: adapter_model.safetensors holds no tensors"),
        (lambda w: w | {"base_model.model.lm_head.weight": torch.ones(3, 4)}, f"1 {UNKNOWN}"),
        (lambda w: w | {"base_model.model.model.norm.weight": torch.ones(64)}, f"1 {UNKNOWN}"),
        (lambda w: w | {"transformer.lora_A.weight": torch.ones(4, 64)}, f"1 {UNKNOWN}"),
        (lambda w: without(w, KEY), f"1 {UNKNOWN}"),
        (lambda w: without(w, KEY.replace("_A", "_B")), "lacks the tensor"),
        (lambda w: w | {KEY: torch.ones(4, 64, dtype=torch.int8)}, "as I8"),
        (lambda w: w | {KEY: torch.ones(3, 64)}, "which is no update of rank 4"),
        (lambda w: w | {KEY: torch.ones(4, 65)}, "1 of its 14 updates are of other layers"),
        (lambda w: w | {KEY: torch.full((4, 64), float("nan"))}, "NaN or infinity"),
        (lambda w: w | {KEY: torch.full((4, 64), float("inf"))}, "NaN or infinity"),
        (lambda w: {k.replace("layers.1", "layers.9"): v for k, v in w.items()}, "7 of its 14 updates"),
    ],
)
def test_tensors_that_are_refused(instruct, tmp_path, change, says):
    adapter = save_adapter(instruct, tmp_path / "adapter")
    edit_weights(adapter, change)
    sentence = refusal(instruct, adapter)
    assert says in sentence and sentence.startswith(adapter)


def test_the_tied_head_is_no_layer_of_its_own(instruct, tmp_path):
    adapter = save_adapter(instruct, tmp_path / "adapter")
    head = {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 64)}
    head["base_model.model.lm_head.lora_B.weight"] = torch.ones(263, 4)
    edit_weights(adapter, lambda weights: weights | head)
    assert "'lm_head.weight' [263, 64] / none" in refusal(instruct, adapter)


def test_pickled_and_missing_and_damaged_files(instruct, tmp_path):
    adapter = Path(save_adapter(instruct, tmp_path / "adapter"))
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[:-100])
    assert "truncated or no safetensors file" in refusal(instruct, str(adapter))
    (adapter / WEIGHTS).unlink()
    assert refusal(instruct, str(adapter)).endswith("adapter_model.safetensors is missing")
    (adapter / "adapter_model.bin").write_bytes(b"not to be opened")
    assert "pickled weights are never opened" in refusal(instruct, str(adapter))
    (adapter / "adapter_config.json").write_text("{", "utf-8")
    assert "adapter_config.json cannot be used" in refusal(instruct, str(adapter))
    (adapter / "adapter_config.json").write_text("[]", "utf-8")
    assert "adapter_config.json cannot be used" in refusal(instruct, str(adapter))


def test_headers_are_enough_to_refuse(instruct, tmp_path, monkeypatch):
    """A Hub id is refused before its weights, or its base's, are fetched."""
    adapter = save_adapter(instruct, tmp_path / "adapter", modules_to_save=["norm"])
    monkeypatch.setattr("thinkswitch.weights.adapted.load_adapter", lambda *_: pytest.fail("read weights"))
    assert "modules_to_save" in refusal(instruct, adapter)
