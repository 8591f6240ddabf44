"""The live model: both checkpoints and all adapters at once, every row of a batch at its own recipe.

    y[row] = c_I[row] * (W_I x[row]) + c_T[row] * (W_T x[row]) + sum_j c_j[row] * B_j (A_j x[row])

Where the thinking checkpoint is instruct + adapter, W_T = W_I + BA: the blend holds one set of weights, c_I +
c_T stands at W_I, and c_T at BA.

Moving the slider copies nothing, and one batch can hold the instruct answer, the blend and the thinking
answer. transformers runs attention, rotary embedding and cache; only linear, embedding and RMSNorm modules
are replaced.
"""

from collections.abc import Callable, Sequence
from itertools import count

import torch
from torch import nn
from transformers import PretrainedConfig

from thinkswitch.errors import UserError, list_some
from thinkswitch.recipe import Coefficients, Recipe
from thinkswitch.weights.adapter import Adapter
from thinkswitch.weights.blend_convolution import BlendKernel, ShortConvolution
from thinkswitch.weights.blend_layers import (
    BlendBias,
    BlendEmbedding,
    BlendLinear,
    BlendNorm,
    PlainEmbedding,
    PlainLinear,
    Span,
)
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.device import malloc_trim
from thinkswitch.weights.families import FAMILIES, embedding_scale, epsilon, layer_kind
from thinkswitch.weights.materialise import empty_model, finalise_model
from thinkswitch.weights.offload import OffloadedEmbedding, OffloadedLinear
from thinkswitch.weights.pair import Pair
from thinkswitch.weights.quantise import four_bit_linear, four_bit_tensors, quantisable

CHECKPOINTS = 2  # the first coefficients of a recipe; those of the adapters follow
BLENDED = (BlendLinear, BlendEmbedding, BlendNorm, BlendKernel)


def ignore_progress(done: int, total: int) -> None:
    pass


