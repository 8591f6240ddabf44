"""LoRA on answer tokens: counted, compared with the plain way, stopped and taken up again."""

import dataclasses
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from thinkswitch import distil, recipe, rounds
from thinkswitch.distil import Example, answer_loss, batches, learning_rate, soften, train_adapter
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.weights.adapter import load_adapter
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair

KNOBS = Preset(epochs=2, batch=4, micro_batch=2, learning_rate=3e-2, lora_rank=4, lora_alpha=8, save_steps=3)


@pytest.fixture(scope="module")
def pair(folders):
    return open_pair(*folders("qwen3"))


def model_of(pair, **how):
    return materialise(pair, [], rounds.start(pair).instruct, **how)


def examples_of(n=12, soft=None):
    g = torch.Generator().manual_seed(0)
    draw = lambda k: tuple(torch.randint(5, 250, (k,), generator=g).tolist())
    return [Example(draw(3 + i % 5), draw(1 + i % 4)) for i in range(n)]


def same_answer():
    """What 8 ranks of a random network can learn."""
    return [dataclasses.replace(e, answer=(70, 71, 72)) for e in examples_of()]


def run(pair, folder, preset=KNOBS, examples=None, **how):
    return list(train_adapter(model_of(pair, **how), examples or examples_of(), preset, 7, folder))


def test_loss_falls_and_the_adapter_is_counted(pair, tmp_path):
    steps = run(pair, tmp_path, dataclasses.replace(KNOBS, epochs=20), same_answer())
    assert steps[-1].loss < 0.2 * steps[0].loss
    assert [s.step for s in steps] == list(range(1, 61)) and steps[0].total == 60
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    linear = [e.shape for n, e in pair.instruct.entries.items() if recipe.module_kind(n) in ("attention", "mlp")]
    assert sum(t.numel() for t in tensors.values()) == sum(4 * (out + width) for out, width in linear)


def test_only_chosen_targets_are_trained(pair, tmp_path):
    run(pair, tmp_path, dataclasses.replace(KNOBS, epochs=1, lora_targets="q_proj,v_proj"))
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert {n.split(".lora_")[0].split(".")[-1] for n in names} == {"q_proj", "v_proj"}


def test_loss_is_transformers_loss_on_answer_tokens(pair):
    """The same batch, padded and masked the plain way."""
    model, examples = model_of(pair), examples_of(5)
    width = max(len(e.prompt) + len(e.answer) for e in examples)
    ids = torch.tensor([[*e.prompt, *e.answer] + [0] * (width - len(e.prompt) - len(e.answer)) for e in examples])
    labels = torch.tensor([[-100] * len(e.prompt) + [*e.answer] + [-100] * (width - len(e.prompt) - len(e.answer)) for e in examples])
    plain = model(input_ids=ids, labels=labels).loss
    tokens = sum(len(e.answer) for e in examples)
    assert float(answer_loss(model, examples, "cpu") / tokens) == pytest.approx(float(plain), rel=1e-5)


def test_what_is_in_the_prompt_is_not_learnt(pair):
    """No gradient reaches a prompt token's own prediction: changing the last prompt token changes no target."""
    model = model_of(pair)
    seen = []
    model.lm_head.register_forward_pre_hook(lambda m, x: seen.append(x[0].shape[0]))
    examples = examples_of(5)
    answer_loss(model, examples, "cpu")
    assert seen == [sum(len(e.answer) for e in examples)]  # logits exist for answer tokens only


def test_chunked_logits_change_nothing(pair, monkeypatch):
    model, examples = model_of(pair), examples_of(6)
    model.requires_grad_(True)
    grads = []
    for chunk in (256, 2):
        monkeypatch.setattr(distil, "LOGIT_CHUNK", chunk)
        model.zero_grad()
        loss = answer_loss(model, examples, "cpu")
        loss.backward()
        grads.append((loss.item(), model.model.embed_tokens.weight.grad.clone()))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-6)
    assert torch.allclose(grads[0][1], grads[1][1], atol=1e-5)


