"""A server that the run starts, for one round's thinking checkpoint: started, awaited, watched, ended.

RUN/.engine/    the checkpoint, log-1 and ended-1 (see guard.py); gone when the server is
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from thinkswitch.engines.engine import SCRATCH, Engine, remove_scratch
from thinkswitch.errors import UserError
from thinkswitch.export.llama_cpp import complaint

HOST = "127.0.0.1"
READY_SECONDS = 1800.0  # vLLM compiles, and a large file is read from a slow disk
LOOK_SECONDS = 0.05
ASK_SECONDS = 2.0  # for its list of models
STOP_SECONDS = 30.0  # more than the guard takes to end a server
LOG_BYTES = 1 << 16  # of a log, in which the last words are looked for
PORTS = 3  # how many are tried: another program may take one before the server does
OTHERS_SETTINGS = ("LLAMA_ARG_", "LLAMA_API_KEY", "VLLM_API_KEY")  # begin variables meant for another server


@dataclass(frozen=True)
class Load:
    """What a server has to carry."""

    slots: int  # answers at once
    tokens: int  # of the longest prompt with its answer
    positions: int  # that the model knows
    threads: int
    dtype: str  # as the preset has it
    on_cpu: bool


class EngineServer:
    """The server of one round. Made by `engine_server`, which also ends it."""

    def __init__(self, engine: Engine, scratch: Path, guard: subprocess.Popen):
        self.engine, self.scratch, self.guard = engine, scratch, guard
        self.model = f"thinkswitch-{secrets.token_hex(4)}"  # so that no other program is taken for it
        self.port = 0
        self.number = 0  # of the try

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    def start(self, model: Path, load: Load, stopped: Callable[[], bool]) -> Iterator[None]:
        """Start it and wait until it answers, or a stop comes. Yields while it waits."""
        deadline = time.monotonic() + READY_SECONDS
        for attempt in range(1, PORTS + 1):
            self.port = free_port()
            self._order(command(self.engine, model, self.model, self.port, load))
            while not self.has_ended() and not stopped():
                if self._is_ready():
                    return
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{self.engine.name} was not ready after {READY_SECONDS:g} s "
                        f"({complaint(self.log())}); take engine: torch in preset.yaml, then resume"
                    )
                yield
                time.sleep(LOOK_SECONDS)
            if stopped():
                return
            if attempt == PORTS or not is_taken(self.port):
                raise UserError(
                    f"{self.engine.name} ended before it was ready ({self.last_words()}); remove the cause, "
                    "or take engine: torch in preset.yaml, then resume"
                )

    def _order(self, words: list[str]) -> None:
        self.number += 1
        assert self.guard.stdin
        with suppress(OSError):  # a guard that has been killed counts as ended, see `has_ended`
            self.guard.stdin.write(json.dumps({"number": self.number, "command": words}).encode() + b"\n")
            self.guard.stdin.flush()

    def has_ended(self) -> bool:
        return (self.scratch / f"ended-{self.number}").exists() or self.guard.poll() is not None

    def refuse_if_ended(self) -> None:
        if self.has_ended():
            raise UserError(
                f"{self.engine.name} ended in the middle of the step ({self.last_words()}); resume: what is "
                "answered is kept"
            )

    def log(self) -> str:
        """The end of what it printed."""
        try:
            with open(self.scratch / f"log-{self.number}", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:  # it has not begun, or its folder is gone
            return ""

    def last_words(self) -> str:
        """Its exit code and what it complained of."""
        try:
            code = (self.scratch / f"ended-{self.number}").read_text("utf-8")
        except OSError:
            return "its guard was killed"
        return f"exit code {code}: {complaint(self.log())}"

    def _is_ready(self) -> bool:
        """Whether our server, and no other program on that port, answers and has loaded its model."""
        try:
            listed = ask(f"{self.url}/models")
            if listed.status_code != 200 or self.model not in [one["id"] for one in listed.json()["data"]]:
                return False
            return ask(f"http://{HOST}:{self.port}/health").status_code == 200  # 503 while it loads
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return False


@contextmanager
def engine_server(engine: Engine, run: Path) -> Iterator[EngineServer]:
    """A scratch folder and a guard, which starts the server; nothing of them is left when the block ends."""
    scratch = (run / SCRATCH).absolute()
    remove_scratch(run)
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{scratch} cannot be made ({error.strerror}); move it away, then resume") from None
    guard = subprocess.Popen(
        [sys.executable, "-m", "thinkswitch.engines.guard", str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # not ours: whoever reads that would wait for the guard, too
        stderr=subprocess.DEVNULL,
        env=environment(),
        **apart(),
    )
    try:
        yield EngineServer(engine, scratch, guard)
    finally:
        assert guard.stdin
        with suppress(OSError):
            guard.stdin.close()
        try:
            guard.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
        shutil.rmtree(scratch, ignore_errors=True)  # where the guard was killed


def environment() -> dict[str, str]:
    """Ours without what would set up or lock a server, and without a guard that buffers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS_SETTINGS)}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def apart() -> dict:
    """Arguments of Popen for a child that Ctrl-C does not reach: it ends when its stdin closes."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def command(engine: Engine, model: Path, alias: str, port: int, load: Load) -> list[str]:
    """How its server is started. How it samples, each request says."""
    if engine.name == "vllm":
        return [
            *engine.program,
            str(model),
            *("--served-model-name", alias, "--host", HOST, "--port", str(port)),
            *("--max-model-len", str(min(load.tokens, load.positions)), "--max-num-seqs", str(load.slots)),
            *("--dtype", load.dtype),
            *("--generation-config", "vllm"),  # else the checkpoint's own may cut answers short
        ]
    return [
        *engine.program,
        *("--model", str(model), "--alias", alias, "--host", HOST, "--port", str(port)),
        *("--ctx-size", str(load.slots * load.tokens), "--parallel", str(load.slots)),
        *("--threads", str(load.threads), "--special"),
        *(("--gpu-layers", "0") if load.on_cpu else ()),
    ]


def ask(url: str) -> httpx.Response:
    return httpx.get(url, timeout=ASK_SECONDS, trust_env=False)  # whatever HTTP_PROXY says


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False