class Blend(nn.Module):
    """Called like a transformers model, after `place` has given each row of the batch its recipe.

    `stored`: the matrices stay on the disk and are read at every call (CPU, float32).

    Adapters take slots: `add` returns the slot, coefficient 2 + slot of a recipe is the adapter's. A
    program that runs for long calls `remove(slot)` for adapters that no recipe in use needs; the slot and
    the memory serve the next one.
    """

    def __init__(
        self,
        pair: Pair,
        adapters: Sequence[Adapter] = (),
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        four_bit: bool = False,
        progress: Callable[[int, int], None] = ignore_progress,
        stored: bool = False,
    ):
        super().__init__()
        self.pair = pair
        self.device = torch.device(device)
        self.dtype = dtype
        self.model = empty_model(pair)
        self.slots: set[int] = set()  # those that hold an adapter
        self.placement: torch.Tensor | None = None  # (rows, tensors, sides)
        self._index = {name: i for i, name in enumerate(pair.names)}
        self._linears: dict[str, BlendLinear] = {}  # by the name of the weight; without a tied head
        whole = pair.whole_checkpoints
        factory = DiskLayers(whole) if stored else MemoryLayers(whole, self.device, dtype, four_bit)
        self._replace_modules(factory, progress, trim=four_bit)
        self._layers = [layer for layer in self.model.modules() if isinstance(layer, BLENDED)]
        if pair.update:
            self._add(1, pair.update)
        for adapter in adapters:
            self.add(adapter)
        finalise_model(self.model, pair.instruct, device)
        self.requires_grad_(False).eval()

    def forward(self, **inputs):
        if self.placement is None:
            raise RuntimeError("no recipes are placed; call Blend.place with one for each row of the batch")
        return self.model(**inputs)

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    # ---- adapters

    @property
    def sides(self) -> int:
        """How many coefficients a recipe may have: one per checkpoint and per slot up to the last one."""
        return CHECKPOINTS + max(self.slots, default=-1) + 1

    def add(self, adapter: Adapter) -> int:
        """Let recipes use one more adapter; returns its slot, the first free one. No weights are read."""
        slot = next(i for i in count() if i not in self.slots)
        self._add(CHECKPOINTS + slot, adapter)
        self.slots.add(slot)
        return slot

    def _add(self, side: int, adapter: Adapter) -> None:
        for name, layer in self._linears.items():
            if name in adapter.low_rank:
                a, b = (x.to(self.device, self.dtype) for x in adapter.low_rank[name])
                layer.add(side, (a, b))

    def remove(self, slot: int) -> None:
        """Free an adapter's slot and memory; the next `add` may take the slot.

        Only while no batch is being decoded whose recipes use it: what has been placed with it cannot be
        put back.
        """
        self.slots.remove(slot)
        for layer in self._linears.values():
            layer.remove(CHECKPOINTS + slot)
        self.placement = None  # the layers have to be placed again

    @property
    def nbytes(self) -> int:
        """Bytes that the blend holds in memory: weights, scales of NF4, stacked copies and adapters."""
        tensors = [*self.parameters(), *self.buffers()]
        tensors += [held for parameter in self.parameters() for held in four_bit_tensors(parameter)]
        for layer in self._layers:
            if isinstance(layer, BlendLinear):
                tensors += layer.extra_tensors()
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())  # some are shared

    # ---- recipes

    def place(self, recipes: list[Recipe]) -> torch.Tensor:
        """One recipe per row of the batch. Returns the placement (rows, tensors, sides), for `put`."""
        width = self.sides
        if any(len(coefficients) > width for recipe in recipes for coefficients in set(recipe.values())):
            raise ValueError(
                f"a recipe has more coefficients than this blend has sides ({width}); add its adapters first"
            )
        table = [[pad(recipe[name], width) for name in self._index] for recipe in recipes]
        placement = torch.tensor(table)
        if self.pair.update:
            placement[..., 0] += placement[..., 1]  # W_T = W_I + BA
        return self.put(placement.to(self.device))

    def put(self, placement: torch.Tensor) -> torch.Tensor:
        """Rows of an earlier placement: some of them, or all after another batch used the model."""
        if placement is not self.placement:
            spans = self._spans(placement)
            self.placement = None  # until all layers agree, should one of them run out of memory
            for layer in self._layers:
                layer.place(placement, spans)
            self.placement = placement
        return placement

    def _spans(self, placement: torch.Tensor) -> list[Span]:
        used = (placement != 0).any(1).cpu()  # (rows, sides)
        spans = [span_of(used[:, side]) for side in range(used.shape[1])]
        for slot, (first, end) in enumerate(spans[CHECKPOINTS:]):
            if first < end and slot not in self.slots:
                raise ValueError(f"the adapter in slot {slot}, which these rows use, was removed")
        return spans

    # ---- building

    def _replace_modules(
        self, factory: "MemoryLayers | DiskLayers", progress: Callable[[int, int], None], trim: bool
    ) -> None:
        """Put a blended layer in the place of every module that holds weights, and leave no tensor out."""
        modules = list(self.model.named_modules())
        covered: set[str] = set()
        for done, (path, module) in enumerate(modules, 1):
            progress(done, len(modules))
            if f"{path}.weight" in self._index:
                covered |= self._replace(path, module, factory)
                if trim:
                    malloc_trim()
        unknown = sorted(self._index.keys() - covered)
        if unknown:
            raise UserError(
                f"{self.pair.instruct.name} has {len(unknown)} tensors that the live blend does not know "
                f"({list_some(unknown)})"
            )

    def _replace(self, path: str, module: nn.Module, factory: "MemoryLayers | DiskLayers") -> set[str]:
        """Replace one module; returns the names of the tensors that are covered by it."""
        kind = layer_kind(module, self.config)
        weight, bias = f"{path}.weight", f"{path}.bias"
        index = self._index[weight]
        if kind == "embedding":
            tables = factory.embedding(weight)
            blended = BlendEmbedding(tables, index, self.dtype, embedding_scale(module))
            self.model.set_submodule(path, blended)
            if self.config.tie_word_embeddings:
                self.model.lm_head = BlendLinear(factory.tied_head(weight, tables), index, self.dtype)
            return {weight}
        if kind == "norm":
            offset = FAMILIES[self.config.model_type].gain_offset
            norm = BlendNorm(factory.tensors(weight), index, epsilon(module), offset)
            self.model.set_submodule(path, norm)
            return {weight}
        if kind == "convolution":
            owner = path.rpartition(".")[0]
            kernel = BlendKernel(factory.tensors(weight), index, self.dtype)
            self.model.set_submodule(owner, ShortConvolution(self.model.get_submodule(owner), kernel))
            return {weight}
        if kind == "linear":
            is_head = not self.config.tie_word_embeddings and module is self.model.get_output_embeddings()
            blended_bias = (
                BlendBias(factory.tensors(bias), self._index[bias]) if bias in self._index else None
            )
            layer = BlendLinear(factory.linear(weight, is_head), index, self.dtype, blended_bias)
            self._linears[weight] = layer
            self.model.set_submodule(path, layer)
            return {weight, bias}
        return set()


