"""Which engine labels, how its server is started, and what is refused before a run begins."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from conftest import TINY
from thinkswitch import loop, runs
from thinkswitch.cli import terminal
from thinkswitch.cli.main import main
from thinkswitch.engines import checkpoint_files, engine, llama_cpp_server, serve
from thinkswitch.engines.engine import OUR_SERVER, Engine, choose
from thinkswitch.errors import UserError
from thinkswitch.export import llama_cpp
from thinkswitch.preset import Preset, load_preset, make_preset
from thinkswitch.rounds import Round
from thinkswitch.runs.lines import event_problem
from thinkswitch.weights.pair import open_pair
from ui.loop import run_progress

LOAD = serve.Load(slots=4, tokens=2048, positions=1500, threads=3, dtype="bfloat16", on_cpu=True)


@pytest.fixture(scope="module")
def pair():
    return open_pair(str(TINY / "instruct"), str(TINY / "thinking"))


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(llama_cpp, "is_here", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda program: None)


def program(folder: Path, name: str, code: str) -> None:
    """A program of that name on the PATH of whoever looks into `folder`."""
    file = folder / name
    file.write_text(f"#!{sys.executable}\n{code}\n", encoding="utf-8")
    file.chmod(0o755)


# ---- choosing


@pytest.mark.parametrize("settings", [{}, {"engine": "torch"}, {"engine": "llama.cpp", "labels": "self"}])
def test_torch_labels_unless_another_engine_is_asked_for(settings, nothing_installed):
    """The labels of labels=self are the instruct checkpoint's, which no engine runs."""
    chosen = choose(Preset(**settings))
    assert (chosen.name, chosen.label, chosen.facts) == ("torch", "", {})


QUICKER = dict(rows=15, think_tokens=100)


def test_auto_is_llama_cpp_where_it_measured_quicker():
    """bench/engines.py: 1.2 to 2.1 times torch below 16 answers at once on a CPU, not from there on."""
    assert engine.is_quicker(Preset(**QUICKER), 135_000_000, "cpu")
    assert not engine.is_quicker(Preset(rows=16), 135_000_000, "cpu")
    assert not engine.is_quicker(Preset(**QUICKER), 800_000, "cpu")  # done before a server is up
    assert not engine.is_quicker(Preset(**QUICKER), 135_000_000, "cuda")
    assert not engine.is_quicker(Preset(**QUICKER, labels="self"), 135_000_000, "cpu")
    assert not engine.is_quicker(Preset(**QUICKER, teacher="http://127.0.0.1:1/v1"), 135_000_000, "cpu")


