"""The run folder between processes: one owner at a time, children started and stopped, the GPU's power."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, apply_settings, load_preset
from thinkswitch.runs import process

TINY_RUN = ["rounds=1", "prompts=8", "held_out=6", "rows=8", "epochs=1", "batch=4"]
CLAIM = """
import sys, time
from pathlib import Path
from thinkswitch import runs
with runs.claim(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def python(code: str, *arguments, **kwargs) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", **kwargs)


def wait_for_end(folder, seconds=90) -> str:
    """Wait until the child has ended; returns its log."""
    until = time.monotonic() + seconds
    while runs.running_pid(folder):
        assert time.monotonic() < until, (folder / "log.txt").read_text("utf-8")
        time.sleep(0.05)
    return (folder / "log.txt").read_text("utf-8")


# ---- one owner


def test_one_owner_at_a_time(tmp_path):
    runs.create(Preset(), tmp_path)
    child = python(CLAIM, tmp_path, 60)
    try:
        assert child.stdout.readline() == "mine\n"
        assert runs.running_pid(tmp_path) == child.pid and runs.state(tmp_path) == "running"
        with pytest.raises(UserError, match=f"in use by process {child.pid}"), runs.claim(tmp_path):
            pass
        runs.request_stop(tmp_path)
        assert runs.stop_requested(tmp_path)
    finally:
        child.kill()
        child.communicate()
    assert runs.running_pid(tmp_path) is None  # a killed owner owns nothing
    with runs.claim(tmp_path):
        assert not runs.stop_requested(tmp_path)  # a stop that was asked of it is not for the next one
    with pytest.raises(UserError, match="is not running"):
        runs.request_stop(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="process groups")
def test_a_killed_owner_s_own_children_do_not_hold_its_lock(tmp_path):
    """A child inherits open files unless it is told not to; the lock would outlive the run."""
    runs.create(Preset(), tmp_path)
    spawn = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    code = CLAIM.replace("    print", f"    {spawn}\n    print")
    child = python(code, tmp_path, 60, start_new_session=True)
    try:
        child.stdout.readline()
        child.kill()
        child.wait()
        assert runs.running_pid(tmp_path) is None
    finally:
        os.killpg(child.pid, signal.SIGKILL)


def test_seconds_add_up_over_processes_and_the_time_between_does_not_count(tmp_path):
    runs.create(Preset(), tmp_path)
    counted = 0.0
    for _ in range(2):
        began = time.monotonic()
        python(CLAIM, tmp_path, 0.3).communicate()
        lasted = time.monotonic() - began
        before, counted = counted, runs.read_info(tmp_path)["seconds"]
        assert 0.3 <= counted - before < lasted
        time.sleep(1.0)


@pytest.mark.skipif(os.name == "nt", reason="file size limits")
def test_a_full_disk_leaves_whole_lines(tmp_path):
    """A limit on file size stands for a disk that fills up in the middle of a line: it is removed again."""
    code = """
import resource, sys
from pathlib import Path
from thinkswitch import runs
path = Path(sys.argv[1])
runs.append(path, {"n": "a" * 100})
resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))
try:
    runs.append(path, {"n": "b" * 100})
except OSError as error:
    print("refused", error.errno)
"""
    path = tmp_path / "x.jsonl"
    output, _ = python(code, path).communicate()
    assert output.startswith("refused")
    assert path.read_bytes().endswith(b"\n") and list(runs.read_lines(path)) == [{"n": "a" * 100}]


# ---- a run as a child process


def test_a_child_is_known_at_once_and_its_refusal_stands_in_the_log(tmp_path):
    """The page sees the run before its process has printed anything; what it prints is kept."""
    folder = tmp_path / "a run"
    arguments = ["run", "tiny", "--out", str(folder), "--set", "rounds=0", "name=a b"]
    pid = runs.start(arguments, folder)
    info = json.loads((folder / "run.json").read_text("utf-8"))
    assert info["pid"] == pid != os.getpid()
    assert info["command"] == ["python", "-m", "thinkswitch", *arguments]
    assert runs.state(folder) == "running" and (folder / "log.txt").is_file()
    assert wait_for_end(folder) == "error: rounds must lie between 1 and 100, it is 0\n"
    assert runs.state(folder) == "refused" and runs.running_pid(folder) is None


def test_a_child_started_from_another_folder_finds_its_own_code(tmp_path, monkeypatch):
    """The product is installed in the environment of the Python that runs it: no path is passed on."""
    installed = subprocess.run([sys.executable, "-I", "-c", "import thinkswitch"], capture_output=True)
    if installed.returncode:
        pytest.skip("not installed in this environment; ./start.sh does it")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    runs.start(["--help"], tmp_path / "run")
    assert "usage: thinkswitch" in wait_for_end(tmp_path / "run")


def test_a_child_that_ends_at_once_has_been_recorded(tmp_path, monkeypatch):
    """Its pid was looked up after a thread had reaped it, now and then: Start ended in a traceback."""
    look_up = process.psutil.Process

    def late(pid=None):
        time.sleep(0.3)
        return look_up(pid)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false" if os.name != "nt" else "where.exe")
        patch.setattr(process.psutil, "Process", late)
        pid = runs.start([], tmp_path)
    assert runs.read_info(tmp_path)["pid"] == pid
    wait_for_end(tmp_path)
    assert runs.state(tmp_path) == "refused"


def test_starting_again_keeps_what_the_run_has_taken_and_its_first_command(tmp_path):
    """A run that is resumed is still the run it was: hours and joules add up, and the log goes on."""
    runs.create(Preset(), tmp_path)
    (tmp_path / "log.txt").write_text("earlier\n", encoding="utf-8")
    (tmp_path / "stop").write_text("1\n", encoding="utf-8")
    kept = {"seconds": 12.5, "joules": 7.0, "command": ["python", "first"]}
    before = {"pid": 1, "started": 0, "heartbeat": 0, "ended": 1, **kept}
    runs.write_atomic(tmp_path / "run.json", json.dumps(before))
    pid = runs.start(["status", str(tmp_path)], tmp_path)
    info = runs.read_info(tmp_path)
    assert info["pid"] == pid and {key: info[key] for key in kept} == kept and "ended" not in info
    assert not (tmp_path / "stop").exists()  # it was not for this process
    log = wait_for_end(tmp_path)
    assert log.startswith("earlier\n") and f"{tmp_path}: new" in log


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory):
    """Two children that were asked to stop while they import torch: {verb: (folder, log)}."""
    new, old = (tmp_path_factory.mktemp("runs") / name for name in ("run", "resume"))
    runs.create(apply_settings(load_preset("tiny"), TINY_RUN), old)
    commands = {new: ["run", "tiny", "--out", str(new), "--set", *TINY_RUN], old: ["resume", str(old)]}
    for folder, arguments in commands.items():
        pid = runs.start(arguments, folder)
        with pytest.raises(UserError, match=f"in use by process {pid}"):
            runs.start(arguments, folder)
        runs.request_stop(folder)
        assert (folder / "stop").read_text("utf-8") == f"{pid}\n"
    return {folder.name: (folder, wait_for_end(folder)) for folder in (new, old)}