def test_micro_batches_do_not_change_the_step(pair, tmp_path):
    losses = [[s.loss for s in run(pair, tmp_path / str(n), dataclasses.replace(KNOBS, micro_batch=n))] for n in (1, 4)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_every_example_once_an_epoch_and_the_same_for_a_seed():
    examples = examples_of(11)
    plan = batches(examples, KNOBS, seed=3)
    assert sorted(i for group in plan for i in group) == sorted(list(range(11)) * 2)
    assert plan == batches(examples, KNOBS, seed=3) != batches(examples, KNOBS, seed=4)
    assert max(map(len, plan)) == 4


def test_learning_rate_warms_up_and_decays():
    preset = dataclasses.replace(KNOBS, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(s, 100, preset) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0 and rates[-1] < 0.01
    assert rates[55] == pytest.approx(0.5)
    assert {learning_rate(s, 100, dataclasses.replace(preset, decay="constant")) for s in range(10, 100)} == {1.0}


def test_a_killed_run_goes_on_to_the_same_bytes(pair, tmp_path):
    """Killed after 4 of 6 steps, the state of step 3 on disk."""
    run(pair, tmp_path / "whole")
    killed = train_adapter(model_of(pair), examples_of(), KNOBS, 7, tmp_path / "killed")
    for _ in range(4):
        next(killed)
    killed.close()
    assert (tmp_path / "killed" / "distil.safetensors").is_file()
    rest = run(pair, tmp_path / "killed")
    assert [s.step for s in rest] == [4, 5, 6]
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "whole" / "adapter" / file).read_bytes() == (tmp_path / "killed" / "adapter" / file).read_bytes()
    assert not (tmp_path / "killed" / "distil.safetensors").exists()


def test_dropout_resumes_to_the_same_bytes_too(pair, tmp_path):
    preset = dataclasses.replace(KNOBS, lora_dropout=0.3)
    run(pair, tmp_path / "whole", preset)
    killed = train_adapter(model_of(pair), examples_of(), preset, 7, tmp_path / "killed")
    [next(killed) for _ in range(5)]
    killed.close()
    run(pair, tmp_path / "killed", preset)
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_nan_stops_in_words_and_keeps_the_last_good_adapter(pair, tmp_path):
    model = model_of(pair)
    steps, real = [], answer_loss

    def breaks(model, batch, device):
        return real(model, batch, device) * (float("nan") if len(steps) == 3 else 1.0)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="loss became nan.*step 4 of 6.*lower learning_rate"):
        patch.setattr(distil, "answer_loss", breaks)
        for step in train_adapter(model, examples_of(), KNOBS, 7, tmp_path):
            steps.append(step)
    good = load_file(tmp_path / "last_good_adapter" / "adapter_model.safetensors")
    assert all(t.isfinite().all() for t in good.values()) and any(t.abs().sum() > 0 for n, t in good.items() if "lora_B" in n)
    assert not (tmp_path / "adapter").exists()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="loss became nan"):  # and when resumed, again in words
        patch.setattr(distil, "answer_loss", breaks)
        list(train_adapter(model_of(pair), examples_of(), KNOBS, 7, tmp_path))


@torch.inference_mode()
def test_peft_and_the_recipe_read_the_adapter_alike(pair, tmp_path):
    with torch.inference_mode(False):
        run(pair, tmp_path)
    ids = torch.arange(5, 25)[None]
    by_peft = PeftModel.from_pretrained(model_of(pair), tmp_path / "adapter")(input_ids=ids).logits
    adapter = load_adapter(tmp_path / "adapter")
    ours = materialise(pair, [adapter], recipe.instruct_point(pair.names, 1))(input_ids=ids).logits
    assert float((ours - by_peft).norm() / by_peft.norm()) < 1e-5
    plain = model_of(pair)(input_ids=ids).logits
    assert float((ours - plain).norm() / plain.norm()) > 1e-2


def test_an_adapter_that_is_no_plain_lora_is_refused(pair, tmp_path):
    run(pair, tmp_path)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    with pytest.raises(UserError, match="not a plain LoRA"):
        load_adapter(tmp_path / "adapter")


def test_four_bit_trains_on_a_cpu(folders, tmp_path):
    pair = open_pair(*folders("qwen2"))  # biases, too
    steps = run(pair, tmp_path, dataclasses.replace(KNOBS, epochs=10), same_answer(), four_bit=True)
    assert steps[-1].loss < 0.5 * steps[0].loss


def test_soft_answers_pull_towards_the_teacher(pair, tmp_path):
    """Context distillation: the divergence from the teacher's distribution given its trace falls."""
    teacher = materialise(pair, [], rounds.start(pair).thinking)
    examples = examples_of()
    contexts = [(*e.prompt, 9, 8, 7) for e in examples]
    soft = soften(teacher, examples, contexts, k=8)
    assert all(e.soft_p.shape == e.soft_ids.shape == (len(e.answer), 8) for e in soft)
    assert all(torch.allclose(e.soft_p.sum(-1), torch.ones(len(e.answer))) for e in soft)
    with torch.inference_mode():  # the first answer token's distribution, the plain way
        logits = teacher(input_ids=torch.tensor([contexts[3]])).logits[0, -1]
    assert soft[3].soft_ids[0].tolist() == logits.topk(8).indices.tolist()
    assert soft[3].soft_p[0].tolist() == pytest.approx(logits.topk(8).values.softmax(-1).tolist(), rel=1e-4)
    steps = run(pair, tmp_path, dataclasses.replace(KNOBS, epochs=60), soft[:4])
    assert 0 < steps[-1].loss < 0.5 * steps[0].loss