def test_auto_is_torch_where_llama_cpp_is_not_there_or_cannot_hold_the_pair(
    pair, folders, tmp_path, monkeypatch
):
    preset = Preset(**QUICKER)
    take = checkpoint_files.llama_cpp_or_torch
    monkeypatch.setattr(engine, "find_llama_cpp", lambda: Engine("llama.cpp", "1", ("server",)))
    assert take(pair, preset, tmp_path).name == "llama.cpp"
    assert take(open_pair(*folders("olmo2")), preset, tmp_path).name == "torch"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e6))
    assert take(pair, preset, tmp_path).name == "torch"
    monkeypatch.undo()
    monkeypatch.setattr(llama_cpp, "is_here", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert take(pair, preset, tmp_path).name == "torch"


@pytest.mark.parametrize(
    "name, command", [("llama.cpp", "pip install -r requirements-gguf.txt"), ("vllm", "pip install vllm")]
)
def test_an_engine_that_is_missing_is_refused_with_the_command_that_installs_it(
    name, command, nothing_installed, tmp_path
):
    with pytest.raises(UserError, match=f"engine={name} needs .*: {command}$"):
        list(loop.run(make_preset(dict(engine=name), base=load_preset("tiny")), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_llama_server_on_the_path_is_taken_where_the_package_is_missing(monkeypatch, tmp_path):
    """It says its version on stderr, after what it found in the machine."""
    program(tmp_path, "llama-server", "import sys; print('ggml: no GPU\\nversion: 7 (abc)', file=sys.stderr)")
    monkeypatch.setattr(llama_cpp, "is_here", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    chosen = choose(Preset(engine="llama.cpp"))
    assert chosen.program == (str(tmp_path / "llama-server"),)
    assert chosen.label == "llama.cpp (version: 7 (abc))"
    assert chosen.facts["note"] == "by this engine the same seeds need not give the same bytes"


def test_a_program_that_cannot_say_its_version_is_refused(monkeypatch, tmp_path):
    program(tmp_path, "vllm", "raise SystemExit('libcuda.so is not there')")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"vllm --version failed \(exit code 1\): libcuda.so is not there"):
        choose(Preset(engine="vllm"))


def test_several_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(engine.distributed, "world_size", lambda: 2)
    with pytest.raises(UserError, match="engine=vllm does not go with accelerate launch"):
        choose(Preset(engine="vllm"))
    assert choose(Preset()).name == "torch"


def test_a_teacher_and_an_engine_are_refused_together():
    with pytest.raises(UserError, match=r"a teacher thinks elsewhere, so engine=llama.cpp has no part"):
        Preset(engine="llama.cpp", teacher="http://127.0.0.1:8000/v1")
    assert Preset(teacher="http://127.0.0.1:8000/v1").engine == "auto"


def test_the_command_line_has_a_flag_for_it(nothing_installed, tmp_path, capsys):
    assert main(["run", "tiny", "--engine", "vllm", "--out", str(tmp_path / "run")]) == 1
    assert "engine=vllm needs the program vllm" in capsys.readouterr().err


# ---- before the run begins


def test_a_model_that_llama_cpp_cannot_hold_is_refused_with_the_reason(folders, tmp_path):
    olmo = open_pair(*folders("olmo2"))
    with pytest.raises(UserError, match=r"GGUF cannot hold this olmo2 model: .* a head of its own"):
        checkpoint_files.check("llama.cpp", olmo, Preset(), tmp_path)
    checkpoint_files.check("vllm", olmo, Preset(), tmp_path)


@pytest.mark.parametrize("name, size", [("llama.cpp", "892 kB"), ("vllm", "MB")])
def test_a_disk_without_room_is_refused_before_the_run_and_before_a_round(
    name, size, pair, tmp_path, monkeypatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=500_000))
    with pytest.raises(UserError, match=rf"from a file of .*{size}, and only 500 kB are free at {tmp_path};"):
        checkpoint_files.check(name, pair, Preset(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_memory_for_all_slots_is_refused_in_numbers(pair, monkeypatch):
    """llama.cpp takes the cache of all slots at its start; the system would end it, or this process."""
    point = checkpoint_files.thinking_point("llama.cpp", pair, Round(0, [], {}, {}, {}), load_preset("tiny"))
    memory = SimpleNamespace(available=20e6)
    monkeypatch.setattr(checkpoint_files.psutil, "virtual_memory", lambda: memory)
    checkpoint_files.refuse_full_memory(point, 1, 1024)
    with pytest.raises(UserError, match=r"llama.cpp would take .* for 64 answers of 4,096 tokens at once"):
        checkpoint_files.refuse_full_memory(point, 64, 4096)


def test_what_a_killed_guard_left_goes_with_the_next_start_but_only_from_a_run(tmp_path):
    """A folder that is no run is refused later; what it holds is somebody's."""
    left = tmp_path / engine.SCRATCH / "model.gguf"
    left.parent.mkdir()
    left.write_bytes(b"GGUF")
    engine.remove_scratch(tmp_path)
    assert left.exists()
    (tmp_path / "preset.yaml").write_text("name: tiny", encoding="utf-8")
    engine.remove_scratch(tmp_path)
    assert not left.parent.exists()


# ---- how a server is started


def test_llama_cpp_gets_a_slot_for_each_row_and_keeps_special_tokens():
    words = serve.command(Engine("llama.cpp", "1", OUR_SERVER), Path("f.gguf"), "name", 8123, LOAD)
    assert words[: len(OUR_SERVER)] == list(OUR_SERVER)
    flags = llama_cpp_server.read_flags(words[len(OUR_SERVER) :])
    assert (flags.model, flags.alias, flags.host, flags.port) == ("f.gguf", "name", "127.0.0.1", 8123)
    assert (flags.parallel, flags.ctx_size, flags.threads, flags.gpu_layers) == (4, 4 * 2048, 3, 0)
    assert flags.special


def test_vllm_gets_no_more_room_than_the_model_has_positions():
    words = serve.command(Engine("vllm", "1", ("vllm", "serve")), Path("folder"), "name", 8123, LOAD)
    assert words[:3] == ["vllm", "serve", "folder"]
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    assert flags == {
        "--served-model-name": "name",
        "--host": "127.0.0.1",
        "--port": "8123",
        "--max-model-len": "1500",
        "--max-num-seqs": "4",
        "--dtype": "bfloat16",
        "--generation-config": "vllm",
    }


def test_settings_meant_for_another_server_are_not_passed_on(monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_HOST", "0.0.0.0")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    passed = serve.environment()
    assert passed["CUDA_VISIBLE_DEVICES"] == "1" and not {"LLAMA_ARG_HOST", "VLLM_API_KEY"} & passed.keys()


def test_the_terminal_and_the_page_say_what_an_engine_does():
    event = runs.Event(1, "think", 0, 3, {"starting": "starting llama.cpp (xllamacpp 1)"})
    assert terminal.event_note(event) == "starting llama.cpp (xllamacpp 1)"
    assert "starting llama.cpp (xllamacpp 1)" in run_progress.details(
        "stopped", Preset(), [event.to_dict()], 1.0
    )
    assert not event_problem(event.to_dict()) and event_problem({**event.to_dict(), "starting": 1})


def test_the_guard_imports_nothing_large():
    """It stands beside the run for hours."""
    large = {"torch", "httpx", "numpy", "yaml"}
    code = f"import sys, thinkswitch.engines.guard; print({large} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "set()"
