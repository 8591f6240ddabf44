"""A GGUF file read back: every byte, and what llama.cpp computes with it where that is installed."""

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import gguf
import torch

from thinkswitch.errors import UserError
from thinkswitch.export import llama_cpp
from thinkswitch.export.gguf_lora import SCALES
from thinkswitch.export.gguf_tokenizer import QUESTIONS
from thinkswitch.export.gguf_writer import GgufFile, Written, padded
from thinkswitch.export.point import ExportPoint
from thinkswitch.recipe import remap_adapters, straight
from thinkswitch.weights.live_blend import Blend

PART = 16_000_000  # bytes of a file read at once
POSITIONS = 8  # the last ones of each question, at which the likeliest token is compared
POSITIONS_OF_SCALE = 4  # the same with a LoRA, at each of its scales
# How much less likely llama.cpp's token may be to the blend, in nats: for what each of the two is rounded to
NEAR = {"BF16": 0.25, "F16": 0.25, "Q8_0": 0.5, "Q6_K": 1.0, "Q5_K_M": 1.5, "Q4_K_M": 2.0}
NEAR_OF_BLEND = {torch.float32: 0.0, torch.bfloat16: 0.25, torch.float16: 0.25, torch.uint8: 3.0}  # NF4


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
    written: dict[str, Written],
    blend: Callable[[], Blend],
    slots: list[int],
    turn: Callable[[], AbstractContextManager],
) -> Generator[tuple[int, int], None, GgufVerification]:
    """Read the files back, then compare llama.cpp with `blend()`. Yields (step, steps).

    The blend is asked for only where llama.cpp is installed, and holds the round's adapters in `slots`;
    `turn()` is entered for each thing it computes.
    """
    in_llama_cpp = files if llama_cpp.is_here() else []
    results = []
    all_files = [*files, *([lora] if lora else [])]
    parts = [-(-file.path.stat().st_size // PART) for file in all_files]
    steps = sum(parts) + len(in_llama_cpp)
    step = 0
    for file in all_files:
        for _ in read_back(file, written[file.path.name]):
            yield step, steps
            step += 1
    found: dict[str, LlamaCppResult] = {}
    for file in in_llama_cpp:
        yield step, steps
        step += 1
        found[file.path.name] = compare_with_llama_cpp(point, file, lora, blend(), slots, turn)
    yield steps, steps
    for file in all_files:
        name = file.path.name
        results.append(GgufResult(name, written[name].error, found.get(name), whole=file is not lora))
    return GgufVerification(tuple(results))


def read_back(file: GgufFile, written: Written) -> Iterator[int]:
    """Yields the bytes read, a part at a time. UserError unless the file holds what was written.

    It is read where GGUFReader maps: mapped, a whole file would count as our memory.
    """
    declared = {tensor.name: declaration(tensor) for tensor in gguf.GGUFReader(file.path).tensors}
    start = file.path.stat().st_size - file.data_bytes
    planned = {}
    for tensor in file.tensors:
        planned[tensor.name] = (tensor.type, tensor.nbytes, start)
        start += padded(tensor.nbytes)
    digest = hashlib.sha256()
    with open(file.path, "rb") as data:
        while part := data.read(PART):
            digest.update(part)
            yield data.tell()
    if declared != planned or digest.hexdigest() != written.sha256:
        raise UserError(f"{file.path.name} is not what was written; nothing was kept")


def declaration(tensor: gguf.ReaderTensor) -> tuple[gguf.GGMLQuantizationType, int, int]:
    """(type, bytes, where they begin in the file) as the file's header has them."""
    return tensor.tensor_type, int(tensor.n_bytes), int(tensor.data_offset)


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
            blend.place([remap_adapters(recipe, slots)] * len(prompts))
            ours = last_logits(blend, prompts, asked)
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
def last_logits(blend: Blend, prompts: list[list[int]], counts: list[int]) -> list[torch.Tensor]:
    """Of the last positions of each prompt, its last one first: float32 on the CPU, each (vocabulary,).

    One pass for all of them: a large blend reads both checkpoints from the disk in each. What follows a
    shorter prompt is seen by none of its positions.
    """
    longest = max(map(len, prompts))
    rows = torch.tensor([ids + [0] * (longest - len(ids)) for ids in prompts], device=blend.device)
    first = min(len(ids) - count for ids, count in zip(prompts, counts, strict=True))
    kept = blend(input_ids=rows, use_cache=False, logits_to_keep=longest - first).logits.float().cpu()
    result: list[torch.Tensor] = []
    for logits, ids, count in zip(kept, prompts, counts, strict=True):
        end = len(ids) - first
        result += logits[end - count : end].flip(0)
    return result
