"""Distil answers into the instruct checkpoint: LoRA by peft, on NF4 weights where memory asks for it (QLoRA).

The loss is on answer tokens only, and logits are computed only there: with a vocabulary of 150,000 they, not
the weights, are what fills an 8 GB card. Steps are yielded as they are made.

All randomness derives from the seed and the step, and the optimiser's state is saved every few steps, so a
resumed training ends in the same bits as one never interrupted.
"""

import json
import math
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
from thinkswitch.rounds import has_adapter
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.device import mixed_precision, out_of_memory, release
from thinkswitch.weights.families import head_logits
from thinkswitch.weights.pair import Pair

LOGIT_CHUNK = 256  # answer tokens whose logits are in memory at once
STATE = "distil.safetensors"  # of a training that has not ended: weights and moments


@dataclass(frozen=True)
class Example:
    """What the loss sees of a sample."""

    prompt: tuple[int, ...]  # masked
    answer: tuple[int, ...]  # ends with the token that ends a turn
    soft_ids: torch.Tensor | None = None  # (answer, k) the teacher's likeliest tokens ...
    soft_p: torch.Tensor | None = None  # ... and their probabilities; rows sum to 1

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Step:
    """One step of the optimiser."""

    step: int  # counted from 1
    total: int
    loss: float  # nats per answer token; for soft answers, divergence from the teacher
    lr: float
    grad_norm: float
    tokens_per_s: float  # prompt and answer tokens


def make_example(instruct: Checkpoint, prompt: str, answer: str) -> Example:
    """A prompt under the instruct checkpoint's chat template, and the answer to learn."""
    ids = instruct.tokenizer.encode(answer, add_special_tokens=False)
    return Example(tuple(instruct.prompt_ids(prompt)), (*ids, instruct.turn_end))


# ---- training


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


def already_trained(folder: Path) -> bool:
    """Whether the adapter is in `folder`. A death just after that left the training's state, which goes."""
    trained = has_adapter(folder)
    if trained:
        (folder / STATE).unlink(missing_ok=True)
    return trained


def train_adapter(model, examples: list[Example], preset: Preset, seed: int, folder: Path) -> Iterator[Step]:
    """Train a new adapter on `model` (which is changed) and write it to `folder`/adapter in PEFT's format.

    Continues from the state that a killed or stopped training left in `folder`. A loss that is not finite is
    a UserError, raised after the adapter before it is saved as `folder`/last_good_adapter.

    Under `accelerate launch` every process calls this; only rank 0 writes. Other ranks raise
    distributed.RunEnded when rank 0 has left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    wrapped = add_lora(model, preset)
    weights = [p for p in wrapped.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=preset.learning_rate, weight_decay=preset.weight_decay)
    plan = batches(examples, preset, seed)
    state = folder / STATE
    micro_batch = preset.micro_batch
    writes = distributed.rank() == 0
    for step in range(restore_state(state, weights, optimiser), len(plan)):
        if not distributed.broadcast(True):  # rank 0 goes on, or the end of its run arrives here
            raise distributed.RunEnded
        began = time.perf_counter()
        torch.manual_seed(seed + step + 1 + distributed.rank() * 2**32)  # of dropout
        batch = [examples[i] for i in plan[step]]
        loss, micro_batch = accumulate_gradients(model, weights, batch, micro_batch)
        norm = torch.nn.utils.clip_grad_norm_(weights, preset.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            last_good = folder / "last_good_adapter"
            if writes:
                save_adapter(wrapped, last_good)
            raise UserError(
                f"the loss became {loss} (gradient norm {norm}) at step {step + 1} of {len(plan)}; "
                f"the adapter before it is in {last_good}; "
                f"lower learning_rate, now {preset.learning_rate:g}, and start again"
            )
        lr = learning_rate(step, len(plan), preset)
        optimiser.param_groups[0]["lr"] = lr
        optimiser.step()
        optimiser.zero_grad()
        if writes and (step + 1) % preset.save_steps == 0 and step + 1 < len(plan):
            save_state(state, weights, optimiser, step + 1)
        tokens_per_s = sum(map(len, batch)) / (time.perf_counter() - began)
        yield Step(step + 1, len(plan), loss, lr, norm, tokens_per_s)
    if writes:
        save_adapter(wrapped, folder / "adapter")
        state.unlink(missing_ok=True)


def add_lora(model, preset: Preset):
    """The model with a fresh adapter, ready to train; its own weights are frozen."""
    from peft import LoraConfig, get_peft_model  # takes two seconds to import

    targets = preset.lora_targets
    config = LoraConfig(
        r=preset.lora_rank,
        lora_alpha=preset.lora_alpha,  # type: ignore[arg-type]  # annotated as int, used as a number
        lora_dropout=preset.lora_dropout,
        task_type="CAUSAL_LM",
        target_modules=targets if targets == "all-linear" else targets.split(","),
    )
    wrapped = get_peft_model(model, config)
    if checkpointed(model.config, next(model.parameters()).device.type):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return wrapped.train()


def checkpointed(config, device: str) -> bool:
    """Whether layers are computed twice instead of kept (gradient checkpointing): no use for small models."""
    return device != "cpu" or config.hidden_size >= 768


def batches(examples: list[Example], preset: Preset, seed: int) -> list[list[int]]:
    """Indices of each step's examples: shuffled, but similar lengths together, so that little is padding."""
    plan = []
    window = 8 * preset.batch
    for epoch in range(preset.epochs):
        rng = random.Random(f"{seed} {epoch}")
        order = rng.sample(range(len(examples)), len(examples))
        groups = []
        for start in range(0, len(order), window):
            similar = sorted(order[start : start + window], key=lambda i: len(examples[i]))
            groups += [similar[i : i + preset.batch] for i in range(0, len(similar), preset.batch)]
        rng.shuffle(groups)
        plan += groups
    return plan


