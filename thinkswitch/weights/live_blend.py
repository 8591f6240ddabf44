"""The live model: both checkpoints and all adapters at once, every row of a batch at its own recipe.

    y[row] = c_I[row] * (W_I x[row]) + c_T[row] * (W_T x[row]) + sum_j c_j[row] * B_j (A_j x[row])

Moving the slider copies nothing, and one batch can hold the instruct answer, the blend and the thinking answer.
transformers runs attention, rotary embedding and cache; only linear, embedding and RMSNorm modules are replaced.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from thinkswitch.errors import UserError
from thinkswitch.recipe import Recipe
from thinkswitch.weights.adapter import Adapter
from thinkswitch.weights.device import malloc_trim
from thinkswitch.weights.materialise import empty_model, finalise_model
from thinkswitch.weights.offload import OffloadedEmbedding, OffloadedLinear
from thinkswitch.weights.pair import Pair
from thinkswitch.weights.quantise import four_bit_linear, quantisable

SMALL = 1 << 18  # elements of a weight; below, a product costs less than its call


class Blend(nn.Module):
    """Called like a transformers model, after `place` has said which recipe each row of the batch is at.

    `stored`: matrices stay on the disk and are read at every call (CPU, float32).
    """

    def __init__(self, pair: Pair, adapters: list[Adapter] = (), device: str = "cpu", dtype: torch.dtype = torch.float32,
                 four_bit: bool = False, progress: Callable[[int, int], None] = lambda done, total: None, stored: bool = False):
        super().__init__()
        self.pair, self.device, self.dtype = pair, torch.device(device), dtype
        self.model = empty_model(pair)
        self.sides, self.placement = 2, None
        self._at = {name: i for i, name in enumerate(pair.names)}
        self._build(four_bit, progress, stored)
        for adapter in adapters:
            self.add(adapter)
        finalise_model(self.model, pair.instruct, device)
        self.requires_grad_(False).eval()

    def forward(self, **inputs):
        return self.model(**inputs)

    @property
    def config(self):
        return self.model.config

    def add(self, adapter: Adapter) -> int:
        """One more adapter for recipes to use; returns its place among them (the first is 0). Weights are not read again."""
        for module in self._blended:
            if isinstance(module, BlendLinear):
                module.add(self.sides, adapter)
        self.sides += 1
        return self.sides - 3

    def place(self, recipes: list[Recipe]) -> torch.Tensor:
        """One recipe a row, in the order of the batch. Returns the placement (rows, tensors, sides), for `put`."""
        width = self.sides
        if any(len(c) > width for r in recipes for c in set(r.values())):
            raise ValueError(f"a recipe has more coefficients than this blend has sides ({width}); add its adapters first")
        table = torch.tensor([[(tuple(r[n]) + (0.0,) * width)[:width] for n in self._at] for r in recipes])
        return self.put(table.to(self.device))

    def put(self, placement: torch.Tensor) -> torch.Tensor:
        """Rows of an earlier placement: fewer of them, or the same ones after another batch had the model."""
        if placement is not self.placement:
            self.placement = placement
            self._spread()
        return placement

    def _spread(self) -> None:
        used = (self.placement != 0).any(1).cpu()  # (rows, sides)
        spans = [_span(used[:, side]) for side in range(used.shape[1])]  # adapters added since take no part
        for module in self._blended:
            module.place(self.placement, spans)

    def _build(self, four_bit: bool, progress, stored: bool) -> None:
        pair, at, place, dtype = self.pair, self._at, self.model.set_submodule, self.dtype
        head = None if pair.config.tie_word_embeddings else self.model.get_output_embeddings()

        def both(name):
            return [side.tensor(name).to(self.device, dtype) for side in (pair.instruct, pair.thinking)]

        modules = list(self.model.named_modules())
        for done, (path, module) in enumerate(modules, 1):
            progress(done, len(modules))
            weight, bias = f"{path}.weight", f"{path}.bias"
            if isinstance(module, nn.Embedding):
                tables = [OffloadedEmbedding(side, weight) for side in (pair.instruct, pair.thinking)] if stored else [PlainEmbedding(t) for t in both(weight)]
                place(path, BlendEmbedding(tables, at[weight], dtype))
                if pair.config.tie_word_embeddings:
                    heads = [OffloadedLinear(t.checkpoint, weight) if stored else PlainLinear(t.weight) for t in tables]
                    self.model.lm_head = BlendLinear(heads, at[weight], dtype)
            elif isinstance(module, nn.Linear) and weight in at:
                if stored:
                    sides = [OffloadedLinear(side, weight) for side in (pair.instruct, pair.thinking)]
                else:
                    sides = [four_bit_linear(w, str(self.device), dtype) if four_bit and module is not head and quantisable(w) else PlainLinear(w)
                             for w in both(weight)]
                place(path, BlendLinear(sides, at[weight], dtype, *((both(bias), at[bias]) if bias in at else ()), name=weight))
            elif type(module).__name__.endswith("RMSNorm"):
                place(path, BlendNorm(both(weight), at[weight], module.variance_epsilon))
            if four_bit and weight in at:
                malloc_trim()
        self._blended = [m for m in self.model.modules() if isinstance(m, (BlendLinear, BlendEmbedding, BlendNorm))]
        covered = {n for m in self._blended for n in m.tensors}
        unknown = sorted(name for name, i in at.items() if i not in covered)
        if unknown:
            raise UserError(f"{pair.instruct.name} has {len(unknown)} tensors that the live blend does not know ({', '.join(unknown[:3])})")


def _span(used: torch.Tensor) -> tuple[int, int]:
    """First and one past the last row that needs a side; (0, 0) when none does."""
    rows = used.nonzero().flatten()
    return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)


class PlainLinear(nn.Module):
    """A linear layer without bias; the weight may be shared with the embedding."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x):
        return F.linear(x, self.weight)


