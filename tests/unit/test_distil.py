"""LoRA on answer tokens: counted, compared with the plain way, stopped and continued, short of memory."""

import dataclasses
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from thinkswitch import distil, recipe, rounds
from thinkswitch.distil import (
    Example,
    answer_loss,
    batches,
    check_targets,
    learning_rate,
    make_example,
    train_adapter,
)
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.remote import distributed
from thinkswitch.weights.adapter import load_adapter
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

PRESET = Preset(
    epochs=2,
    batch=4,
    micro_batch=2,
    learning_rate=3e-2,
    lora_rank=4,
    lora_alpha=8,
    save_steps=3,
)
OUT_OF_MEMORY = [  # as CUDA and as a CPU say it
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] not enough memory: you tried to allocate"),
]


@pytest.fixture(scope="module")
def pair(folders):
    return open_pair(*folders("qwen3"))


def fresh_model(pair, **options):
    return materialise(pair, [], rounds.start(pair).instruct, **options)


def some_examples(count=12):
    g = torch.Generator().manual_seed(0)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, 250, (length,), generator=g).tolist())

    return [Example(draw(3 + i % 5), draw(1 + i % 4)) for i in range(count)]


def same_answer():
    """What 4 ranks of a random network can learn."""
    return [dataclasses.replace(example, answer=(70, 71, 72)) for example in some_examples()]


def train(pair, folder, preset=PRESET, examples=None, **options):
    return list(train_adapter(fresh_model(pair, **options), examples or some_examples(), preset, 7, folder))


def adapter_bytes(folder):
    names = ("adapter_model.safetensors", "adapter_config.json")
    return [(folder / "adapter" / name).read_bytes() for name in names]


# ---- what is learnt


def test_loss_falls_and_the_adapter_is_counted(pair, tmp_path):
    steps = train(pair, tmp_path, dataclasses.replace(PRESET, epochs=20), same_answer())
    assert steps[-1].loss < 0.2 * steps[0].loss
    assert [s.step for s in steps] == list(range(1, 61)) and steps[0].total == 60
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    entries = pair.instruct.entries.items()
    linear = [e.shape for name, e in entries if recipe.module_kind(name) in ("attention", "mlp")]
    assert sum(t.numel() for t in tensors.values()) == sum(4 * (out + width) for out, width in linear)


def test_only_chosen_targets_are_trained(pair, tmp_path):
    train(pair, tmp_path, dataclasses.replace(PRESET, epochs=1, lora_targets="q_proj,v_proj"))
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name.split(".lora_")[0].split(".")[-1] for name in names} == {"q_proj", "v_proj"}


def test_targets_that_peft_would_ignore_are_refused(pair):
    check_targets(PRESET, pair)  # all-linear
    check_targets(dataclasses.replace(PRESET, lora_targets="q_proj,down_proj"), pair)
    for targets, named in (("nope", "nope"), ("q_proj,lm_head", "lm_head"), ("embed_tokens", "embed_tokens")):
        with pytest.raises(UserError, match=rf"names '{named}', which is no linear layer.*q_proj"):
            check_targets(dataclasses.replace(PRESET, lora_targets=targets), pair)


def test_an_example_is_the_rendered_prompt_and_an_answer_that_ends_its_turn(pair):
    example = make_example(pair.instruct, "hi", "12")
    decode = pair.instruct.tokenizer.decode
    assert decode(example.prompt) == pair.instruct.render("hi")
    assert decode(example.answer) == "12<|im_end|>"
    assert len(example) == len(example.prompt) + len(example.answer)


def plain_loss(model, examples):
    """Summed loss the plain way: a padded batch, labels masked with -100, transformers' own loss."""
    width = max(map(len, examples))
    ids, labels = [], []
    for e in examples:
        padding = width - len(e)
        ids.append([*e.prompt, *e.answer] + [0] * padding)
        labels.append([-100] * len(e.prompt) + [*e.answer] + [-100] * padding)
    mean = model(input_ids=torch.tensor(ids), labels=torch.tensor(labels)).loss
    return mean * sum(len(e.answer) for e in examples)


def loss_and_gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return loss.item(), model.model.embed_tokens.weight.grad.clone()


