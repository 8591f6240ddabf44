"""start.sh: what it sets up, when it does so again, and what it then runs. Scripts stand for Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="start.bat does the same there")

INTERPRETER = """#!/bin/sh
# in the place of a virtual environment's python: notes what it is called for
echo "$@" >> "{log}"
"""
SYSTEM_PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit 0
[ "$1 $2 $3" = "-m venv --clear" ] || exit 9
mkdir -p "$4/bin"
cp "{interpreter}" "$4/bin/python"
exit {code}
"""


class Checkout:
    """A folder with start.sh, and a PATH on which every python3.x is a script."""

    def __init__(self, folder: Path, venv_fails: bool = False):
        self.folder = folder / "the checkout"
        self.folder.mkdir()
        self.log = folder / "log"
        for name in ("start.sh", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder / name)
        self.bin = folder / "bin"
        self.bin.mkdir()
        interpreter = self._script(folder / "interpreter", INTERPRETER.format(log=self.log))
        code = SYSTEM_PYTHON.format(interpreter=interpreter, code=int(venv_fails))
        for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
            self._script(self.bin / name, code)

    @staticmethod
    def _script(path: Path, text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def start(self, *arguments: str) -> subprocess.CompletedProcess:
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [self.folder / "start.sh", *arguments],
            env={**os.environ, "PATH": path},
            cwd=self.folder.parent,
            capture_output=True,
            encoding="utf-8",
        )

    def calls(self, *arguments: str) -> list[str]:
        """Start, and return what the environment's python was called for."""
        self.log.write_text("", encoding="utf-8")
        done = self.start(*arguments)
        assert done.returncode == 0, done.stderr
        return self.log.read_text("utf-8").splitlines()


def installs(calls: list[str]) -> list[str]:
    return [call.split()[-1] for call in calls if call.startswith("-m pip install")]


def test_it_sets_up_once_and_then_starts_at_once(tmp_path):
    checkout = Checkout(tmp_path)
    first = checkout.calls()
    assert [Path(name).name for name in installs(first)] == ["requirements.txt", "checkout"]
    assert "--no-deps" in first[-2]  # the project itself must not reach for another torch
    assert first[-1] == f"{checkout.folder}/app.py --open"
    assert checkout.calls("--port", "7861") == [f"{checkout.folder}/app.py --open --port 7861"]
    assert checkout.calls("status", "a run") == ["-m thinkswitch status a run"]


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_it_sets_up_again_when_what_it_needs_has_changed(tmp_path, name):
    checkout = Checkout(tmp_path)
    checkout.calls()
    with open(checkout.folder / name, "a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert len(installs(checkout.calls())) == 2
    assert installs(checkout.calls()) == []


def test_test_installs_what_tests_need_and_passes_its_arguments_on(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.calls()
    calls = checkout.calls("test", "--slow", "tests/unit")
    assert [Path(name).name for name in installs(calls)] == ["requirements-dev.txt"]
    assert calls[-1] == "-m pytest -n 2 --dist worksteal --slow tests/unit"
    assert checkout.calls("test") == ["-m pytest -n 2 --dist worksteal"]


def test_a_virtual_environment_that_could_not_be_made_is_removed(tmp_path):
    """On a Debian without python3-venv its python was there, but no pip: every later start failed."""
    checkout = Checkout(tmp_path, venv_fails=True)
    done = checkout.start("status", "x")
    assert done.returncode == 1 and "apt install python3-venv" in done.stderr
    assert not (checkout.folder / ".venv").exists()


def test_an_environment_without_pip_is_made_anew(tmp_path):
    """As an interrupted set-up leaves it."""
    checkout = Checkout(tmp_path)
    python = checkout.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    Checkout._script(python, "#!/bin/sh\nexit 1\n")
    assert len(installs(checkout.calls())) == 2