@pytest.mark.parametrize("verb", ["run", "resume"])
def test_a_stop_asked_for_while_the_child_imports_torch_is_honoured(stopped_early, verb):
    """The first seconds of a run belong to imports; somebody who started the wrong run presses Stop in them.

    The child's `create` took the stop file for another's ("already holds other files") and refused the run:
    its state was "refused", and it could not be resumed.
    """
    folder, log = stopped_early[verb]
    assert runs.state(folder) == "stopped", log
    assert not (folder / "stop").exists() and runs.rounds_done(folder) == 0
    assert "ended" in runs.read_info(folder)


# ---- the GPU's power


@pytest.fixture
def fake_gpu(tmp_path, monkeypatch):
    """`fake_gpu(script)` puts a shell script in the place of nvidia-smi; $IDS are the GPUs asked for."""

    def install(script: str) -> None:
        command = tmp_path / "bin" / "nvidia-smi"
        command.parent.mkdir()
        check = '[ "$1" = --query-gpu=power.draw ] || exit 3\nIDS="${3#--id=}"\n'
        command.write_text(f"#!/bin/sh\n{check}{script}\n", encoding="utf-8")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(command.parent) + os.pathsep + os.environ["PATH"])

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


shell_script = pytest.mark.skipif(os.name == "nt", reason="a shell script stands for nvidia-smi")


@shell_script
@pytest.mark.parametrize(
    "script, watts",
    [
        ("echo 100.50", 100.5),
        ("echo 100.50; echo 49.50", 150),
        ("echo '[N/A]'", None),  # some laptops
        ("echo 80.0; echo '[Not Supported]'", None),
        ("echo 100.50; exit 9", None),
        ("exit 1", None),
        (r"printf '\377'", None),
    ],
)
def test_watts_of_a_gpu_that_reports_them(fake_gpu, script, watts):
    fake_gpu(script)
    assert runs.gpu_watts() == watts


@shell_script
@pytest.mark.parametrize(
    "visible, processes, ids",
    [
        (None, 1, "0"),
        (None, 2, "0,1"),
        ("3", 1, "3"),
        ("2,3", 1, "2"),
        ("2, 3", 2, "2,3"),
        ("GPU-8932f937", 1, "GPU-8932f937"),
        ("1,-1,2", 2, "1"),
    ],
)
def test_only_the_gpus_of_this_run_count(fake_gpu, monkeypatch, visible, processes, ids):
    """A neighbour's run on the other card was billed as well."""
    fake_gpu(f'[ "$IDS" = "{ids}" ] && echo 42')
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if processes > 1:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("WORLD_SIZE", str(processes))
    assert runs.gpu_watts() == 42


@shell_script
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_run_that_sees_no_gpu_has_no_watts(fake_gpu, monkeypatch, hidden):
    fake_gpu("echo 42")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert runs.gpu_watts() is None


def test_without_nvidia_smi_there_are_no_watts(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert runs.gpu_watts() is None