@pytest.mark.parametrize(
    "answer", [3, 2 * distil.LOGIT_CHUNK // 5 + 1], ids=["in one chunk", "in several chunks"]
)
def test_loss_is_transformers_loss_on_answer_tokens(pair, answer):
    model = fresh_model(pair).requires_grad_(True)
    examples = [
        Example(tuple(range(9, 12 + i)), tuple(20 + (i + k) % 200 for k in range(answer))) for i in range(5)
    ]
    ours, our_gradient = loss_and_gradient(model, answer_loss(model, examples, "cpu"))
    theirs, their_gradient = loss_and_gradient(model, plain_loss(model, examples))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert torch.allclose(our_gradient, their_gradient, atol=1e-5 * float(their_gradient.abs().max()))


def test_logits_exist_for_answer_tokens_only(pair):
    """They fill the memory at a vocabulary of 150,000; and what is in the prompt is not learnt."""
    model = fresh_model(pair)
    widths = []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: widths.append(len(inputs[0])))
    examples = some_examples(5)
    answer_loss(model, examples, "cpu")
    assert widths == [sum(len(e.answer) for e in examples)]
    widths.clear()
    answer_loss(model, some_examples(5) * 50, "cpu")
    assert len(widths) > 1 and max(widths) == distil.LOGIT_CHUNK


