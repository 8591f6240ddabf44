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


HALF_MADE = {  # CASES 4: what a set-up leaves that was interrupted, or had no python3-venv
    "no pip": "#!/bin/sh\nexit 1\n",
    "no python": None,
    "an empty python": "",
    "a python that does not start": "#!/nowhere/python\n",
    "a python of another architecture": "\x7fELF\x02",
}


@pytest.mark.parametrize("recorded", [False, True], ids=["new", "recorded"])
@pytest.mark.parametrize("how", [*HALF_MADE, "a link to a python that is gone", "a file in its place"])
def test_a_half_made_environment_is_made_anew(tmp_path, how, recorded):
    checkout = Checkout(tmp_path)
    venv = checkout.folder / ".venv"
    python = venv / "bin" / "python"
    if how == "a file in its place":
        venv.touch()
    else:
        python.parent.mkdir(parents=True)
    if HALF_MADE.get(how) is not None:
        Checkout._script(python, HALF_MADE[how])
    if how.startswith("a link"):
        python.symlink_to(tmp_path / "gone")
    if recorded and python.is_symlink():  # it was whole once, until the system got another Python
        files = [checkout.folder / name for name in ("requirements.txt", "pyproject.toml")]
        (venv / "installed.txt").write_bytes(b"".join(file.read_bytes() for file in files))
    assert len(installs(checkout.calls())) == 2
    assert installs(checkout.calls()) == []


def test_a_second_start_after_installing_venv_works(tmp_path):
    """CASES 4: the first start on a Debian without python3-venv must not spoil the second one."""
    (tmp_path / "first").mkdir()
    failing = Checkout(tmp_path / "first", venv_fails=True)
    assert failing.start("status", "x").returncode == 1
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        text = (failing.bin / name).read_text("utf-8").replace("exit 1", "exit 0")
        (failing.bin / name).write_text(text, "utf-8")
    assert len(installs(failing.calls())) == 2


def test_start_bat_knows_the_same_states():
    """There is no Windows here: what start.sh does is at least written there."""
    text = (ROOT / "start.bat").read_text("utf-8")
    for line in (
        '"%PY%" -m pip --version >nul 2>&1 || call :make_venv || exit /b 1',
        '"%PY%" -c "" >nul 2>&1 || set "READY="',
        'py -3 -m venv --clear "%VENV%" && exit /b 0',
        'rmdir /s /q "%VENV%" 2>nul',
        'set "PYTHONUTF8=1"',
    ):
        assert f"\n{line}" in text
