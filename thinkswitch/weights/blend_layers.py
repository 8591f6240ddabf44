"""The layers of the live blend. Each holds the checkpoints' weights; every row has its own coefficients.

`place` works out what every forward needs until the rows of the batch change. It takes

    coefficients  (rows, tensors, sides): for every row and tensor of the model, one per side
    spans         per side, the first row that uses it and one past the last; equal where none does

Sides are the instruct checkpoint (0), the thinking one (1) and the adapters (2 and up). Where the thinking
checkpoint is instruct + adapter, a layer holds instruct's weights alone, and side 1 is an adapter, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

SMALL = 1 << 18  # values of a weight; below, a matrix product costs less than calling it

Span = tuple[int, int]
LowRank = tuple[torch.Tensor, torch.Tensor]  # A (rank, in), B (out, rank)
SideTensors = Sequence[torch.Tensor]  # of the instruct and of the thinking checkpoint, or of instruct alone


class PlainLinear(nn.Module):
    """A linear layer without bias; the weight may be shared with the embedding."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)


class PlainEmbedding(nn.Module):
    """An embedding; the weight may be shared with the head."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.weight)


@dataclass(frozen=True)
class SideTerm:
    """c * (W x) for the span of rows that uses a checkpoint."""

    layer: nn.Module
    rows: slice
    all_rows: bool
    c: torch.Tensor  # (rows of the span, 1, 1)


@dataclass(frozen=True)
class UpdateTerm:
    """B (c * (A x)): all adapters in use as one, so two products however many rounds there were."""

    a: torch.Tensor  # (sum of ranks, in)
    b: torch.Tensor  # (out, sum of ranks)
    c: torch.Tensor  # (rows, 1, sum of ranks)


@dataclass(frozen=True)
class LinearPlacement:
    """What a linear layer computes for the rows of a batch."""

    sides: list[SideTerm]  # of the checkpoints that some row uses
    c_both: torch.Tensor  # (rows, 1, 2, 1), for the stacked weights
    update: UpdateTerm | None
    bias: torch.Tensor | None  # (rows, 1, out)


@dataclass(frozen=True)
class BlendBias:
    tensors: SideTensors
    index: int  # which tensor of the model


class BlendLinear(nn.Module):
    """x (rows, length, in) -> (rows, length, out).

    A checkpoint's product is computed for the span of rows that uses it. Weights so small that a call costs
    more than its arithmetic are multiplied as one instead.
    """

    def __init__(
        self, layers: Sequence[nn.Module], index: int, dtype: torch.dtype, bias: BlendBias | None = None
    ):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.index = index
        self.dtype = dtype
        self.bias = bias
        self.stacked = stack_if_small(layers)  # (in, 2 * out)
        self.adapters: dict[int, LowRank] = {}  # by side
        self.joined_sides: tuple[int, ...] = ()
        self.joined: LowRank | None = None  # the adapters of joined_sides as one
        self.placement: LinearPlacement | None = None

    def add(self, side: int, update: LowRank) -> None:
        self.adapters[side] = update

    def remove(self, side: int) -> None:
        """Forget an adapter and what was worked out with it: the rows have to be placed again."""
        if side in self.adapters:
            del self.adapters[side]
            self.joined_sides, self.joined = (), None
            self.placement = None

    def extra_tensors(self) -> list[torch.Tensor]:
        """What this layer holds besides parameters."""
        held = [] if self.stacked is None else [self.stacked]
        if self.bias is not None:
            held += self.bias.tensors
        for update in self.adapters.values():
            held += update
        return held if self.joined is None else [*held, *self.joined]

    def place(self, coefficients: torch.Tensor, spans: list[Span]) -> None:
        own = coefficients[:, self.index].to(self.dtype)  # (rows, sides)
        self.placement = LinearPlacement(
            sides=self._side_terms(own, spans),
            c_both=own[:, None, :2, None],
            update=self._update_term(own, spans),
            bias=self._blended_bias(coefficients),
        )

    def _side_terms(self, own: torch.Tensor, spans: list[Span]) -> list[SideTerm]:
        terms = []
        for side, layer in enumerate(self.layers):
            first, end = spans[side]
            if first < end:
                c = own[first:end, side, None, None]
                terms.append(SideTerm(layer, slice(first, end), len(c) == len(own), c))
        return terms

    def _update_term(self, own: torch.Tensor, spans: list[Span]) -> UpdateTerm | None:
        used = tuple(s for s in sorted(self.adapters) if s < len(spans) and spans[s][0] < spans[s][1])
        if not used:
            return None
        a, b = self._join(used)
        ranks = [len(self.adapters[side][0]) for side in used]
        c = torch.cat(
            [own[:, side, None].expand(-1, rank) for side, rank in zip(used, ranks, strict=True)], 1
        )
        return UpdateTerm(a, b, c[:, None])

    def _join(self, used: tuple[int, ...]) -> LowRank:
        """Several adapters as one; kept, since the next batch mostly uses the same."""
        if len(used) == 1:
            return self.adapters[used[0]]
        if self.joined is None or used != self.joined_sides:
            updates = [self.adapters[side] for side in used]
            self.joined = torch.cat([a for a, _ in updates]), torch.cat([b for _, b in updates], dim=1)
            self.joined_sides = used
        return self.joined

    def _blended_bias(self, coefficients: torch.Tensor) -> torch.Tensor | None:
        if self.bias is None:
            return None
        c = coefficients[:, self.bias.index].to(self.dtype)
        return weighted_sum(c, self.bias.tensors)[:, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        placement = self.placement
        assert placement is not None, "place recipes on the blend first"
        if self.stacked is not None and len(placement.sides) == 2:
            y = (x @ self.stacked).unflatten(-1, (2, -1)).mul_(placement.c_both).sum(-2)
        else:
            y = sum_of_sides(x, placement.sides)
        update = placement.update
        if update is not None:
            low = F.linear(F.linear(x, update.a) * update.c, update.b)
            y = low if y is None else y.add_(low)
        return y if placement.bias is None else y + placement.bias


def sum_of_sides(x: torch.Tensor, terms: list[SideTerm]) -> torch.Tensor | None:
    """The checkpoints' shares of a linear layer; None if no row uses any."""
    total = None
    for term in terms:
        part = term.layer(x if term.all_rows else x[term.rows])
        if total is None and term.all_rows:
            total = part.mul_(term.c)
        else:
            if total is None:
                total = part.new_zeros(*x.shape[:-1], part.shape[-1])
            target = total if term.all_rows else total[term.rows]
            target.addcmul_(part, term.c)
    return total