def learning_rate(step: int, total: int, preset: Preset) -> float:
    """Linear warm-up, then the chosen decay towards zero. `step` counts from 0."""
    warm = round(preset.warmup * total)
    if step < warm:
        return preset.learning_rate * (step + 1) / warm
    left = 1 - (step - warm) / max(1, total - warm)
    factors = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}
    return preset.learning_rate * factors[preset.decay]


# ---- loss and gradients


def accumulate_gradients(
    model, weights: list[torch.Tensor], batch: list[Example], micro_batch: int
) -> tuple[float, int]:
    """The loss of a batch, with its gradients added up, `micro_batch` answers at a time.

    Where memory runs out the micro batch is halved, which gives the same sum. Returns (loss, what fitted).
    """
    while True:
        loss = gradients(model, weights, batch, micro_batch)
        if loss is not None:
            return loss, micro_batch
        for weight in weights:
            weight.grad = None
        release()
        if micro_batch == 1:
            raise UserError(
                f"an answer of {max(map(len, batch)):,} tokens, prompt included, does not fit into memory "
                "to train on; lower max_length, or take four_bit=true"
            )
        micro_batch //= 2


def gradients(model, weights: list[torch.Tensor], batch: list[Example], micro_batch: int) -> float | None:
    """The loss of a batch, or None where memory ran out. Collective: each process computes its share."""
    device = weights[0].device
    answer_tokens = sum(len(example.answer) for example in batch)
    share = batch[distributed.rank() :: distributed.world_size()]
    loss = 0.0
    full = False
    try:
        for i in range(0, len(share), micro_batch):
            with mixed_precision(next(model.parameters())):
                part = answer_loss(model, share[i : i + micro_batch], device) / answer_tokens
            part.backward()
            loss += part.item()
    except RuntimeError as error:  # torch.OutOfMemoryError is one, too
        if not out_of_memory(error):
            raise
        full = True
    if distributed.world_size() > 1:
        sums = torch.tensor([loss, full], dtype=torch.float64, device=device)
        distributed.all_reduce_sum(sums)
        loss, full = sums[0].item(), bool(sums[1])
        if not full:
            for weight in weights:
                if weight.grad is None:  # fewer answers than processes
                    weight.grad = torch.zeros_like(weight)
                distributed.all_reduce_sum(weight.grad)
    return None if full else loss


