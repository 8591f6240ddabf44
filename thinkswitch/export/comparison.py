"""How far the live blend is from an exported model, part by part.

Every attention, MLP, norm and embedding of the blend is given what the exported model gave its own, so
rounding does not add up over the layers.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from thinkswitch.errors import UserError
from thinkswitch.weights.live_blend import Blend

# The largest error that rounding explains, by the coarsest type on either side, measured on the embedded
# pair. There a point off by 0.05 in t differs by 0.03, off by 0.1 by 0.06, and the other end by 0.3. So
# against NF4 only gross damage shows.
ERROR_BOUNDS = {
    torch.float32: 1e-4,  # sums in another order: up to 1e-5
    torch.float16: 3e-2,  # each weight off by up to 2^-11 of itself
    torch.bfloat16: 3e-2,  # by up to 2^-9: 0.003, or 0.011 if the blend computes in it; random 4 B: 0.005
    torch.uint8: 0.3,  # NF4, the weights of a layer off by 9 %: 0.06 to 0.1; 0.2 for random weights
}


@dataclass(frozen=True)
class Part:
    """A part of a model that computes something."""

    kind: str
    layer: int | None = None  # from 1

    def __str__(self) -> str:
        return f"the {self.kind}" if self.layer is None else f"layer {self.layer}, {self.kind}"


LOGITS = Part("logits")
PART_KINDS = {  # of modules; others keep their names
    "embed_tokens": "embedding",
    "rotary_emb": "rotary table",
    "self_attn": "attention",
    "conv": "convolution",
    "mlp": "MLP",
    "feed_forward": "MLP",
    "norm": "last norm",
    "embedding_norm": "last norm",
}


@dataclass(frozen=True)
class PartCall:
    """What a part of the exported model was given, and what it made of it."""

    part: Part
    args: tuple
    kwargs: dict
    output: object  # a tensor, or a tuple of tensors and None


@dataclass(frozen=True)
class VerificationResult:
    error: float  # the largest |exported - live| / |live| of a part, Euclidean norms over all positions
    same_tokens: float  # the share of positions at which the likeliest token is the same
    bound: float  # the largest error that rounding explains

    def __str__(self) -> str:
        return (
            "Read back from its files and compared with the live blend, layer by layer: "
            f"no layer's output nor the logits differ by more than {self.error:.2g} of their norm "
            f"(rounding explains up to {self.bound:g}), and the likeliest token is the same at "
            f"{100 * self.same_tokens:.1f} % of positions."
        )


def model_parts(model: PreTrainedModel | Blend) -> dict[Part, nn.Module]:
    """Every part of a model that computes something. Families name the norms of a layer as they like."""
    whole = model.model if isinstance(model, Blend) else model
    body = whole.model
    parts = {Part(kind): module for kind, module in children(body) if module is not body.layers}
    for number, layer in enumerate(body.layers, 1):
        parts |= {Part(kind, number): module for kind, module in children(layer)}
    return parts | {LOGITS: whole.lm_head}


def children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(kind, module) of what a module consists of."""
    for name, child in module.named_children():
        if not isinstance(child, nn.Dropout):
            yield PART_KINDS.get(name, name), child


@torch.inference_mode()
def record_parts(model: PreTrainedModel | Blend, ids: list[int], on_call: Callable[[PartCall], None]) -> None:
    """Run a prompt through a model; `on_call` gets the call of every part as it ends."""

    def hook_for(part: Part):
        def hook(module, args, kwargs, output):
            on_call(PartCall(part, args, kwargs, output))

        return hook

    hooks = [
        module.register_forward_hook(hook_for(part), with_kwargs=True)
        for part, module in model_parts(model).items()
    ]
    try:
        model(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()


class Comparison:
    """Sums of squares over all calls of a part.

    A position's own error says little where its values are small: the largest was 0.1 for bf16, 1.2 for NF4.
    """

    def __init__(self) -> None:
        self._difference: dict[Part, float] = {}  # sum of |exported - live|^2
        self._size: dict[Part, float] = {}  # sum of |live|^2
        self._same_tokens: list[torch.Tensor] = []

    @torch.inference_mode()
    def add(self, blend: Blend, call: PartCall) -> None:
        """Give the blend's part what the exported model's part was given."""
        module = model_parts(blend)[call.part]
        live_output = module(*to_blend(call.args, blend), **to_blend(call.kwargs, blend))
        for exported, live in zip(output_tensors(call.output), output_tensors(live_output), strict=True):
            difference = float((exported - live).square().sum())
            self._difference[call.part] = self._difference.get(call.part, 0.0) + difference
            self._size[call.part] = self._size.get(call.part, 0.0) + float(live.square().sum())
            if call.part == LOGITS:
                self._same_tokens.append((exported.argmax(-1) == live.argmax(-1)).flatten())

    def result(self, dtypes: set[torch.dtype]) -> VerificationResult:
        """The verdict; a UserError where rounding to `dtypes`, of both sides, does not explain the error."""
        part, error = self.worst()
        bound = max(ERROR_BOUNDS[dtype] for dtype in dtypes)
        same_tokens = float(torch.cat(self._same_tokens).float().mean())
        if not error <= bound:  # also for NaN
            raise UserError(
                f"the files written differ from the live blend by {error:.2g} at {part} (relative) where "
                f"rounding explains {bound:g}, so nothing was kept; try again with four_bit=false and "
                "dtype=float32, and check the disk"
            )
        return VerificationResult(error, same_tokens, bound)

    def worst(self) -> tuple[Part, float]:
        """The first part whose error is NaN, or else the one with the largest."""
        errors = {part: relative_error(self._difference[part], self._size[part]) for part in self._size}
        for part, error in errors.items():
            if math.isnan(error):
                return part, error
        return max(errors.items(), key=lambda item: item[1])


def relative_error(difference: float, size: float) -> float:
    """From sums of squares. 0 / 0 is no difference: some layers of pruned and of grown models add nothing."""
    if size:
        return math.sqrt(difference / size)
    return difference * math.inf if difference else 0.0


def to_blend(value, blend: Blend):
    """Arguments of a call on the blend's device, and of its type."""
    if isinstance(value, torch.Tensor):
        return value.to(blend.device, blend.dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, tuple):
        return tuple(to_blend(item, blend) for item in value)
    if isinstance(value, dict):
        return {key: to_blend(item, blend) for key, item in value.items()}
    return value


def output_tensors(output) -> list[torch.Tensor]:
    """The tensors of a part's output. Attention returns its weights too, here None; a rotary table is two."""
    outputs = output if isinstance(output, tuple) else (output,)
    return [tensor.float().cpu() for tensor in outputs if tensor is not None]
