"""A GGUF file read back: every tensor, and what llama.cpp computes with it where that is installed."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import BinaryIO

import gguf
import numpy as np
import torch

from thinkswitch.errors import UserError
from thinkswitch.export import llama_cpp
from thinkswitch.export.gguf_lora import SCALES
from thinkswitch.export.gguf_quantise import quantised
from thinkswitch.export.gguf_tokenizer import QUESTIONS
from thinkswitch.export.gguf_writer import GgufFile, blocks
from thinkswitch.export.point import ExportPoint
from thinkswitch.recipe import remap_adapters, straight
from thinkswitch.weights.live_blend import Blend

POSITIONS = 8  # the last ones of each question, at which the likeliest token is compared
POSITIONS_OF_SCALE = 4  # the same with a LoRA, at each of its scales
# How much less likely llama.cpp's token may be to the blend, in nats: for what each of the two is rounded to
NEAR = {"BF16": 0.25, "F16": 0.25, "Q8_0": 0.5, "Q6_K": 1.0, "Q5_K_M": 1.5, "Q4_K_M": 2.0}
NEAR_OF_BLEND = {torch.float32: 0.0, torch.bfloat16: 0.25, torch.float16: 0.25, torch.uint8: 3.0}  # NF4


@dataclass(frozen=True)
class Stored:
    """A tensor as the file declares it."""

    type: gguf.GGMLQuantizationType
    offset: int  # bytes, in the file


@dataclass(frozen=True)
class LlamaCppResult:
    """How llama.cpp and the live blend agree."""

    same_tokens: float  # the share of positions at which the likeliest token is the same
    positions: int
    near: float  # nats; at every position llama.cpp's token is at most so much less likely to the blend
    lora: str = ""  # the LoRA that was loaded with the file, at each of SCALES


@dataclass(frozen=True)
class GgufResult:
    """What was found in one file."""

    file: str
    error: float  # the largest |stored - computed| / |computed| of a tensor
    llama_cpp: LlamaCppResult | None = None  # None: it is not installed
    whole: bool = True  # False: a LoRA, which llama.cpp is asked about with another file

    def __str__(self) -> str:
        changed = f"rounding changed none by more than {100 * self.error:.2g} % of its norm"
        read = f"{self.file}: every tensor was read back; {changed}."
        if not self.whole:
            return read
        if self.llama_cpp is None:
            return f"{read} llama.cpp is not installed, so the file was not tried in it."
        found = self.llama_cpp
        others = "" if found.same_tokens == 1 else f" (at the others within {found.near:g} nats of it)"
        with_lora = ""
        if found.lora:
            scales = ", ".join(f"{scale:g}" for scale in SCALES)
            with_lora = f" with {found.lora} at the scales {scales}"
        return (
            f"{read} llama.cpp reads prompts as the same token ids, and its likeliest token{with_lora} is "
            f"the live blend's at {100 * found.same_tokens:.0f} % of {found.positions} positions{others}."
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


def verify_files(
    point: ExportPoint,
    files: list[GgufFile],
    lora: GgufFile | None,
    blend: Callable[[], Blend],
    slots: list[int],
    turn: Callable[[], AbstractContextManager],
) -> Generator[tuple[int, int], None, GgufVerification]:
    """Compare every tensor with what is computed anew, then llama.cpp with `blend()`. Yields (step, steps).

    The blend is asked for only where llama.cpp is installed, and holds the round's adapters in `slots`;
    `turn()` is entered for each thing it computes.
    """
    in_llama_cpp = files if llama_cpp.is_here() else []
    read = len(files[0].tensors) + (len(lora.tensors) if lora else 0)
    steps = read + len(in_llama_cpp)
    errors = yield from read_back(point, files, steps)
    results = []
    if lora:
        [error] = yield from read_back(point, [lora], steps, len(files[0].tensors))
        results.append(GgufResult(lora.path.name, error, whole=False))
    found: dict[str, LlamaCppResult] = {}
    for number, file in enumerate(in_llama_cpp, read):
        yield number, steps
        found[file.path.name] = compare_with_llama_cpp(point, file, lora, blend(), slots, turn)
    yield steps, steps
    names = [file.path.name for file in files]
    whole = [GgufResult(name, error, found.get(name)) for name, error in zip(names, errors, strict=True)]
    return GgufVerification((*whole, *results))


def read_back(
    point: ExportPoint, files: list[GgufFile], steps: int, before: int = 0
) -> Generator[tuple[int, int], None, list[float]]:
    """The largest |stored - computed| / |computed| of a tensor in each file, each tensor computed once.

    UserError where a file does not hold what was computed.
    """
    stored = [stored_tensors(file) for file in files]
    errors = [0.0] * len(files)
    with ExitStack() as stack:
        opened = [stack.enter_context(open(file.path, "rb")) for file in files]
        for number, tensor in enumerate(files[0].tensors):
            yield before + number, steps
            readers = [
                TensorReader(file, number, tensors[tensor.name], data)
                for file, tensors, data in zip(files, stored, opened, strict=True)
            ]
            for block in blocks(point, tensor):
                for reader in readers:
                    reader.compare(block)
            errors = [max(error, reader.error) for error, reader in zip(errors, readers, strict=True)]
    return errors


def stored_tensors(file: GgufFile) -> dict[str, Stored]:
    """Where the file says that its tensors are. UserError where they are others than were written."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file.path).tensors}
    if tensors.keys() != {tensor.name for tensor in file.tensors}:
        raise UserError(f"{file.path.name} holds other tensors than were written; nothing was kept")
    return {name: Stored(found.tensor_type, found.data_offset) for name, found in tensors.items()}


