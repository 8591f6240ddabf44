"""Device, precision and 4 bits are decided in one place; memory can be given back."""

import pytest
import torch

from conftest import pretend_gpu
from thinkswitch import memory_plan
from thinkswitch.errors import UserError
from thinkswitch.export import verify
from thinkswitch.export.point import ExportPoint
from thinkswitch.preset import Preset
from thinkswitch.recipe import Schedule
from thinkswitch.rounds import start
from thinkswitch.weights import device
from thinkswitch.weights.device import (
    find_device,
    limit_threads,
    malloc_trim,
    out_of_memory,
    release,
    resolve_device,
)
from thinkswitch.weights.pair import open_pair

SMALL = 1_000_000  # parameters


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture(scope="module")
def pair(folders):
    return open_pair(*folders("qwen3"))


def test_a_cpu_computes_in_float32_unless_asked_otherwise(no_gpu):
    auto = resolve_device(Preset(four_bit=False), SMALL)
    assert auto == dict(device="cpu", dtype=torch.float32, four_bit=False)
    asked = resolve_device(Preset(device="cpu", four_bit=True, dtype="bfloat16"), SMALL)
    assert asked == dict(device="cpu", dtype=torch.bfloat16, four_bit=True)


@pytest.mark.parametrize("parameters, dtype", [(SMALL, torch.float32), (135_000_000, torch.bfloat16)])
def test_a_cpu_that_is_faster_in_bf16_uses_it_for_all_but_small_pairs(no_gpu, monkeypatch, parameters, dtype):
    monkeypatch.setattr(device, "bf16_is_faster", lambda: True)
    assert resolve_device(Preset(four_bit=False), parameters)["dtype"] is dtype
    assert resolve_device(Preset(four_bit=False), parameters, live=True)["dtype"] is torch.float32
    assert resolve_device(Preset(four_bit=False, dtype="float32"), parameters)["dtype"] is torch.float32
    monkeypatch.setattr(device, "bf16_is_faster", lambda: False)
    assert resolve_device(Preset(four_bit=False), parameters)["dtype"] is torch.float32


@pytest.mark.parametrize(
    "found, bf16_seconds, faster",
    [
        ({"amx_bf16": True}, 0.5, True),
        ({"avx512_bf16": True}, 2.0, False),  # a Xeon without AMX: measured
        ({"avx512_bf16": True}, 0.9, False),  # not worth less precision
        ({"avx512_f": True, "avx512_bf16": False}, 0.1, False),  # emulated, not even tried
    ],
)
def test_bf16_is_used_where_a_trial_was_faster(monkeypatch, found, bf16_seconds, faster):
    """The loop took twice as long on CPUs that have bf16 products and are slow at them."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr(device, "product_seconds", lambda *dtypes: [1.0, bf16_seconds])
    device.bf16_is_faster.cache_clear()
    assert device.bf16_is_faster() is faster
    device.bf16_is_faster.cache_clear()


def test_a_missing_device_is_refused(no_gpu):
    for name in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"asks for {name}.*set device=cpu or auto"):
            find_device(Preset(device=name))


def test_auto_takes_the_gpu(monkeypatch):
    pretend_gpu(monkeypatch, 8e9)
    assert find_device(Preset()) == "cuda"
    assert find_device(Preset(device="cpu")) == "cpu"


@pytest.mark.parametrize("generation, dtype", [(7, torch.float16), (8, torch.bfloat16), (9, torch.bfloat16)])
def test_bf16_is_taken_only_where_it_is_native(monkeypatch, generation, dtype):
    """torch counts emulation as support: a T4 got bf16 without tensor cores instead of its fast fp16."""
    pretend_gpu(monkeypatch, 16e9, generation)
    assert resolve_device(Preset(four_bit=False), SMALL)["dtype"] is dtype


def test_apple_gets_half_precision(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    found = resolve_device(Preset(four_bit=False), SMALL)
    assert found == dict(device="mps", dtype=torch.float16, four_bit=False)


def test_the_device_alone_does_not_decide_four_bits():
    """It used to: 'auto' meant "is it CUDA?" here and "does it fit?" in the memory plan."""
    with pytest.raises(ValueError, match="four_bit is undecided"):
        resolve_device(Preset(), SMALL)


def test_four_bits_are_decided_by_what_fits(pair, monkeypatch):
    pretend_gpu(monkeypatch, 80e9)
    assert memory_plan.resolve_machine(pair, Preset(), memory_plan.LIVE)["four_bit"] is False
    assert memory_plan.resolve_machine(pair, Preset(four_bit=True), memory_plan.LIVE)["four_bit"] is True
    pretend_gpu(monkeypatch, 1e6)
    assert memory_plan.resolve_machine(pair, Preset(), memory_plan.LIVE)["four_bit"] is True
    assert memory_plan.resolve_machine(pair, Preset(four_bit=False), memory_plan.LIVE)["four_bit"] is False


def test_free_memory_is_measured_when_four_bits_are_decided(pair, monkeypatch):
    """The page releases the old pair first, then decides: the answer must not be an earlier one."""
    pretend_gpu(monkeypatch, 1e6)
    assert memory_plan.resolve_quantisation(pair, Preset(), memory_plan.LIVE).four_bit is True
    pretend_gpu(monkeypatch, 80e9)
    assert memory_plan.resolve_quantisation(pair, Preset(), memory_plan.LIVE).four_bit is False


def test_an_export_of_a_small_pair_on_a_gpu_is_compared_with_plain_weights(pair, monkeypatch):
    """Being on CUDA, it was compared with an NF4 blend, whose bound of 0.3 lets gross damage pass."""
    pretend_gpu(monkeypatch, 80e9)
    made = {}
    monkeypatch.setattr(verify, "Blend", lambda *_, **machine: made.update(machine))
    verify.make_blend(ExportPoint(pair, start(pair), 0.5, Schedule(), Preset()))
    assert made == dict(device="cuda", dtype=torch.bfloat16, four_bit=False)


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert out_of_memory(error) is expected


def test_giving_memory_back_works_on_every_system(no_gpu, monkeypatch):
    release()

    def no_such_library(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", no_such_library)
    malloc_trim()


def test_threads_are_limited_and_restored_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), limit_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