class BlendLinear(nn.Module):
    """x (rows, length, in) -> (rows, length, out).

    A side is computed for the span of rows that need it; sides so small that the call costs more than the
    arithmetic are computed as one product instead.
    """

    def __init__(self, sides, index: int, dtype: torch.dtype, biases=None, bias_index=None, name: str | None = None):
        super().__init__()
        self.sides = nn.ModuleList(sides)
        self.name, self.index, self.dtype, self.bias_index, self.biases = name, index, dtype, bias_index, biases
        self.tensors = {index} if bias_index is None else {index, bias_index}
        dense = all(isinstance(side, PlainLinear) for side in sides)
        self.stacked = torch.cat([side.weight for side in sides]).T.contiguous() if dense and sides[0].weight.numel() <= SMALL else None
        self.adapters: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # side: A (rank, in), B (out, rank)
        self._used: tuple[int, ...] = ()

    def add(self, side: int, adapter: Adapter) -> None:
        if self.name in adapter.low_rank:  # never a tied head: updates are of layers
            device = next((p.device for p in self.sides[0].parameters()), None)  # none: stored
            self.adapters[side] = tuple(x.to(device or "cpu", self.dtype) for x in adapter.low_rank[self.name])

    def place(self, table: torch.Tensor, spans: list[tuple[int, int]]) -> None:
        """Work out once what every forward needs, until the rows change."""
        own, rows = table[:, self.index].to(self.dtype), len(table)  # (rows, sides)
        self.both = own[:, None, :2, None]
        self.parts = [(side, None if hi - lo == rows else slice(lo, hi), own[lo:hi, i, None, None])
                      for i, (side, (lo, hi)) in enumerate(zip(self.sides, spans)) if hi > lo]
        self.low_rank = self.bias = None
        used = tuple(side for side in self.adapters if side < len(spans) and spans[side][1])
        if used:  # as one: two products however many rounds there were
            if used != self._used:
                self._used, chosen = used, [self.adapters[side] for side in used]
                self.a, self.b = torch.cat([a for a, _ in chosen]), torch.cat([b for _, b in chosen], dim=1)
            self.low_rank = torch.cat([own[:, side, None].expand(-1, len(self.adapters[side][0])) for side in used], 1)[:, None]
        if self.biases:
            c = table[:, self.bias_index, :2].to(self.dtype)
            self.bias = (c[:, :1] * self.biases[0] + c[:, 1:] * self.biases[1])[:, None]

    def forward(self, x):
        if self.stacked is not None and len(self.parts) == 2:
            y = (x @ self.stacked).unflatten(-1, (2, -1)).mul_(self.both).sum(-2)
        else:
            y = self._by_spans(x)
        if self.low_rank is not None:
            low = F.linear(F.linear(x, self.a) * self.low_rank, self.b)
            y = low if y is None else y.add_(low)
        return y if self.bias is None else y + self.bias

    def _by_spans(self, x):
        y = None
        for side, rows, c in self.parts:
            part = side(x if rows is None else x[rows])
            if y is None and rows is None:
                y = part.mul_(c)
                continue
            if y is None:
                y = part.new_zeros(*x.shape[:-1], part.shape[-1])
            (y if rows is None else y[rows]).addcmul_(part, c)
        return y


class PlainEmbedding(nn.Module):
    """An embedding; the weight may be shared with the head."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, ids):
        return F.embedding(ids, self.weight)


class BlendEmbedding(nn.Module):
    """Token ids (rows, length) -> (rows, length, hidden)."""

    def __init__(self, tables, index: int, dtype: torch.dtype):
        super().__init__()
        self.tables, self.dtype = nn.ModuleList(tables), dtype
        self.index, self.tensors = index, {index}

    def place(self, table: torch.Tensor, spans) -> None:
        self.c = table[:, self.index, :2, None, None].to(self.dtype)

    def forward(self, ids):
        return self.c[:, 0] * self.tables[0](ids) + self.c[:, 1] * self.tables[1](ids)


class BlendNorm(nn.Module):
    """RMSNorm with a gain per row; input (rows, length, ..., size)."""

    def __init__(self, gains, index: int, eps: float):
        super().__init__()
        self.gains = nn.ParameterList(nn.Parameter(g, requires_grad=False) for g in gains)
        size = gains[0].numel()
        # sqrt(size) * rsqrt(sum of squares + size * eps): the mean's division is done once, in the gain
        self.scale, self.floor = size**0.5, size * eps
        self.index, self.tensors = index, {index}

    def place(self, table: torch.Tensor, spans) -> None:
        c = table[:, self.index, :2] * self.scale
        self.gain = c[:, :1] * self.gains[0].float() + c[:, 1:] * self.gains[1].float()  # (rows, size)

    def forward(self, x):
        h = x.float()
        root = (h * h).sum(-1, keepdim=True).add_(self.floor).rsqrt_()
        return (h * root).mul_(self.gain.view(len(x), *[1] * (x.dim() - 2), -1)).to(x.dtype)