def test_micro_batches_do_not_change_the_step(pair, tmp_path):
    losses = []
    for micro_batch in (1, 4):
        preset = dataclasses.replace(PRESET, micro_batch=micro_batch)
        losses.append([s.loss for s in train(pair, tmp_path / str(micro_batch), preset)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# ---- the order and the pace


def test_every_example_once_an_epoch_and_the_same_for_a_seed():
    examples = some_examples(11)
    plan = batches(examples, PRESET, seed=3)
    assert sorted(i for group in plan for i in group) == sorted(list(range(11)) * 2)
    assert plan == batches(examples, PRESET, seed=3) != batches(examples, PRESET, seed=4)
    assert max(map(len, plan)) == 4


def test_similar_lengths_share_a_step():
    examples = [Example((1,), (2,) * n) for n in range(1, 33)]
    spreads = [
        max(group) - min(group) for group in batches(examples, dataclasses.replace(PRESET, epochs=1), seed=0)
    ]
    assert spreads == [3] * 8  # 32 lengths, 4 a step: neighbours only


def test_learning_rate_warms_up_and_decays():
    preset = dataclasses.replace(PRESET, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(s, 100, preset) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0 and rates[-1] < 0.01
    assert rates[55] == pytest.approx(0.5)
    linear = dataclasses.replace(preset, decay="linear")
    assert learning_rate(55, 100, linear) == pytest.approx(0.5)
    constant = dataclasses.replace(preset, decay="constant")
    assert {learning_rate(s, 100, constant) for s in range(10, 100)} == {1.0}


# ---- stopped, continued, broken


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_stopped_training_continues_to_the_same_bytes(pair, tmp_path, dropout):
    """Stopped after 4 of 6 steps, the state of step 3 on disk."""
    preset = dataclasses.replace(PRESET, lora_dropout=dropout)
    train(pair, tmp_path / "whole", preset)
    stopped = train_adapter(fresh_model(pair), some_examples(), preset, 7, tmp_path / "stopped")
    for _ in range(4):
        next(stopped)
    stopped.close()
    assert [p.name for p in (tmp_path / "stopped").iterdir()] == ["distil.safetensors"]
    rest = train(pair, tmp_path / "stopped", preset)
    assert [s.step for s in rest] == [4, 5, 6]
    assert adapter_bytes(tmp_path / "whole") == adapter_bytes(tmp_path / "stopped")
    assert [p.name for p in (tmp_path / "stopped").iterdir()] == ["adapter"]


def test_nan_stops_in_words_and_keeps_the_last_good_adapter(pair, tmp_path):
    """The logits become nan after three steps; when resumed from the state of step 3, again."""
    steps = []
    for _ in range(2):
        model = fresh_model(pair)
        model.lm_head.register_forward_hook(
            lambda *call: call[-1] * float("nan") if len(steps) == 3 else None
        )
        with pytest.raises(UserError, match=r"loss became nan.*step 4 of 6.*lower learning_rate"):
            for step in train_adapter(model, some_examples(), PRESET, 7, tmp_path):
                steps.append(step)  # noqa: PERF402  # what came before the error counts
    assert len(steps) == 3
    good = load_file(tmp_path / "last_good_adapter" / "adapter_model.safetensors")
    assert all(t.isfinite().all() for t in good.values())
    assert any(t.abs().sum() > 0 for name, t in good.items() if "lora_B" in name)
    assert not (tmp_path / "adapter").exists()


def test_a_rank_hears_at_each_step_that_rank_0_has_left(pair, tmp_path, monkeypatch):
    """It was told by a `finally` of a generator, whenever that was collected."""
    heard = iter([True, True, None])
    monkeypatch.setattr(distributed, "broadcast", lambda value: next(heard))
    steps = train_adapter(fresh_model(pair), some_examples(), PRESET, 7, tmp_path)
    assert [next(steps).step, next(steps).step] == [1, 2]
    with pytest.raises(distributed.RunEnded):
        next(steps)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_in_words(pair, tmp_path, monkeypatch):
    """safetensors has an exception of its own for it."""
    from safetensors import SafetensorError

    def full(*args):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(distil, "save_file", full)
    with pytest.raises(
        UserError, match=r"distil.safetensors cannot be written .*No space left.*make room and resume"
    ):
        train(pair, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- out of memory


class Crowded:
    """A hook that fails when more than `most` answers share a forward pass, from the second pass on."""

    def __init__(self, model, most: int, error: Exception):
        self.most, self.error, self.widths = most, error, []
        model.model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        self.widths.append(len(kwargs["input_ids"]))
        if self.widths[-1] > self.most and len(self.widths) > 1:
            raise self.error


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_step_that_runs_out_of_memory_is_the_same_step_in_smaller_parts(pair, tmp_path, error):
    preset = dataclasses.replace(PRESET, micro_batch=4)
    plain = train(pair, tmp_path / "plain", preset)
    model = fresh_model(pair)
    crowded = Crowded(model, 1, error)
    tight = list(train_adapter(model, some_examples(), preset, 7, tmp_path / "tight"))
    assert [s.loss for s in tight] == pytest.approx([s.loss for s in plain], rel=1e-4)
    assert crowded.widths[0] == 4 and crowded.widths.count(4) == 2  # tried as wide once more, then no more
    assert sum(crowded.widths) == 4 + 4 + 2 + 5 * 4 and crowded.widths[-1] == 1


def test_an_answer_that_does_not_fit_is_refused_in_words(pair, tmp_path):
    model = fresh_model(pair)
    Crowded(model, 0, OUT_OF_MEMORY[0])
    says = r"an answer of \d+ tokens, prompt included, does not fit into memory to train on; lower max_length"
    with pytest.raises(UserError, match=says):
        list(train_adapter(model, some_examples(), PRESET, 7, tmp_path))


def test_other_errors_are_not_taken_for_memory(pair, tmp_path):
    model = fresh_model(pair)
    Crowded(model, 0, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(train_adapter(model, some_examples(), PRESET, 7, tmp_path))


# ---- the adapter


def test_peft_and_the_recipe_read_the_adapter_alike(pair, tmp_path):
    train(pair, tmp_path)
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        by_peft = PeftModel.from_pretrained(fresh_model(pair), tmp_path / "adapter")(input_ids=ids).logits
        adapter = load_adapter(tmp_path / "adapter")
        ours = materialise(pair, [adapter], recipe.instruct_point(pair.names, 1))(input_ids=ids).logits
        plain = fresh_model(pair)(input_ids=ids).logits
    assert float((ours - by_peft).norm() / by_peft.norm()) < 1e-5
    assert float((ours - plain).norm() / plain.norm()) > 1e-2


def test_an_adapter_that_is_no_plain_lora_is_refused(pair, tmp_path):
    train(pair, tmp_path)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "use_dora": True}), "utf-8")
    with pytest.raises(UserError, match="not a plain LoRA"):
        load_adapter(tmp_path / "adapter")


def test_a_death_between_the_adapter_and_the_end_leaves_nothing_behind(pair, tmp_path):
    """The moments, twice as large as the adapter, stayed in the round for good."""
    train(pair, tmp_path)
    state = tmp_path / distil.STATE
    state.write_bytes(b"moments")
    assert distil.already_trained(tmp_path) and not state.exists()
    state.write_bytes(b"moments")
    (tmp_path / "adapter").rename(tmp_path / "away")
    assert not distil.already_trained(tmp_path) and state.exists()  # a training to continue


def test_four_bit_trains_on_a_cpu(folders, tmp_path):
    pair = open_pair(*folders("qwen2"))  # biases, too
    steps = train(pair, tmp_path, dataclasses.replace(PRESET, epochs=10), same_answer(), four_bit=True)
    assert steps[-1].loss < 0.5 * steps[0].loss
