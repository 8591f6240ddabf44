"""Distil answers into the instruct checkpoint: LoRA by peft, on NF4 weights where memory asks for it (QLoRA).

Loss on answer tokens only, and logits are computed only there: at a vocabulary of 150 000 they, not the weights, are
what fills an 8 GB card. Steps are yielded as they happen. Everything random derives from the seed and the step, and
the optimiser's state is kept on disk, so a resumed run ends in the same bits.
"""

import json
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.checkpoint import checkpoint

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.recipe import module_kind
from thinkswitch.remote import distributed
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.device import out_of_memory, release
from thinkswitch.weights.pair import Pair

LOGIT_CHUNK = 256  # answer tokens whose logits are in memory at once


@dataclass(frozen=True)
class Example:
    prompt: tuple[int, ...]
    answer: tuple[int, ...]  # ends with the token that ends a turn
    soft_ids: torch.Tensor | None = None  # (answer, k) the teacher's likeliest tokens ...
    soft_p: torch.Tensor | None = None  # ... and their probabilities, rows summing to 1


    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def make_example(instruct: Checkpoint, prompt: str, answer: str) -> Example:
    """What the loss sees of a sample: the prompt under the instruct checkpoint's template (masked), and the answer."""
    ids = instruct.tokenizer.encode(answer, add_special_tokens=False)
    return Example(tuple(instruct.prompt_ids(prompt)), (*ids, instruct.turn_end))


def check_targets(preset: Preset, pair: Pair) -> None:
    """Refuse unknown `lora_targets`: peft would silently train other modules, or none."""
    known = set()
    for name, entry in pair.instruct.entries.items():
        if len(entry.shape) == 2 and module_kind(name) in ("attention", "mlp"):
            known.add(name.split(".")[-2])
    if preset.lora_targets == "all-linear":
        return
    for target in preset.lora_targets.split(","):
        if target not in known:
            raise UserError(
                f"lora_targets names {target!r}, which is no linear layer here; "
                f"write all-linear, or some of {','.join(sorted(known))}"
            )


@dataclass(frozen=True)
class Step:
    step: int
    total: int
    loss: float  # nats per answer token; for soft answers, divergence from the teacher
    lr: float
    grad_norm: float
    tokens_per_s: float  # prompt and answer tokens


