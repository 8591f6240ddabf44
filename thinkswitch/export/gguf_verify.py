"""A GGUF file read back: every tensor, and what llama.cpp computes with it where that is installed."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import gguf
import numpy as np
import torch

from thinkswitch.errors import UserError
from thinkswitch.export import llama_cpp
from thinkswitch.export.gguf_layout import GgufTensor
from thinkswitch.export.gguf_quantise import quantised
from thinkswitch.export.gguf_tokenizer import QUESTIONS
from thinkswitch.export.gguf_writer import GgufFile, blocks
from thinkswitch.export.point import ExportPoint
from thinkswitch.recipe import Recipe
from thinkswitch.weights.live_blend import Blend

POSITIONS = 8  # the last ones of each question, at which the likeliest token is compared
# nats: what rounding may make of the likeliest token
NEAR = {"BF16": 0.25, "F16": 0.25, "Q8_0": 0.5, "Q6_K": 1.0, "Q5_K_M": 1.5, "Q4_K_M": 2.0}


@dataclass(frozen=True)
class LlamaCppResult:
    """How llama.cpp and the live blend agree."""

    same_tokens: float  # the share of positions at which the likeliest token is the same
    positions: int
    near: float  # nats; at every position llama.cpp's token is at most so much less likely to the blend


@dataclass(frozen=True)
class GgufResult:
    """What was found in one file."""

    file: str
    error: float  # the largest |stored - computed| / |computed| of a tensor
    llama_cpp: LlamaCppResult | None  # None: it is not installed

    def __str__(self) -> str:
        read = f"{self.file}: every tensor read back; rounding takes up to {self.error:.2g} of its norm."
        if self.llama_cpp is None:
            return f"{read} llama.cpp was not installed, so it was not tried there."
        found = self.llama_cpp
        others = "" if found.same_tokens == 1 else f" (at the others within {found.near:g} nats of it)"
        return (
            f"{read} llama.cpp reads prompts as the same token ids, and its likeliest token is the live "
            f"blend's at {100 * found.same_tokens:.0f} % of {found.positions} positions{others}."
        )


@dataclass(frozen=True)
class GgufVerification:
    """What was found in all files of an export."""

    results: tuple[GgufResult, ...]

    @property
    def error(self) -> float:
        return max(result.error for result in self.results)

    @property
    def same_tokens(self) -> float | None:
        found = [result.llama_cpp.same_tokens for result in self.results if result.llama_cpp]
        return min(found, default=None)

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.results))


def verify_file(
    point: ExportPoint,
    file: GgufFile,
    blend: Blend,
    recipe: Recipe,
    turn: Callable[[], AbstractContextManager],
) -> Generator[tuple[int, int], None, GgufResult]:
    """Compare every tensor with what is computed anew, then llama.cpp with `blend`. Yields (step, steps)."""
    steps = len(file.tensors) + 1
    error = 0.0
    reader = gguf.GGUFReader(file.path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    if found.keys() != {tensor.name for tensor in file.tensors}:
        raise UserError(f"{file.path.name} holds other tensors than were written; nothing was kept")
    for number, tensor in enumerate(file.tensors):
        yield number, steps
        error = max(error, rounding_error(point, file, tensor, found[tensor.name]))
    del reader, found  # Windows renames no folder with open files
    yield steps - 1, steps
    in_llama_cpp = compare_with_llama_cpp(point, file, blend, recipe, turn) if llama_cpp.is_here() else None
    yield steps, steps
    return GgufResult(file.path.name, error, in_llama_cpp)


def rounding_error(
    point: ExportPoint, file: GgufFile, tensor: GgufTensor, stored: gguf.ReaderTensor
) -> float:
    """|stored - computed| / |computed|; a UserError where the file does not hold what was computed."""
    rows = np.asarray(stored.data).reshape(-1).view(np.uint8).reshape(-1, tensor.row_bytes)
    off, norm, start = 0.0, 0.0, 0
    for block in blocks(point, tensor):
        computed = block.reshape(-1, block.shape[-1])
        read = rows[start : start + len(computed)]
        same = np.array_equal(read, quantised(computed, tensor.type))
        if stored.tensor_type != tensor.type or not same:
            raise UserError(f"{tensor.name} in {file.path.name} is not what was written; nothing was kept")
        off += float(np.square(gguf.dequantize(read, tensor.type) - computed).sum())
        norm += float(np.square(computed).sum())
        start += len(computed)
    return (off / norm) ** 0.5 if norm else 0.0


def compare_with_llama_cpp(
    point: ExportPoint,
    file: GgufFile,
    blend: Blend,
    recipe: Recipe,
    turn: Callable[[], AbstractContextManager],
) -> LlamaCppResult:
    """A UserError where llama.cpp reads prompts otherwise, or computes what rounding does not explain."""
    source = point.template_source
    texts = [source.render(question) for question in QUESTIONS]
    prompts = [source.prompt_ids(question) for question in QUESTIONS]
    prefixes = [ids[: len(ids) - back] for ids in prompts for back in range(min(POSITIONS, len(ids) - 1))]
    read, likeliest = llama_cpp.ask(file.path, texts, prefixes)
    if read != prompts:
        raise UserError(f"llama.cpp reads prompts in {file.path.name} as other tokens; nothing was kept")
    same = 0
    near = NEAR[file.quantisation]
    ends = torch.tensor(sorted(source.stop_token_ids))
    with turn(), torch.inference_mode():
        blend.place([recipe])
        for prefix, token in zip(prefixes, likeliest, strict=True):
            ids = torch.tensor([prefix], device=blend.device)
            logits = blend(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float().cpu()
            theirs = logits[ends if token is None else token].max()
            if logits.max() - theirs > near:
                raise UserError(
                    f"llama.cpp computes something else with {file.path.name} than the live blend; "
                    "nothing was kept"
                )
            same += bool(theirs == logits.max())
    return LlamaCppResult(same / len(prefixes), len(prefixes), near)
