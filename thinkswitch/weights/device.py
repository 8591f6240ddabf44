"""Which device computes, in what precision; and giving memory back to the system."""

import ctypes
import gc
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from typing import TypedDict

import torch
from transformers.utils import logging as transformers_logging

from thinkswitch.errors import UserError
from thinkswitch.preset import Preset

NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # a CPU without any of these only emulates bf16
BF16_FROM = 50_000_000  # parameters; below, steps are bound by calls, not by numbers
BF16_GAIN = 1.2  # how many times as fast bf16 has to be
OUT_OF_MEMORY_MESSAGES = ("not enough memory", "can't allocate memory", "out of memory")


class Machine(TypedDict):
    """Where and how to compute: the keyword arguments of `Blend` and `materialise`."""

    device: str  # cuda | mps | cpu
    dtype: torch.dtype
    four_bit: bool  # linear layers in NF4


def resolve_device(preset: Preset, parameters: int, live: bool = False) -> Machine:
    """What the preset's `device` and `dtype` mean on this machine, for a checkpoint of so many parameters.

    `live`: for a few rows that somebody waits for, not for a loop.

    `four_bit` must be decided, since it depends on the size of the pair: `memory_plan.resolve_machine` does
    both.
    """
    if preset.four_bit is None:
        raise ValueError(
            "four_bit is undecided; memory_plan.resolve_machine decides it from the sizes of the pair"
        )
    device = find_device(preset)
    if preset.dtype == "auto":
        dtype = default_dtype(device, parameters, live)
    else:
        dtype = getattr(torch, preset.dtype)
    return Machine(device=device, dtype=dtype, four_bit=preset.four_bit)


def find_device(preset: Preset) -> str:
    """The device that the preset asks for, or the best one here; a UserError where it is missing."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if preset.device == "auto":
        return next(device for device, is_here in available.items() if is_here)
    if not available[preset.device]:
        raise UserError(
            f"the preset asks for {preset.device}, which this machine or this build of torch does not have; "
            "set device=cpu or auto"
        )
    return preset.device


def default_dtype(device: str, parameters: int, live: bool) -> torch.dtype:
    """bf16 where the device computes in it, else float32 on a CPU and fp16 on a GPU.

    GPUs before Ampere emulate bf16 without tensor cores, which is several times slower than their fp16.
    On a CPU a small checkpoint and a few rows stay in float32: docs/benchmarks.md has the table.
    """
    if device == "cpu":
        wanted = parameters >= BF16_FROM and not live
        return torch.bfloat16 if wanted and bf16_is_faster() else torch.float32
    if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16


@cache
def bf16_is_faster() -> bool:
    """Whether this CPU multiplies matrices faster in bf16, by trying: 50 ms.

    Its instruction set does not tell. A Xeon with AVX-512 bf16 but without AMX takes twice as long in bf16.
    """
    found = torch.cpu.get_capabilities()
    if not any(found.get(name, False) for name in NATIVE_BF16):
        return False
    slow, fast = product_seconds(torch.float32, torch.bfloat16)
    return slow > BF16_GAIN * fast


def product_seconds(*dtypes: torch.dtype) -> list[float]:
    """For each, the shortest of five matrix products as training has them. They take turns."""
    operands = [(torch.ones(256, 1024, dtype=d), torch.ones(1024, 1024, dtype=d)) for d in dtypes]
    times: list[list[float]] = [[] for _ in dtypes]
    for _ in range(5):
        for (x, weight), taken in zip(operands, times, strict=True):
            began = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            taken.append(time.perf_counter() - began)
    return [min(taken) for taken in times]


def mixed_precision(weight: torch.Tensor) -> AbstractContextManager:
    """How to train on a CPU: LoRA's float32 products in bf16 if the weights are, 1.3 times as fast."""
    in_bf16 = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
    return torch.autocast("cpu", torch.bfloat16, enabled=in_bf16)


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. CUDA has a type for this error; the CPU and MPS only say so in words."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)


def refuse_nan(logits: torch.Tensor) -> None:
    """A UserError where nothing but `!!!!`, the token of number 0, would be written."""
    if logits.amax(-1).isnan().any():
        name = str(logits.dtype).removeprefix("torch.")
        raise UserError(
            f"the model computes no numbers (NaN) in {name}; "
            "float16 overflows beyond 65,504: set dtype=float32, or bfloat16 if the card has it"
        )


def release() -> None:
    """After `del model`: give its memory back before the next model is made."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    malloc_trim()


def malloc_trim() -> None:
    """Return freed memory to the system.

    glibc keeps most of it: while a 4-bit model is made, up to three times the model's size.
    """
    with suppress(OSError, AttributeError):  # only glibc has this call
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def silence_libraries() -> None:
    """Keep progress bars and warnings that no user can act on out of our own output."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # kernels that it would like to download
    logging.getLogger("accelerate.big_modeling").setLevel(
        logging.ERROR
    )  # weights stay on the disk: as asked for
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")


@contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads; they wait for each other at every small step, slow on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
