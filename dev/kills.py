"""kill -9 at random moments over run, resume and export: what is left in the end must be the same bytes.

    python dev/kills.py [--kills 200] [--seed 0]

A run of the embedded pair (a few seconds) is started, killed, resumed and killed again until it gets through;
so is an export of its last round. The processes are forked from one that has imported torch, so that a kill
takes seconds and falls into the work, not into the import. Prints where the kills fell and what differed.
"""

import argparse
import multiprocessing
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from thinkswitch import runs

SMALL = dict(rounds=2, prompts=48, held_out=24, rows=4, epochs=6, batch=4, micro_batch=4, save_steps=2)
SETTINGS = [f"{name}={value}" for name, value in SMALL.items()]
CHANCE_OF_A_KILL = 0.9  # else a process may go on to its end
LATEST_KILL = 0.6  # of the time of a whole command: a resume has less to do
PATIENCE = 300.0  # seconds until a process is said to hang

forks = multiprocessing.get_context("forkserver")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--kills", type=int, default=200)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()
    forks.set_forkserver_preload(["thinkswitch.cli.main", "thinkswitch.loop", "thinkswitch.export.export"])
    dice = random.Random(args.seed)
    fell: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        whole, seconds = reference(Path(folder))
        number = 0
        while sum(fell.values()) < args.kills:
            number += 1
            life = Path(folder) / f"life-{number}"
            fell += run_through(life, seconds["run"], dice)
            fell += export_through(life, seconds["export"], dice)
            left = result(life)
            files = whole.keys() | left.keys()
            other = sorted(str(path) for path in files if whole.get(path) != left.get(path))
            assert not other, f"life {number} (seed {args.seed}) left other bytes in {other}"
            shutil.rmtree(life)
            print(f"{sum(fell.values())} kills, {number} lives, all the same bytes", flush=True)
    for phase, count in fell.most_common():
        print(f"{count:5} {phase}")


def reference(folder: Path) -> tuple[dict[Path, bytes], dict[str, float]]:
    """What an undisturbed life leaves, and how long its commands take."""
    life = folder / "whole"
    seconds = {}
    for name, command in (("run", run_command(life)), ("export", export_command(life))):
        for turn in ("warm", "timed"):
            shutil.rmtree(life / "export", ignore_errors=True)
            if name == "run":
                shutil.rmtree(life, ignore_errors=True)
            began = time.monotonic()
            assert killed_after(None, command) is False, f"{turn} {name} failed"
            seconds[name] = time.monotonic() - began
    return result(life), seconds


def run_command(life: Path) -> list[str]:
    return ["run", "tiny", "--out", str(life / "run"), "--set", *SETTINGS]


def export_command(life: Path) -> list[str]:
    return ["export", str(life / "run"), "--point", "0.4", "--out", str(life / "export")]


def run_through(life: Path, seconds: float, dice: random.Random) -> Counter[str]:
    """Run and resume until the run is done; returns where it was killed."""
    fell: Counter[str] = Counter()
    command = run_command(life)
    while True:
        if killed_after(moment(seconds, dice), command):
            fell[phase(life / "run")] += 1
        if begun(life / "run"):
            if runs.state(life / "run") == "done":
                return fell
            command = ["resume", str(life / "run")]


def export_through(life: Path, seconds: float, dice: random.Random) -> Counter[str]:
    """Export until there is one. A kill leaves either none or all of it under its name."""
    fell: Counter[str] = Counter()
    while killed_after(moment(seconds, dice), export_command(life)):
        fell["export"] += 1
        if (life / "export").exists():
            return fell
    return fell


def moment(seconds: float, dice: random.Random) -> float | None:
    """When to kill a process, anywhere in its time; None: let it end."""
    return dice.uniform(0, LATEST_KILL * seconds) if dice.random() < CHANCE_OF_A_KILL else None


def killed_after(seconds: float | None, command: list[str]) -> bool:
    """Whether the command was killed; it must end by itself in success otherwise."""
    child = forks.Process(target=work, args=(command,))
    child.start()
    child.join(PATIENCE if seconds is None else seconds)
    killed = child.is_alive()
    assert not killed or seconds is not None, f"{command} hangs"
    if killed:
        child.kill()
        child.join()
    assert killed or child.exitcode == 0, f"{command} ended with {child.exitcode}"
    return killed


def work(command: list[str]) -> None:
    import contextlib
    import io

    import torch

    from thinkswitch.cli.main import main as thinkswitch

    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        raise SystemExit(thinkswitch(command))


def begun(run: Path) -> bool:
    """Whether there is a run that can be resumed; a kill may come before its preset is written."""
    return (run / "preset.yaml").exists()


def phase(run: Path) -> str:
    events = runs.read_lines(run / "events.jsonl") if (run / "events.jsonl").exists() else []
    said = [event["phase"] for event in events]
    return said[-1] if said else "before the first event"


def result(life: Path) -> dict[Path, bytes]:
    """Adapters, recipes, labels, scores and the export, apart from times. Scores come in any order."""
    kept = [path for path in life.rglob("*") if path.is_file() and is_result(path.relative_to(life))]
    found = {}
    for path in sorted(kept):
        content = path.read_bytes()
        if path.name == "scores.jsonl":
            content = b"\n".join(sorted(content.splitlines()))
        found[path.relative_to(life)] = content
    return found


def is_result(path: Path) -> bool:
    in_rounds = path.parts[:2] == ("run", "rounds")
    return (in_rounds or path.parts[0] == "export") and path.name not in ("README.md", "recipe.json")


if __name__ == "__main__":
    main()
