"""A child process that compares mathematical answers with math-verify. Torch-free.

A process, because some comparisons never end, eat all memory or crash, and hold the interpreter's lock: only
killing stops them. (math-verify's own limit needs SIGALRM, which only a main thread may use.) It starts at
the first question and stays, because importing sympy takes longer than most comparisons.

The protocol is JSON, a value a line. The child first writes {"ready": true}; then, for each
[right, found, seconds] that it reads, {"equal": bool} or {"error": text}. It ends when its stdin does.
"""

import contextlib
import faulthandler
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from typing import Any

GRACE_SECONDS = 1.0  # so long over the limit, the child takes its parent for dead and ends
MOST_BYTES = 1_000_000_000  # of the child's memory; it has 0.1 GB when it starts
WATCH_SECONDS = 0.05  # between looks at its memory

logger = logging.getLogger(__name__)


class MathWorker:
    """The parent's side. Threads that call it take turns."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def equal(self, right: str, found: str, seconds: float) -> bool | None:
        """Whether math-verify calls `found` equal to `right`.

        None when that fails, or takes longer than `seconds` or more than MOST_BYTES; then the next question
        starts another process.
        Raises RuntimeError where math-verify cannot be used at all.
        """
        with self._turn:
            try:
                child = self._running_child()
                reply = _ask(child, [right, found, seconds], seconds)
                if _memory(child) > MOST_BYTES / 2:  # what is left of this answer must not count for the next
                    self.close()
            except BaseException:  # Ctrl-C, too: a reply that nobody has read would answer the next question
                self.close()
                raise
        if "error" in reply:
            logger.info("math-verify on %.80r and %.80r: %s", right, found, reply["error"])
        return reply.get("equal")

    def close(self) -> None:
        """Kill the child, if there is one; the next question starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()  # waits for it and closes its pipes

    def _running_child(self) -> "subprocess.Popen[str]":
        if self._child is not None and self._child.poll() is None:
            return self._child
        self.close()
        self._child = subprocess.Popen(
            [sys.executable, "-P", __file__],  # -P: or our statistics.py would hide the standard library's
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        greeting = _read_reply(self._child)
        if "error" in greeting:
            raise RuntimeError(f"math-verify cannot be used: {greeting['error']}")
        return self._child


def _ask(child: "subprocess.Popen[str]", question: list, seconds: float) -> dict[str, Any]:
    """The child's reply, or an error; one that eats time or memory is killed."""
    answered = threading.Event()
    excess: list[str] = []

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while not answered.wait(min(WATCH_SECONDS, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                excess.append(f"it took longer than {seconds:g} s")
            elif _memory(child) > MOST_BYTES:
                excess.append(f"it took more than {MOST_BYTES / 1e9:g} GB")
            if excess:
                child.kill()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with contextlib.suppress(OSError):  # the child has died: reading says so
            print(json.dumps(question), file=child.stdin, flush=True)
        reply = _read_reply(child)
    finally:
        answered.set()
        watcher.join()  # it may be killing the child at this moment
    return {"error": excess[0]} if excess else reply


def _memory(child: "subprocess.Popen[str]") -> int:
    """Bytes that the child holds; 0 when it has ended."""
    import psutil  # here: the child, which runs this file, needs none

    try:
        return psutil.Process(child.pid).memory_info().rss
    except psutil.Error:
        return 0


def _read_reply(child: "subprocess.Popen[str]") -> dict:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line.endswith("\n"):
        return {"error": f"its process ended with code {child.wait()}"}
    return json.loads(line)


def main() -> None:
    """The child's side."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us when it ends
    replies = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no reply

    def reply(value: dict) -> None:
        print(json.dumps(value), file=replies, flush=True)

    try:
        from math_verify import parse, verify
    except Exception as error:
        reply({"error": repr(error)})
        return
    reply({"ready": True})
    for line in sys.stdin:
        right, found, seconds = json.loads(line)
        # A thread of Python's would have to wait for the interpreter's lock; this one needs none.
        faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True)
        try:
            sides = [parse(f"${side.strip('$')}$", parsing_timeout=None) for side in (right, found)]
            reply({"equal": bool(verify(*sides, timeout_seconds=None))})
        except Exception as error:
            reply({"error": repr(error)})
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
