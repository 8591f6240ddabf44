"""The parent of an engine's server. It outlives the run by a moment, and so cleans up after `kill -9`.

    python -m thinkswitch.engines.guard SCRATCH        (a line of JSON on stdin starts a server)

    {"number": 1, "command": ["llama-server", ...]}

Its stdin closes when the run ends, however it does: then the server is ended and SCRATCH removed. There
log-1 is what the server prints, and ended-1 its exit code, once it has ended. Imports nothing large.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

POLITE_SECONDS = 10.0  # between asking a server to end and ending it
PR_SET_PDEATHSIG = 1


def main(scratch: Path) -> None:
    server = None
    with suppress(KeyboardInterrupt):
        for line in sys.stdin:
            end(server)
            server = start(json.loads(line), scratch)
    end(server)
    shutil.rmtree(scratch, ignore_errors=True)


def start(order: dict, scratch: Path) -> subprocess.Popen | None:
    """Start a server; its exit code is noted when it ends, and at once where it cannot be started."""
    note = scratch / f"ended-{order['number']}"
    with open(scratch / f"log-{order['number']}", "wb") as log:
        try:
            server = subprocess.Popen(
                order["command"],
                stdin=subprocess.PIPE,  # never written: it closes when this process ends
                stdout=log,
                stderr=log,
                **how_to_start(),
            )
        except OSError as error:
            log.write(f"Error: {error}\n".encode())
            note.write_text("127", encoding="utf-8")
            return None
    threading.Thread(target=watch, args=(server, note), daemon=True).start()
    return server


def how_to_start() -> dict:
    """A group of its own, so that the processes which it starts end with it."""
    if os.name == "nt":
        return {}
    more = {"preexec_fn": die_with_parent} if sys.platform == "linux" else {}
    return {"start_new_session": True, **more}


def die_with_parent() -> None:
    """In the child: the kernel kills it when this guard is killed, which can then do so no more."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def watch(server: subprocess.Popen, note: Path) -> None:
    code = server.wait()
    with suppress(OSError):  # the folder goes when the run ends
        note.write_text(str(code), encoding="utf-8")


def end(server: subprocess.Popen | None) -> None:
    """End a server and what it has started: politely, then not."""
    if server is None:
        return
    if server.stdin:
        server.stdin.close()
    if os.name == "nt":
        server.terminate()
        server.wait()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(POLITE_SECONDS)
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