def answer_loss(model, batch: list[Example], device: torch.device | str) -> torch.Tensor:
    """Summed loss over the answer tokens of a batch. Logits exist there only, a chunk at a time."""
    hidden = answer_states(model, batch, device)
    if batch[0].soft_ids is None:
        targets = [torch.tensor([token for example in batch for token in example.answer], device=device)]
    else:
        targets = [torch.cat([getattr(e, name) for e in batch]).to(device) for name in ("soft_ids", "soft_p")]
    if len(hidden) <= LOGIT_CHUNK:
        return token_loss(model, hidden, *targets)
    chunks = zip(*(x.split(LOGIT_CHUNK) for x in (hidden, *targets)), strict=True)
    losses = [checkpoint(token_loss, model, *chunk, use_reentrant=False) for chunk in chunks]
    return sum(losses)


def answer_states(model, batch: list[Example], device: torch.device | str) -> torch.Tensor:
    """Hidden states (answer tokens of all rows, size) from which the answer tokens are predicted."""
    width = max(map(len, batch))
    ids, mask = [], []
    where: list[tuple[int, int]] = []  # (row, position); a token is predicted one position before it
    for row, example in enumerate(batch):
        padding = [0] * (width - len(example))
        ids.append([*example.prompt, *example.answer, *padding])
        mask.append([1] * len(example) + padding)
        where += [(row, position) for position in range(len(example.prompt) - 1, len(example) - 1)]
    attention_mask = torch.tensor(mask, device=device)
    inputs = {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": attention_mask,
        # padding repeats a row's last position: with LongRoPE the largest one decides
        "position_ids": attention_mask.cumsum(1) - 1,
    }
    states = model.model(**inputs, use_cache=False).last_hidden_state
    rows, positions = torch.tensor(where, device=device).T
    return states[rows, positions]


def token_loss(model, hidden: torch.Tensor, *targets: torch.Tensor) -> torch.Tensor:
    """Summed loss against token ids (n,), or against the teacher's tokens and probabilities (n, k)."""
    logits = head_logits(model, hidden)
    if len(targets) == 1:
        return F.cross_entropy(logits, targets[0], reduction="sum")
    ids, p = targets
    return F.kl_div(logits.log_softmax(-1).gather(-1, ids), p, reduction="sum")


# ---- files


def save_adapter(wrapped, path: Path) -> None:
    """Write the adapter in PEFT's format, the same bytes for the same weights."""
    with as_user_error(path), runs.atomic_folder(path) as folder:
        wrapped.save_pretrained(folder)
        config = folder / "adapter_config.json"
        values = json.loads(config.read_text("utf-8"))
        if isinstance(values["target_modules"], list):
            values["target_modules"].sort()  # peft lists them in the order of a set
        config.write_text(json.dumps(values, indent=2, sort_keys=True), "utf-8")
        for file in folder.iterdir():
            runs.set_mode(file, 0o644)  # safetensors lets only the owner read


def save_state(path: Path, weights: list[torch.Tensor], optimiser: torch.optim.AdamW, step: int) -> None:
    """Save the adapter and AdamW's moments after `step` steps."""
    tensors = {}
    for i, weight in enumerate(weights):
        moments = optimiser.state[weight]
        tensors[f"{i}.weight"] = weight.detach().contiguous()
        tensors[f"{i}.m"] = moments["exp_avg"].contiguous()
        tensors[f"{i}.v"] = moments["exp_avg_sq"].contiguous()
    with as_user_error(path), runs.atomic_file(path) as temporary:
        save_file(tensors, temporary, {"step": str(step)})


def restore_state(path: Path, weights: list[torch.Tensor], optimiser: torch.optim.AdamW) -> int:
    """Load what `save_state` saved; returns how many steps are done."""
    try:
        state = safe_open(path, framework="pt")
    except (FileNotFoundError, SafetensorError):  # none, or what a power failure has left of it
        return 0
    with state as file:
        step = int(file.metadata()["step"])
        for i, weight in enumerate(weights):
            with torch.no_grad():
                weight.copy_(file.get_tensor(f"{i}.weight"))
            optimiser.state[weight] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"{i}.m").to(weight.device),
                "exp_avg_sq": file.get_tensor(f"{i}.v").to(weight.device),
            }
    return step


@contextmanager
def as_user_error(path: Path) -> Iterator[None]:
    """A full disk is a SafetensorError, not an OSError, when safetensors writes."""
    try:
        yield
    except SafetensorError as error:
        raise UserError(
            f"{path} cannot be written ({error}); what is there is unharmed, so make room and resume"
        ) from None