class TensorReader:
    """A tensor of a file, compared block by block with what is computed.

    It reads where GGUFReader maps: mapped, a whole file would count as our memory.
    """

    def __init__(self, file: GgufFile, number: int, stored: Stored, data: BinaryIO):
        self._file = file
        self._tensor = file.tensors[number]
        self._same_type = stored.type == self._tensor.type
        self._data = data
        self._data.seek(stored.offset)
        self._off = 0.0
        self._norm = 0.0

    def compare(self, block: np.ndarray) -> None:
        computed = block.reshape(-1, block.shape[-1])
        size = len(computed) * self._tensor.row_bytes
        read = np.frombuffer(self._data.read(size), np.uint8)
        written = quantised(computed, self._tensor.type)
        if not self._same_type or not np.array_equal(read, written.reshape(-1)):
            where = f"{self._tensor.name} in {self._file.path.name}"
            raise UserError(f"{where} is not what was written; nothing was kept")
        stored = gguf.dequantize(read.reshape(written.shape), self._tensor.type)
        self._off += float(np.square(stored - computed).sum())
        self._norm += float(np.square(computed).sum())

    @property
    def error(self) -> float:
        return (self._off / self._norm) ** 0.5 if self._norm else 0.0


def compare_with_llama_cpp(
    point: ExportPoint,
    file: GgufFile,
    lora: GgufFile | None,
    blend: Blend,
    slots: list[int],
    turn: Callable[[], AbstractContextManager],
) -> LlamaCppResult:
    """A UserError where llama.cpp reads prompts otherwise, or computes what rounding does not explain."""
    source = point.template_source
    texts = [source.render(question) for question in QUESTIONS]
    prompts = [source.prompt_ids(question) for question in QUESTIONS]
    most = POSITIONS_OF_SCALE if lora else POSITIONS
    asked = [min(most, len(ids) - 1) for ids in prompts]  # positions, from the last one backwards
    prefixes = [ids[: len(ids) - back] for ids, n in zip(prompts, asked, strict=True) for back in range(n)]
    scales = SCALES if lora else (1.0,)
    read, likeliest = llama_cpp.ask(file.path, texts, prefixes, lora.path if lora else None, scales)
    if read != prompts:
        raise UserError(f"llama.cpp reads prompts in {file.path.name} as other tokens; nothing was kept")
    near = NEAR[file.quantisation] + max(NEAR_OF_BLEND.get(p.dtype, 0.0) for p in blend.parameters())
    same = 0
    for scale, tokens in zip(scales, likeliest, strict=True):
        recipe = straight(point.origin, point.recipe, scale) if lora else point.recipe
        with turn():
            placement = blend.place([remap_adapters(recipe, slots)])
        ours: list[torch.Tensor] = []
        for ids, count in zip(prompts, asked, strict=True):
            with turn():
                blend.put(placement)  # at once, if nobody else has used the blend
                ours += last_logits(blend, ids, count)
        for logits, token in zip(ours, tokens, strict=True):
            less_likely = distance(logits, token, source.stop_token_ids)
            if less_likely > near:
                at = f" at the scale {scale:g} of {lora.path.name}" if lora else ""
                raise UserError(
                    f"llama.cpp computes something else with {file.path.name}{at} than the live blend; "
                    "nothing was kept"
                )
            same += less_likely == 0
    positions = len(prefixes) * len(scales)
    return LlamaCppResult(same / positions, positions, near, lora.path.name if lora else "")


def distance(logits: torch.Tensor, token: llama_cpp.Token, ends: set[int]) -> float:
    """By how many nats a token, or the likeliest of `ends` for None, is less likely than the likeliest."""
    theirs = logits[sorted(ends) if token is None else token].max()
    return float(logits.max() - theirs)


@torch.inference_mode()
def last_logits(blend: Blend, ids: list[int], count: int) -> list[torch.Tensor]:
    """Of the last `count` positions, the last one first: float32 on the CPU, each (vocabulary,).

    One pass for all of them: a large blend reads both checkpoints from the disk in each.
    """
    row = torch.tensor([ids], device=blend.device)
    logits = blend(input_ids=row, use_cache=False, logits_to_keep=count).logits[0].float().cpu()
    return list(logits.flip(0))
