"""Where to compute and in what precision; giving memory back."""

import ctypes
import gc
import logging
import warnings
from contextlib import contextmanager, suppress

import torch
from transformers.utils import logging as hf_logging

from thinkswitch.errors import UserError
from thinkswitch.preset import Preset


def resolve_device(preset: Preset) -> dict:
    """The keyword arguments `device, dtype, four_bit` that the preset's 'auto' means here."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = preset.device if preset.device != "auto" else next(d for d in available if available[d])
    if not available[device]:
        raise UserError(f"the preset asks for {device}, which this machine or this build of torch does not have; set device=cpu or auto")
    half = torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    dtype = getattr(torch, preset.dtype) if preset.dtype != "auto" else torch.float32 if device == "cpu" else half
    return dict(device=device, dtype=dtype, four_bit=device == "cuda" if preset.four_bit is None else preset.four_bit)


def out_of_memory(error: Exception) -> bool:
    """CUDA says so by its type, a CPU and Apple only in words."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("not enough memory", "can't allocate memory", "out of memory"))


def release() -> None:
    """After `del model`: give the memory back before the next one is made."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    malloc_trim()


def malloc_trim() -> None:
    """glibc keeps most of what is freed, holes between small tensors above all: three times a 4-bit model while it was made."""
    with suppress(OSError, AttributeError):  # other systems have no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def silence_libraries() -> None:
    """No progress bars of transformers between our own lines."""
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # tells of kernels it would fetch
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # tells that weights stay on the disk, which is what was asked for
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")


@contextmanager
def limit_threads(n: int):
    """torch's threads wait for each other at every small step, which takes long where others keep the cores busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