class MemoryLayers:
    """Makes the checkpoints' layers with their weights in memory; linear ones in NF4 if asked for."""

    def __init__(
        self, checkpoints: Sequence[Checkpoint], device: torch.device, dtype: torch.dtype, four_bit: bool
    ):
        self.checkpoints = checkpoints
        self.device = device
        self.dtype = dtype
        self.four_bit = four_bit

    def tensors(self, name: str) -> list[torch.Tensor]:
        return [checkpoint.tensor(name).to(self.device, self.dtype) for checkpoint in self.checkpoints]

    def embedding(self, name: str) -> list[nn.Module]:
        return [PlainEmbedding(weight) for weight in self.tensors(name)]

    def tied_head(self, name: str, tables: list[nn.Module]) -> list[nn.Module]:
        """Shares its weights with `tables`."""
        return [PlainLinear(table.weight) for table in tables if isinstance(table, PlainEmbedding)]

    def linear(self, name: str, is_head: bool) -> list[nn.Module]:
        return [self._linear(weight, is_head) for weight in self.tensors(name)]

    def _linear(self, weight: torch.Tensor, is_head: bool) -> nn.Module:
        if self.four_bit and not is_head and quantisable(weight):
            return four_bit_linear(weight, str(self.device), self.dtype)
        return PlainLinear(weight)


class DiskLayers:
    """Makes the checkpoints' layers with their matrices on the disk, on the CPU and in float32."""

    def __init__(self, checkpoints: Sequence[Checkpoint]):
        self.checkpoints = checkpoints

    def tensors(self, name: str) -> list[torch.Tensor]:
        return [checkpoint.tensor(name).float() for checkpoint in self.checkpoints]

    def embedding(self, name: str) -> list[nn.Module]:
        return [OffloadedEmbedding(checkpoint, name) for checkpoint in self.checkpoints]

    def tied_head(self, name: str, tables: list[nn.Module]) -> list[nn.Module]:
        return [OffloadedLinear(checkpoint, name) for checkpoint in self.checkpoints]

    def linear(self, name: str, is_head: bool) -> list[nn.Module]:
        return [OffloadedLinear(checkpoint, name) for checkpoint in self.checkpoints]


def pad(coefficients: Coefficients, width: int) -> Coefficients:
    """Coefficients that a recipe leaves off are zero."""
    return (*coefficients, *[0.0] * (width - len(coefficients)))


def span_of(used: torch.Tensor) -> Span:
    """The first row that uses a side and one past the last; (0, 0) if none does. `used` is (rows,)."""
    rows = used.nonzero().flatten()
    return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
