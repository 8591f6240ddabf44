"""Our command line in a process of its own, with a Hub and a cache that only the test knows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from conftest import ROOT
from fake_hub import Hub

# What may stand before our sentence: what is being fetched, and the libraries' own warnings.
BEFORE = re.compile(
    r"fetching |pushing |Error while downloading|Trying to resume|Max retries|Repo card metadata"
    r"|Failed to (read|load) |Generating |[\w.-]+: +\d+%|$"
)
# Starting a Python with torch takes longer than most commands. So one process forks a child for each command,
# and none knows of another.
FORKS = """
import json, os, resource, signal, sys, tempfile, traceback
import datasets, peft, thinkswitch.loop
from thinkswitch.cli.main import main
stdout, sys.stdout = sys.stdout, sys.stderr
main(["ask", "tiny", "--prompt", "?", "--tokens", "1", "--json"])  # imports whatever is imported late
exec(sys.argv[1])
sys.stdout = stdout
for line in sys.stdin:
    asked = json.loads(line)
    outputs = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2)]
    child = os.fork()
    if not child:
        for file, number in zip(outputs, (1, 2)):
            os.dup2(file.fileno(), number)
        if asked["largest"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest"], asked["largest"]))
        if asked["memory"]:
            used = 4096 * int(open("/proc/self/statm").read().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (used + asked["memory"], used + asked["memory"]))
        if asked["seconds"]:
            resource.setrlimit(resource.RLIMIT_CPU, (asked["seconds"], asked["seconds"]))
            signal.alarm(10 * asked["seconds"])  # others may have the processor
        code = 70
        try:
            code = main(asked["argv"]) if "argv" in asked else exec(asked["code"], {}) or 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    for file in outputs:
        file.seek(0)
    print(json.dumps([os.waitstatus_to_exitcode(status), *(file.read() for file in outputs)]), flush=True)
"""


class Commands:
    """`commands("ask", ...)` -> what it prints; `commands.refusal(...)` -> its one sentence of refusal."""

    def __init__(self, hub: Hub, home: Path, offline: bool, before: str = ""):
        """`before`: code to run first, so that every child has what it leaves."""
        self.env = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_ETAG_TIMEOUT": "60",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKS, before],
            env=self.env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def send(self, largest: int = 0, memory: int = 0, seconds: int = 0, **asked) -> SimpleNamespace:
        """`argv` or `code` to run. `largest`: bytes that a file may hold (0: any), like a full disk.

        `memory`: bytes that it may take beyond what it has. `seconds`: of a processor that it may take, and a
        tenth of what may pass until SIGALRM ends it (0: any).
        """
        limits = {"largest": largest, "memory": memory, "seconds": seconds}
        self.process.stdin.write(json.dumps({**asked, **limits}) + "\n")
        self.process.stdin.flush()
        returncode, stdout, stderr = json.loads(self.process.stdout.readline())
        return SimpleNamespace(returncode=returncode, stdout=stdout, stderr=stderr)

    def __call__(self, *argv, largest: int = 0) -> str:
        done = self.send(argv=list(map(str, argv)), largest=largest)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refusal(self, *argv, largest: int = 0) -> str:
        done = self.send(argv=list(map(str, argv)), largest=largest)
        assert done.returncode == 1 and re.fullmatch("(run folder: .*\n)?", done.stdout), (
            done.stdout + done.stderr
        )
        *before, last = done.stderr.splitlines()
        assert last.startswith("error: ") and all(BEFORE.match(line) for line in before), done.stderr
        return last.removeprefix("error: ")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
