"""A small world of inputs, one damaged at a time, and what a command may do about it."""

import json
import os
import random
import re
import shutil
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from conftest import TINY
from process.commands import Commands
from process.mutators import mutate
from thinkswitch import runs
from thinkswitch.cli.main import main

SECONDS = 20  # of a processor; longer is a hang
MEMORY = 6 << 30  # more than any of these commands needs
LONGEST_SENTENCE = 1000
SETTINGS = ["rounds=1", "prompts=4", "held_out=3", "rows=8", "epochs=1", "batch=4", "lora_rank=2"]
PRESET = """\
name: small
instruct: pair/instruct
thinking: {thinking}
train_set: train.jsonl
held_out_set: held_out.jsonl
prompts: 4
held_out: 3
rounds: 1
t: 0.8
greedy: true
think_tokens: 96
instruct_tokens: 32
rows: 8
epochs: 1
batch: 4
learning_rate: 2.0e-3
lora_rank: 2
lora_alpha: 4
schedule: {{attention: 1, mlp: 0.5, depth: [1, 0.5]}}
thinking_template_args: {{}}
"""
# What costs milliseconds stands here more often than what costs seconds.
PAIR = (*("check", "ask") * 3, *("export",) * 2, "run", "resume begun")
RUN = (*("status", "board", "ask") * 2, "resume", "export")
ADAPTED = (*("check adapted", "ask adapted") * 3, "export adapted", "run adapted")
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # kind: files, commands
    "config": (("pair/instruct/config.json", "pair/thinking/config.json"), PAIR),
    "generation config": (
        ("pair/instruct/generation_config.json", "pair/thinking/generation_config.json"),
        PAIR,
    ),
    "tokenizer": (("pair/instruct/tokenizer.json", "pair/thinking/tokenizer.json"), PAIR),
    "tokenizer config": (
        ("pair/instruct/tokenizer_config.json", "pair/thinking/tokenizer_config.json"),
        PAIR,
    ),
    "template": (("pair/instruct/chat_template.jinja", "pair/thinking/chat_template.jinja"), PAIR),
    "index": (("pair/thinking/model.safetensors.index.json",), PAIR),
    "shard": (
        (
            "pair/instruct/model.safetensors",
            "pair/thinking/model-00001-of-00002.safetensors",
            "pair/thinking/model-00002-of-00002.safetensors",
        ),
        PAIR,
    ),
    "preset": (("preset.yaml",), ("run", "ask", "export", "plan")),
    "problems": (("train.jsonl", "held_out.jsonl"), ("run", "resume begun", "sweep")),
    "adapter": (
        ("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        ADAPTED,
    ),
    "run preset": (("runs/done/preset.yaml", "runs/begun/preset.yaml"), RUN),
    "events": (("runs/done/events.jsonl", "runs/begun/events.jsonl"), RUN),
    "run.json": (("runs/done/run.json", "runs/begun/run.json"), RUN),
    "samples": (("runs/done/rounds/1/samples.jsonl", "runs/begun/rounds/1/samples.jsonl"), RUN),
    "scores": (("runs/done/rounds/1/scores.jsonl", "runs/begun/rounds/0/scores.jsonl"), RUN),
    "recipe": (("runs/done/rounds/1/recipe.json", "runs/begun/rounds/0/recipe.json"), RUN),
    "run adapter": (
        (
            "runs/done/rounds/1/adapter/adapter_config.json",
            "runs/done/rounds/1/adapter/adapter_model.safetensors",
        ),
        RUN,
    ),
}
BOARD = """
import dataclasses
import gradio as gr
from pathlib import Path
from thinkswitch import runs
from thinkswitch.preset import load_preset
from ui import run_control
from ui.loop import run_menu, samples, tab, view as run_view
from ui.studio import Studio
with gr.Blocks():
    names = [field.name for field in dataclasses.fields(run_view.View)]
    parts = {name: gr.State(None) for name in names} | {"menu": run_menu.build(demo=False)}
    view = run_view.View(**parts)
studio = Studio(load_preset("tiny"), "tiny")

def board(root):
    runs.ROOT = Path(root)
    studio.board()
    for name in ("done", "begun"):
        first = run_view.refresh(studio, view, name, None, "begun" if name == "done" else "done")
        run_view.refresh(studio, view, name, first.get(view.seen))
        from thinkswitch.errors import UserError
        try:
            samples.table(Path(root) / name, 1, "all")
            samples.details(Path(root) / name, 1, 1)
        except UserError:
            pass
"""