def train_adapter(model, examples: list[Example], preset: Preset, seed: int, folder: Path) -> Iterator[Step]:
    """Train a new adapter on `model` (which is changed) and leave it in `folder`/adapter in PEFT's format.

    A state that an earlier, killed try left in `folder` is taken up where it stood. NaN raises a UserError after
    the last good adapter is saved as `folder`/last_good_adapter. Under `accelerate launch` every process calls this.
    """
    from peft import LoraConfig, get_peft_model  # here: it takes two seconds to import
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    wrapped = get_peft_model(model, LoraConfig(
        r=preset.lora_rank, lora_alpha=preset.lora_alpha, lora_dropout=preset.lora_dropout, task_type="CAUSAL_LM",
        target_modules=preset.lora_targets if preset.lora_targets == "all-linear" else preset.lora_targets.split(",")))
    weights = [p for p in wrapped.parameters() if p.requires_grad]
    device = weights[0].device
    if checkpointed(model.config, device.type):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    wrapped.train()
    optimiser = torch.optim.AdamW(weights, lr=preset.learning_rate, weight_decay=preset.weight_decay)
    plan = batches(examples, preset, seed)
    saved = folder / "distil.safetensors"
    start, micro, first = _restore(saved, weights, optimiser), preset.micro_batch, distributed.rank() == 0
    for step in range(start, len(plan)):
        began = time.perf_counter()
        torch.manual_seed(seed + step + 1 + distributed.rank() * 2**32)  # dropout
        lr = learning_rate(step, len(plan), preset)
        optimiser.param_groups[0]["lr"] = lr
        batch = [examples[i] for i in plan[step]]
        while (loss := gradients(model, weights, batch, micro)) is None:  # out of memory: the same sum in smaller parts
            optimiser.zero_grad()
            release()
            if micro == 1:
                raise UserError(f"an answer of {max(map(len, batch)):,} tokens, prompt included, does not fit into memory to train on; "
                                "lower max_length, or take four_bit=true")
            micro //= 2
        norm = torch.nn.utils.clip_grad_norm_(weights, preset.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            if first:
                _save(wrapped, folder / "last_good_adapter")
            raise UserError(f"the loss became {loss} (gradient norm {norm}) at step {step + 1} of {len(plan)}; the adapter before it is "
                            f"in {folder / 'last_good_adapter'}; lower learning_rate, now {preset.learning_rate:g}, and start again")
        optimiser.step()
        optimiser.zero_grad()
        tokens, going = sum(len(e.prompt) + len(e.answer) for e in batch), False
        try:
            if first and (step + 1) % preset.save_steps == 0 and step + 1 < len(plan):
                _keep(saved, weights, optimiser, step + 1)
            yield Step(step + 1, len(plan), loss, lr, norm, tokens / (time.perf_counter() - began))
            going = True
        finally:
            going = distributed.broadcast(going)  # the first process may have been stopped
        if not going:
            return
    if first:
        _save(wrapped, folder / "adapter")
        saved.unlink(missing_ok=True)


def checkpointed(config, device: str) -> bool:
    """Whether layers are computed twice instead of kept (gradient checkpointing): not worth it for tiny models."""
    return device != "cpu" or config.hidden_size >= 512


def gradients(model, weights, batch: list[Example], micro: int) -> float | None:
    """Add up the gradients of a batch, each process its share, `micro` answers at a time; returns the loss, None where memory does
    not suffice."""
    device, answer_tokens, loss, full = weights[0].device, sum(len(e.answer) for e in batch), 0.0, False
    mine = batch[distributed.rank()::distributed.world_size()]
    try:
        for i in range(0, len(mine), micro):
            part = answer_loss(model, mine[i:i + micro], device) / answer_tokens
            part.backward()
            loss += part.item()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        full = True
    if distributed.world_size() > 1:
        sums = torch.tensor([loss, full], dtype=torch.float64, device=device)
        distributed.all_reduce_sum(sums)
        loss, full = sums.tolist()
        for weight in weights if not full else ():
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad  # a batch smaller than the team
            distributed.all_reduce_sum(weight.grad)
    return None if full else loss


def batches(examples: list[Example], preset: Preset, seed: int) -> list[list[int]]:
    """Indices of each step's examples. Shuffled, then like lengths together within a few steps, to pad less."""
    plan = []
    for epoch in range(preset.epochs):
        rng = random.Random(f"{seed} {epoch}")
        order = rng.sample(range(len(examples)), len(examples))
        window = 8 * preset.batch
        groups = []
        for i in range(0, len(order), window):
            near = sorted(order[i:i + window], key=lambda k: len(examples[k].prompt) + len(examples[k].answer))
            groups += [near[j:j + preset.batch] for j in range(0, len(near), preset.batch)]
        rng.shuffle(groups)
        plan += groups
    return plan


def learning_rate(step: int, total: int, preset: Preset) -> float:
    """Linear warm-up, then the chosen decay towards zero."""
    warm = round(preset.warmup * total)
    if step < warm:
        return preset.learning_rate * (step + 1) / warm
    left = 1 - (step - warm) / max(1, total - warm)
    return preset.learning_rate * {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[preset.decay]


def answer_loss(model, batch: list[Example], device) -> torch.Tensor:
    """Summed loss over the answer tokens of a batch. Logits exist there only, a chunk at a time."""
    width = max(len(e.prompt) + len(e.answer) for e in batch)
    rows = [(*e.prompt, *e.answer) for e in batch]
    ids = torch.tensor([row + (0,) * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    # the token at position p is predicted at p - 1
    where = torch.tensor([(r, p) for r, e in enumerate(batch) for p in range(len(e.prompt) - 1, len(e.prompt) + len(e.answer) - 1)],
                         device=device)
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[where[:, 0], where[:, 1]]
    if batch[0].soft_ids is None:
        targets = [torch.tensor([t for e in batch for t in e.answer], device=device)]
    else:
        targets = [torch.cat([getattr(e, key) for e in batch]).to(device) for key in ("soft_ids", "soft_p")]

    def loss(h: torch.Tensor, *targets: torch.Tensor) -> torch.Tensor:
        logits = model.lm_head(h).float()
        if len(targets) == 1:
            return F.cross_entropy(logits, targets[0], reduction="sum")
        ids, p = targets
        return F.kl_div(logits.log_softmax(-1).gather(-1, ids), p, reduction="sum")

    if len(hidden) <= LOGIT_CHUNK:
        return loss(hidden, *targets)
    return sum(checkpoint(loss, *chunk, use_reentrant=False) for chunk in zip(*(x.split(LOGIT_CHUNK) for x in (hidden, *targets))))


@torch.inference_mode()
def soften(teacher, examples: list[Example], contexts: list[tuple[int, ...]], k: int) -> list[Example]:
    """Give each example the teacher's top-k distribution on the answer, given `contexts`: its prompt and trace."""
    softened = []
    device = next(teacher.parameters()).device
    for example, context in zip(examples, contexts):
        ids = torch.tensor([[*context, *example.answer]], device=device)
        n = len(example.answer)
        logits = teacher(input_ids=ids, logits_to_keep=n + 1).logits[0, :-1].float()
        p, best = logits.softmax(-1).topk(min(k, logits.shape[-1]))
        softened.append(Example(example.prompt, example.answer, best.cpu(), (p / p.sum(-1, keepdim=True)).cpu()))
    return softened


def _save(wrapped, path: Path) -> None:
    with writing(path), runs.atomic_folder(path) as beside:
        wrapped.save_pretrained(beside)
        config = beside / "adapter_config.json"  # peft lists the targets in the order of a set: not the same twice
        values = json.loads(config.read_text())
        if isinstance(values["target_modules"], list):
            values["target_modules"].sort()
        config.write_text(json.dumps(values, indent=2, sort_keys=True))
        for file in beside.iterdir():
            file.chmod(0o644)


def _keep(path: Path, weights, optimiser, step: int) -> None:
    tensors = {}
    for i, p in enumerate(weights):
        moments = optimiser.state[p]
        tensors |= {f"{i}.weight": p.detach(), f"{i}.m": moments["exp_avg"], f"{i}.v": moments["exp_avg_sq"]}
    beside = path.with_suffix(".tmp")
    with writing(path):
        save_file({k: v.contiguous() for k, v in tensors.items()}, beside, {"step": str(step)})
        os.replace(beside, path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """safetensors has its own name for a full disk."""
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{path} cannot be written ({error}); what is there is unharmed, so make room and resume") from None


def _restore(path: Path, weights, optimiser) -> int:
    """The step to go on with."""
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        for i, p in enumerate(weights):
            with torch.no_grad():
                p.copy_(file.get_tensor(f"{i}.weight"))
            optimiser.state[p] = {"step": torch.tensor(float(step)), "exp_avg": file.get_tensor(f"{i}.m").to(p.device),
                                  "exp_avg_sq": file.get_tensor(f"{i}.v").to(p.device)}
    return step