def weighted_sum(c: torch.Tensor, tensors: SideTensors) -> torch.Tensor:
    """c[:, 0] * the first + c[:, 1] * the second, if there is one. `c`: (rows, sides ...).

    A vector of coefficients goes with a vector per checkpoint, which all rows share.
    """
    columns = c[..., None] if c.dim() == 2 else c
    total = columns[:, 0] * tensors[0]
    for side, tensor in enumerate(tensors[1:], 1):
        total = total + columns[:, side] * tensor
    return total


def stack_if_small(layers: Sequence[nn.Module]) -> torch.Tensor | None:
    """Both weights side by side, (in, 2 * out); None where they are large, in NF4, on the disk or one."""
    weights: list[torch.Tensor] = [layer.weight for layer in layers if isinstance(layer, PlainLinear)]
    if len(weights) < 2 or weights[0].numel() > SMALL:
        return None
    return torch.cat(weights).T.contiguous()


class BlendEmbedding(nn.Module):
    """Token ids (rows, length) -> (rows, length, hidden)."""

    def __init__(self, tables: Sequence[nn.Module], index: int, dtype: torch.dtype, scale: float = 1.0):
        super().__init__()
        self.tables = nn.ModuleList(tables)
        self.index = index
        self.dtype = dtype
        self.scale = float(torch.tensor(scale, dtype=dtype))  # rounded, as transformers rounds it
        self.c = torch.empty(0)  # (rows, 2, 1, 1), by `place`

    def place(self, coefficients: torch.Tensor, spans: list[Span]) -> None:
        self.c = coefficients[:, self.index, :2, None, None].to(self.dtype)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = weighted_sum(self.c, [table(ids) for table in self.tables])
        return rows if self.scale == 1 else rows.mul_(self.scale)


class BlendNorm(nn.Module):
    """RMSNorm with a gain per row; input (rows, length, ..., size). `offset` is added to the weights."""

    def __init__(self, gains: SideTensors, index: int, eps: float, offset: float = 0.0):
        super().__init__()
        self.gains = nn.ParameterList(nn.Parameter(gain, requires_grad=False) for gain in gains)
        # x / sqrt(mean(x^2) + eps) = sqrt(size) * x / sqrt(sum(x^2) + size * eps);
        # the factor sqrt(size) goes into the gain.
        size = gains[0].numel()
        self.scale = size**0.5
        self.floor = size * eps
        self.offset = self.scale * offset
        self.index = index
        self.gain = torch.empty(0)  # (rows, size) in float32, by `place`

    def place(self, coefficients: torch.Tensor, spans: list[Span]) -> None:
        c = coefficients[:, self.index, :2] * self.scale
        self.gain = weighted_sum(c, [gain.float() for gain in self.gains]) + self.offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.float()
        root = (h * h).sum(-1, keepdim=True).add_(self.floor).rsqrt_()
        gain = self.gain.view(len(x), *[1] * (x.dim() - 2), -1)
        return (h * root).mul_(gain).to(x.dtype)
