"""Which engine labels: torch in this process, or llama.cpp or vLLM in one that the run starts. Torch-free."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from thinkswitch.errors import UserError
from thinkswitch.export import llama_cpp
from thinkswitch.preset import Preset
from thinkswitch.remote import distributed

OUR_SERVER = (sys.executable, "-m", "thinkswitch.engines.llama_cpp_server")
NOTE = "by this engine the same seeds need not give the same bytes"
SCRATCH = ".engine"  # in the run folder: what a server reads and prints; gone when the server is
FEW_ROWS = (
    16  # below, llama.cpp was 1.2 to 2.1 times as fast as torch at 135 M and 0.5 B; from here on it was not
)
LARGE = 50_000_000  # parameters; a smaller model has answered before a server is up
VERSION_SECONDS = 120.0  # vLLM imports torch before it says its version


@dataclass(frozen=True)
class Engine:
    """What decodes the labels of a run."""

    name: str  # torch | llama.cpp | vllm
    version: str = ""
    program: tuple[str, ...] = ()  # how its server is started; empty: it is torch, and has none

    @property
    def label(self) -> str:
        """What a line of samples.jsonl says; nothing for torch."""
        return f"{self.name} ({self.version})" if self.program else ""

    @property
    def facts(self) -> dict:
        """What run.json says; nothing for torch."""
        return {"name": self.name, "version": self.version, "note": NOTE} if self.program else {}


TORCH = Engine("torch")


def choose(preset: Preset) -> Engine:
    """The engine that a run labels with; a UserError names the command that installs one which is missing."""
    name = named(preset)
    if name == "torch":
        return TORCH
    if distributed.world_size() > 1:
        raise UserError(
            f"engine={name} does not go with accelerate launch, where several processes have a GPU each; "
            "take engine=torch, or start one process"
        )
    return find_llama_cpp() if name == "llama.cpp" else find_vllm()


def named(preset: Preset) -> str:
    """torch | llama.cpp | vllm; torch for auto, unless `is_quicker` says more when the pair is known.

    A teacher, and labels=self, know no engine.
    """
    if preset.engine == "auto" or preset.labels == "self":
        return "torch"
    return preset.engine


def is_quicker(preset: Preset, parameters: int, device: str) -> bool:
    """Whether llama.cpp labels quicker than torch: on a CPU, few answers at once (docs/benchmarks.md)."""
    labels_here = preset.labels != "self" and not preset.teacher and distributed.world_size() == 1
    return labels_here and device == "cpu" and parameters >= LARGE and preset.rows < FEW_ROWS


def find_llama_cpp() -> Engine:
    """The package that is pinned and tested comes first, then a llama-server on the PATH."""
    if llama_cpp.is_here():
        return Engine("llama.cpp", f"{llama_cpp.PACKAGE} {version(llama_cpp.PACKAGE)}", OUR_SERVER)
    program = shutil.which("llama-server")
    if program:
        return Engine("llama.cpp", said_version(program), (program,))
    raise UserError(
        "engine=llama.cpp needs xllamacpp or a llama-server on the PATH, and there is neither: "
        "pip install -r requirements-gguf.txt"
    )


def find_vllm() -> Engine:
    program = shutil.which("vllm")
    if program:
        return Engine("vllm", said_version(program), (program, "serve"))
    raise UserError("engine=vllm needs the program vllm on the PATH, and it is not there: pip install vllm")


def said_version(program: str) -> str:
    """What a program answers to --version; a UserError where it cannot be started."""
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{program} cannot be started ({type(error).__name__}: {error})") from None
    lines = f"{done.stdout}\n{done.stderr}".split("\n")  # llama-server says it on stderr, among other things
    worded = [line for line in lines if "version" in line.casefold()] or [line for line in lines if line]
    if done.returncode or not worded:
        said = " ".join(" ".join(lines).split())[-200:]
        raise UserError(f"{program} --version failed (exit code {done.returncode}): {said}")
    return " ".join(worded[0].split())[:100]


def remove_scratch(run: Path) -> None:
    """Also what a run left whose guard was killed with it. In no other folder: it may be somebody's own."""
    if (run / "preset.yaml").is_file():
        shutil.rmtree(run / SCRATCH, ignore_errors=True)
