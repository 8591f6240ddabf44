"""How busy the machine is: read once for all pages."""

import os
import sys

import psutil
import pytest

from conftest import wait
from ui import meter
from ui.meter import Gpu, Meter, gpu_of


def test_all_pages_share_one_reading(monkeypatch):
    asked = []
    monkeypatch.setattr(psutil, "cpu_percent", lambda: asked.append(1) or 50.0)
    now = [0.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
    shared = Meter()
    asked.clear()
    assert [shared.read() for _ in range(10)] == [shared.read()] * 10 and len(asked) == 1
    now[0] = meter.SECONDS + 1
    assert shared.read().cpu == 50.0 and len(asked) == 2
    assert 0 < shared.read().used < shared.read().total


@pytest.mark.parametrize("line", ["", "[N/A]", "No devices were found", "1, 2", "5, 100, 0"])
def test_a_line_of_nvidia_smi_that_says_nothing_is_left_out(line):
    assert gpu_of(line) is None


def test_a_card_that_reports_no_load_still_has_memory():
    assert gpu_of(" 37, 1024, 8192\n") == Gpu(37, 1024 << 20, 8192 << 20)
    assert gpu_of("[N/A], 1024, 8192") == Gpu(0, 1024 << 20, 8192 << 20)


FAKE = """#!{python}
import sys, time
print("41, 2000, 8000", flush=True)
if "--loop=2" in sys.argv:
    time.sleep({seconds})
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """`nvidia_smi(seconds)` puts one on the PATH that says one line and then waits so long."""

    def make(seconds: float) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(FAKE.format(python=sys.executable, seconds=seconds))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    return make


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
def test_a_card_is_followed_until_its_program_ends(nvidia_smi, monkeypatch):
    monkeypatch.setattr(meter, "SECONDS", 0.0)
    nvidia_smi(1.0)
    shared = Meter()
    shared.read()  # does not wait for it
    wait(lambda: shared.read().gpu)
    assert shared.read().gpu == Gpu(41, 2000 << 20, 8000 << 20)
    wait(lambda: shared.read().gpu is None)
    assert meter.gpu_total() == 8000 << 20


def test_without_a_card_nothing_is_started(monkeypatch):
    monkeypatch.setattr(meter.subprocess, "Popen", lambda *args, **kwargs: pytest.fail("it started one"))
    monkeypatch.setattr(meter.subprocess, "run", lambda *args, **kwargs: pytest.fail("it ran one"))
    assert Meter().read().gpu is None and meter.gpu_total() is None  # conftest hides GPUs


def test_memory_in_use_is_that_of_this_process_on_a_processor():
    assert meter.pair_bytes("cpu", 1.0) > 1e6
    assert meter.pair_bytes("mps", 7.0) == 7.0