@dataclass(frozen=True)
class Case:
    """One mutation and the command that meets it. `name` is the seed of all that is drawn."""

    name: str
    file: str
    command: str


def cases(kind: str, seed: int, count: int) -> Iterator[Case]:
    """The first `count` of a kind; a larger count begins with the same ones."""
    files, commands = KINDS[kind]
    for number in range(count):
        name = f"{seed} {kind} {number}"
        draw = random.Random(name)
        yield Case(name, draw.choice(files), draw.choice(commands))


def make_world(root: Path) -> None:
    """The embedded pair (its thinking side in two shards), an adapter, a preset, and two runs."""
    root.mkdir(exist_ok=True)
    for role in ("instruct", "thinking"):
        shutil.copytree(TINY / role, root / "pair" / role)
    split(root / "pair/thinking")
    for name, count in (("train", 12), ("held_out", 8)):
        lines = (TINY / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (root / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    (root / "preset.yaml").write_text(PRESET.format(thinking="pair/thinking"), encoding="utf-8")
    (root / "adapted.yaml").write_text(PRESET.format(thinking="adapter"), encoding="utf-8")
    done, begun = root / "runs/done", root / "runs/begun"
    assert main(["run", str(root / "preset.yaml"), "--out", str(done)]) == 0
    shutil.copytree(done / "rounds/1/adapter", root / "adapter")
    shutil.copytree(done, begun)
    shutil.rmtree(begun / "rounds/1/adapter")
    for name in ("recipe.json", "scores.jsonl"):
        (begun / "rounds/1" / name).unlink()
    events = list(runs.read_lines(begun / "events.jsonl"))
    think = next(i for i, event in enumerate(events) if event["phase"] == "strip")
    runs.write_atomic(begun / "events.jsonl", "".join(map(runs.to_line, events[:think])))
    info = json.loads((begun / "run.json").read_text(encoding="utf-8"))
    del info["ended"]  # killed
    (begun / "run.json").write_text(json.dumps(info), encoding="utf-8")


def split(folder: Path) -> None:
    """One file of weights as two and their index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


# ---- what is there


Snapshot = dict[str, bytes | str]  # of every file its bytes, of everything else what it is


def snapshot(root: Path) -> Snapshot:
    found: Snapshot = {}
    for folder, folders, files in os.walk(root):
        for name in (*files, *(name for name in folders if os.path.islink(os.path.join(folder, name)))):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                found[str(path.relative_to(root))] = f"link to {os.readlink(path)}"
            elif stat.S_ISREG(mode):
                found[str(path.relative_to(root))] = path.read_bytes()
            else:
                found[str(path.relative_to(root))] = "neither file nor folder"
    return found


def restore(root: Path, pristine: Snapshot, now: Snapshot) -> None:
    for name in now.keys() - pristine.keys():
        (root / name).unlink()
    folders = {str(parent) for name in pristine for parent in Path(name).parents}
    for folder, _, _ in os.walk(root, topdown=False):  # those of a damaged file's name, and new ones
        if os.path.relpath(folder, root) not in folders:
            os.rmdir(folder)
    for name, content in pristine.items():
        path = root / name
        if now.get(name) != content or not path.is_file() or path.is_symlink():
            path.unlink(missing_ok=True)
            assert isinstance(content, bytes)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if not path.stat().st_mode & 0o777:
            path.chmod(0o644)


def damage_done(words: list[str], root: Path, before: Snapshot, after: Snapshot) -> list[str]:
    """What a command took from, or changed in, what was there; empty if it may."""
    found = []
    own = f"{Path(words[1]).relative_to(root)}/" if words[0] == "resume" else "out/"
    for name, content in before.items():
        if after.get(name) == content:
            continue
        if not name.startswith(own):
            found.append(f"{name} was changed")
        elif name.endswith(("events.jsonl", "scores.jsonl")) and isinstance(content, bytes):
            whole_lines = content[: content.rfind(b"\n") + 1]
            now = after.get(name, b"")
            if not isinstance(now, bytes) or not now.startswith(whole_lines):
                found.append(f"{name} lost lines")
        elif name.endswith("samples.jsonl") and isinstance(content, bytes):
            if not texts(content) <= texts(after.get(name, b"")):
                found.append(f"{name} lost samples")
        elif not may_be_made_again(name):
            found.append(f"{name} was changed")
    return found


def may_be_made_again(name: str) -> bool:
    """Of a run that is resumed: what its process keeps, and what a power failure took from its last round."""
    kept_by_process = name.endswith(("run.json", ".lock", "stop")) or ".tmp-" in name
    return kept_by_process or bool(re.search(r"/rounds/\d+/(adapter/.*|recipe\.json)$", name))


def texts(content: bytes | str) -> set[str]:
    if isinstance(content, str):
        return set()
    return set(re.findall(r'"text": "([^"]*)"', content.decode("utf-8", "replace")))


# ---- one mutation


def argv(command: str, root: Path, file: str) -> list[str]:
    """The words of a command. One that names no run takes that of the damaged file."""
    verb, _, which = command.partition(" ")
    preset = "adapted.yaml" if which == "adapted" else "preset.yaml"
    source = str(root / preset)
    if file.startswith("runs/"):
        which = file.split("/")[1]
        source = str(root / "runs" / which)
    out = str(root / "out")
    words = {
        "check": [str(root / "pair/instruct"), str(root / ("adapter" if which else "pair/thinking"))],
        "ask": [source, "--prompt", "What is 4 + 5?", "--t", "0", "0.5", "1", "--tokens", "3", "--json"],
        "run": [source, "--out", out],
        "export": [source, "--point", "0.5", "--out", out],
        "resume": [str(root / "runs" / (which or "done"))],
        "status": [source],
        "plan": [source],
        "board": [],
        "sweep": [source, "--t", "0", "1"],
    }
    return [verb, *words[verb]]


@dataclass(frozen=True)
class Outcome:
    rule: str
    code: int
    wrong: str  # empty: it ended as it should
    output: str


def try_one(commands: Commands, root: Path, pristine: Snapshot, case: Case) -> Outcome:
    """Damage a file, run a command, compare, and put everything back."""
    rule = mutate(random.Random(case.name + case.file), root / case.file)
    before = snapshot(root)
    try:
        words = argv(case.command, root, case.file)
        asked: dict = {"argv": words}
        if case.command == "board":
            asked = {"code": f"from __main__ import board; board({str(root / 'runs')!r})"}
        done = commands.send(**asked, memory=MEMORY, seconds=SECONDS)
        wrong = [*wrong_end(done), *damage_done(words, root, before, snapshot(root))]
        return Outcome(rule, done.returncode, "; ".join(wrong), done.stdout + done.stderr)
    finally:
        restore(root, pristine, snapshot(root))


def wrong_end(done) -> list[str]:
    if done.returncode in (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL):
        return [f"still at work after {SECONDS} s"]
    if done.returncode not in (0, 1):
        return [f"ended with {done.returncode}"]
    if "Traceback (most recent call last)" in done.stderr:
        return ["wrote a traceback"]
    if done.returncode == 0:
        return []
    *_, last = done.stderr.splitlines() or [""]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if errors != [last]:
        return ["did not end in one sentence"]
    return ["its sentence is too long"] if len(last) > LONGEST_SENTENCE else []
