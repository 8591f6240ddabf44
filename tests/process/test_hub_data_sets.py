"""Hub data sets, for real: our commands and `datasets` as installed, against the Hub in fake_hub.py."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import SETS, TINY
from thinkswitch import problems
from thinkswitch.preset import load_preset


def parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def card(*configs: tuple[str, str]) -> bytes:
    """A README that names configs and their folders."""
    listed = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {folder}/train-*\n"
        for name, folder in configs
    )
    return f"---\nconfigs:\n{listed}---\n".encode()


@pytest.fixture(scope="module")
def sets(hub):
    """The sets that the shipped presets name, laid out as the Hub has them."""
    shard = "train-00000-of-00001.parquet"
    for name in ("AI-MO/aimo-validation-aime", "MathArena/aime_2026"):
        rows = parquet(SETS[name, "train"])
        hub.publish(f"datasets/{name}", {"README.md": card(("default", "data")), f"data/{shard}": rows})
    labelled = parquet(SETS["qiaojin/PubMedQA", "pqa_labeled", "train"])
    configs = ("pqa_artificial", "pqa_labeled")
    files = {f"{config}/{shard}": labelled for config in configs}
    readme = card(*((config, config) for config in configs))
    hub.publish("datasets/qiaojin/PubMedQA", {"README.md": readme, **files})
    lines = "".join(json.dumps(row) + "\n" for row in SETS["HuggingFaceH4/MATH-500", "test"])
    readme = b"---\nlicense: mit\n---\n"
    hub.publish("datasets/HuggingFaceH4/MATH-500", {"README.md": readme, "test.jsonl": lines.encode()})


DRAW = """
import json
from thinkswitch import problems
from thinkswitch.preset import load_preset
train, held = problems.train_and_held_out(load_preset({!r}))
print(json.dumps([[(p.prompt, p.answer) for p in part] for part in (train, held)]))
"""


def known(source: str, preset) -> set[tuple[str, str]]:
    """(prompt, answer) of every row of a set."""
    repository, _, split = source.partition(":")
    owner, name, *config = repository.split("/")
    rows = SETS[f"{owner}/{name}", *config, split]
    made = [
        problems.make_problem(row, "", preset.prompt_template, preset.answer_column, preset.kind)
        for row in rows
    ]
    return {(problem.prompt, problem.answer) for problem in made}


@pytest.mark.parametrize("name", ["qwen3_4b_aime", "qwen3_4b_pubmedqa", "openthinker3_1b"])
def test_the_sets_of_shipped_presets_load_and_stay(hub, online, offline, sets, name):
    preset = load_preset(name)
    drawn = online.send(code=DRAW.format(name))
    assert drawn.returncode == 0, drawn.stderr
    train, held = json.loads(drawn.stdout)
    assert (len(train), len(held)) == (preset.prompts, preset.held_out)
    for source, part in ((preset.train_set, train), (preset.held_out_set, held)):
        assert {tuple(problem) for problem in part} <= known(source, preset)
    with hub.watched() as seen:
        again = offline.send(code=DRAW.format(name))
    assert again.stdout == drawn.stdout and not seen, again.stderr


def run(train_set: str, tmp_path, **changes) -> tuple:
    settings = {"train_set": train_set, "held_out_set": train_set, "prompts": 2, "held_out": 2} | changes
    return (
        "run",
        "tiny",
        "--out",
        tmp_path / "run",
        "--set",
        *(f"{key}={value}" for key, value in settings.items()),
    )


def test_a_run_of_hub_checkpoints_on_a_hub_set(hub, online, offline, tmp_path):
    """All of it from the Hub, a round long; its folder is good without the Hub, too."""
    instruct, thinking = (
        hub.publish(f"models/whole/{role}", TINY / role) for role in ("instruct", "thinking")
    )

    def some(name: str) -> bytes:
        return b"".join((TINY / name).read_bytes().splitlines(keepends=True)[:40])

    files = {"train.jsonl": some("train.jsonl"), "test.jsonl": some("held_out.jsonl")}
    sums = hub.publish("datasets/lab/sums", files)
    settings = dict(prompts=8, held_out=4, rounds=1, epochs=1, fresh=False, held_out_set=f"{sums}:test")
    online(*run(f"{sums}:train", tmp_path, instruct=instruct, thinking=thinking, **settings))
    with hub.watched() as seen:
        offline("sweep", tmp_path / "run", "--t", "0", "1", "--json", tmp_path / "table.json")
    assert json.loads((tmp_path / "table.json").read_text("utf-8"))["round"] == 1 and not seen


@pytest.mark.parametrize(
    "source, says",
    [
        ("nobody/nothing:train", ["the Hub has no data set nobody/nothing", "hf auth login"]),
        ("MathArena/aime_2026:test", ["could not be loaded", "test", "train", "owner/name:split"]),
        ("qiaojin/PubMedQA/pqa:train", ["could not be loaded", "pqa_artificial", "pqa_labeled"]),
        ("qiaojin/PubMedQA:train", ["could not be loaded", "pqa_artificial", "pqa_labeled"]),
        ("qiaojin/PubMedQA", ["could not be loaded", "pqa_artificial", "pqa_labeled"]),
    ],
    ids=["repository", "split", "config", "no config", "neither config nor split"],
)
def test_a_data_set_that_cannot_be_used_is_one_sentence(online, sets, tmp_path, source, says):
    """Of an error of several lines only the first was shown: a config is missing, but not which there are."""
    said = online.refusal(*run(source, tmp_path))
    assert source.partition(":")[0] in said and all(part in said for part in says), said
    assert not (tmp_path / "run").exists()


def test_a_data_set_without_the_answer_column(online, sets, tmp_path):
    columns = {"prompt_template": "{problem}", "answer_column": "final"}
    said = online.refusal(*run("MathArena/aime_2026:train", tmp_path, **columns))
    assert said.startswith("30 held-out problems of MathArena/aime_2026:train have no 'final'")


UNNAMED = """
import dataclasses
from thinkswitch import problems
from thinkswitch.preset import Preset
preset = Preset(train_set={0!r}, held_out_set={0!r}, prompts=3, held_out=2)
train, held = problems.train_and_held_out(preset)
print(problems.with_splits(preset).held_out_set, len(train), len(held), held[0].answer.isdecimal())
"""


def test_a_set_without_a_split_and_with_its_own_columns(hub, online, offline, sets):
    """CASES 3: neither the split nor the column `problem` had to be named by a person who knows the set."""
    said = online.send(code=UNNAMED.format("MathArena/aime_2026"))
    assert said.stdout == "MathArena/aime_2026:train 3 2 True\n", said.stderr
    lines = b"".join(json.dumps({"question": f"{n}?", "answer": str(n)}).encode() + b"\n" for n in range(9))
    name = hub.publish("datasets/lab/two", {"train.jsonl": lines, "test.jsonl": lines.replace(b"?", b"!")})
    said = online.send(code=UNNAMED.format(name))
    assert said.stdout == f"{name}:test 3 2 True\n", said.stderr
    with hub.watched() as seen:
        again = offline.send(code=UNNAMED.format(name))
    assert again.stdout == said.stdout and not seen, again.stderr


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_data_set(hub, online, tmp_path, status):
    name = hub.publish(f"datasets/lab/gated{status}", {"README.md": b"", "train.jsonl": b"{}"})
    hub.refused[f"datasets/{name}"] = (status, "GatedRepo")
    said = online.refusal(*run(f"{name}:train", tmp_path))
    assert f"{name} is gated" in said and f"{hub.endpoint}/datasets/{name}" in said


@pytest.mark.parametrize(
    "name, files",
    [("damaged", {"train.parquet": b"no parquet"}), ("lines", {"train.jsonl": b"no json"}), ("empty", {})],
)
def test_a_data_set_that_is_damaged_or_empty(hub, online, tmp_path, name, files):
    hub.publish(f"datasets/lab/{name}", {"README.md": b"", **files})
    said = online.refusal(*run(f"lab/{name}:train", tmp_path))
    assert said.startswith(f"the data set lab/{name}:train could not be loaded: ")
    assert len(said) > 70  # with the reason that `datasets` gives


def test_a_data_set_that_never_came_and_no_network(offline, tmp_path):
    said = offline.refusal(*run("nobody/nothing:train", tmp_path))
    assert said.startswith("the data set nobody/nothing:train could not be loaded: ")
    assert "HF_HUB_OFFLINE is set" in said
