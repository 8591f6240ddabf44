"""Locales and code pages: paths and texts of any language, whatever the machine speaks."""

import json
import os
import shutil

import pytest

from conftest import TINY, cli

NAME = "Prüfung 日本 ½"
OTHERS = {  # CASES 4: what a German Windows, an old Linux and a bare container have
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "cp437": {"PYTHONIOENCODING": "cp437"},
    "ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "POSIX": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A preset, its problems and an answerless question, all in a folder of another language."""
    folder = tmp_path_factory.mktemp("locale") / NAME
    folder.mkdir()
    for role in ("instruct", "thinking"):
        shutil.copytree(TINY / role, folder / role)
    rows = [{"prompt": f"Wie viel ist {n} + 1? „½“ → 日本", "answer": str(n + 1)} for n in range(4)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "Fragen.jsonl").write_text(lines, "utf-8")
    preset = "name: Prüfung\ninstruct: instruct\nthinking: thinking\ntrain_set: Fragen.jsonl\n"
    (folder / "Prüfung.yaml").write_text(preset + "held_out_set: Fragen.jsonl\nkind: integer\n", "utf-8")
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_another_language_is_read_and_shown(folder, name):
    """`print` raised UnicodeEncodeError where the output went to a file: the code page has no such letter."""
    env = {**os.environ, **OTHERS[name]}
    done = cli("check", "--data", folder / "Fragen.jsonl", "--json", env=env, check=0, errors="replace")
    found = json.loads(done.stdout.replace("\\x", "?").replace("\\u", "?").replace("\\U", "?"))
    assert (found["rows"], found["answered"], found["wrong"]) == (4, 4, 0)
    if name in ("C", "POSIX"):
        assert found["first"][0]["prompt"] == "Wie viel ist 0 + 1? „½“ → 日本"


def test_a_run_in_a_folder_of_another_language(folder, tmp_path):
    """Preset, problems, samples, run folder and what is printed."""
    env = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "cp1252"}
    del env["PYTHONUTF8"]
    small = ("rounds=1", "prompts=2", "held_out=2", "epochs=1", "think_tokens=40", "instruct_tokens=20")
    done = cli(
        "run", folder / "Prüfung.yaml", "--out", tmp_path / NAME, "--set", *small, env=env, errors="replace"
    )
    assert "Traceback" not in done.stderr, done.stderr  # whether two prompts are enough is not the question
    lines = (tmp_path / NAME / "rounds/1/samples.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[0])["prompt"].endswith("? „½“ → 日本")
    assert "name: Prüfung" in (tmp_path / NAME / "preset.yaml").read_text("utf-8")
