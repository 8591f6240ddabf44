"""(e) Export at scale: our stream against mergekit's slerp and against copying the files.

Time and peak memory.

    python bench/export.py [--size 4B] [--mergekit PATH/mergekit-yaml]

Two random bf16 checkpoints in 5 GB shards; the point t = 0.5 of round 0. Ours runs as `python -m thinkswitch
export`, mergekit's (0.1.5, in a venv of its own) as its own command; both read both checkpoints, find the
angles and write one. Ours also compares what it writes with the live blend, layer by layer, meanwhile;
`write_s` leaves that and start-up out. Everything is timed until it is on the disk. Last line: JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from common import arguments, machine, parameters, random_pair

from thinkswitch.weights.pair import open_pair

ROOT = Path(__file__).parents[1]


def timed(command: list, **env) -> dict:
    """Seconds until what a command wrote is on the disk, and its peak resident memory."""
    # a small process in between: Linux counts the peak of whoever starts a process as that process's own
    between = (
        "import json, os, resource, subprocess, sys, time; began = time.perf_counter(); "
        "code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode; "
        "spent = time.perf_counter() - began; os.sync(); settled = time.perf_counter() - began; "
        "unit = 1 if sys.platform == 'darwin' else 1024; "
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit; "
        "print(json.dumps([code, spent, settled, peak]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", between, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )
    code, spent, settled, peak = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return dict(seconds=spent, settled_s=settled, peak_rss=peak)


def copying(folder: Path, out: Path) -> float:
    """Seconds to copy one checkpoint's weights to the disk, settled as ours is."""
    began = time.perf_counter()
    out.mkdir()
    for file in folder.glob("*.safetensors"):
        shutil.copyfile(file, out / file.name)
        with open(out / file.name, "rb") as written:
            os.fsync(written.fileno())
    return time.perf_counter() - began


def writing(pair, out: Path) -> dict:
    """Our stream alone, in this process: from angles to settled files."""
    from thinkswitch import rounds
    from thinkswitch.export.destination import fsync_tree
    from thinkswitch.export.layout import checkpoint_entries, tensor_blocks
    from thinkswitch.export.point import ExportPoint
    from thinkswitch.export.safetensors_writer import write_shards
    from thinkswitch.preset import Preset
    from thinkswitch.recipe import Schedule

    began = time.perf_counter()
    start = rounds.start(pair)
    angles = time.perf_counter()
    point = ExportPoint(pair, start, 0.5, Schedule(), Preset())
    entries = checkpoint_entries(pair)
    out.mkdir()
    for _ in write_shards(out, entries, lambda name: tensor_blocks(point, name, entries[name])):
        pass
    fsync_tree(out)
    return dict(angles_s=angles - began, write_s=time.perf_counter() - angles)


def main() -> None:
    args = arguments(
        __doc__.splitlines()[0],
        size="0.6B or 4B (default 0.6B)",
        mergekit="path of mergekit-yaml, to time it as well",
        pair="a folder with instruct/ and thinking/, instead of a random pair",
        at="where to write; default the temporary folder",
    )
    size = "33M" if args.quick else args.size or "0.6B"
    given = (
        nullcontext(open_pair(f"{args.pair}/instruct", f"{args.pair}/thinking"))
        if args.pair
        else random_pair(size)
    )
    with given as pair, tempfile.TemporaryDirectory(dir=args.at) as scratch:
        scratch, total = (
            Path(scratch),
            sum(f.stat().st_size for f in pair.instruct.folder.glob("*.safetensors")),
        )
        (scratch / "p.yaml").write_text(
            json.dumps(
                dict(name="bench", instruct=str(pair.instruct.folder), thinking=str(pair.thinking.folder))
            )
        )
        row = dict(
            parameters=parameters(pair), bytes=total, copy_s=copying(pair.instruct.folder, scratch / "copy")
        )
        shutil.rmtree(scratch / "copy")
        row |= writing(pair, scratch / "stream")
        shutil.rmtree(scratch / "stream")
        row["ours"] = timed(
            [
                sys.executable,
                "-m",
                "thinkswitch",
                "export",
                scratch / "p.yaml",
                "--point",
                "0.5",
                "--out",
                scratch / "ours",
            ],
            PYTHONPATH=str(ROOT),
            HF_HUB_OFFLINE="1",
        )
        row["write_of_copy_speed"] = row["copy_s"] / row["write_s"]
        row["verify_s"] = (
            row["ours"]["settled_s"] - startup() - row["angles_s"] - row["write_s"]
        )  # what comparing adds to the rest of the command
        if args.mergekit:
            text = (scratch / "ours" / "mergekit.yml").read_text()
            for side in (pair.instruct, pair.thinking):  # the card names folders by their last two parts
                text = text.replace("/".join(side.folder.parts[-2:]), str(side.folder))
            (scratch / "mergekit.yml").write_text(text)
            row["mergekit"] = timed(
                [
                    args.mergekit,
                    scratch / "mergekit.yml",
                    scratch / "theirs",
                    "--quiet",
                    "--num-threads",
                    args.threads,
                ],
                HF_HUB_OFFLINE="1",
            )
            row["times_faster"] = row["mergekit"]["settled_s"] / row["ours"]["settled_s"]
            row["times_faster_without_verifying"] = row["mergekit"]["settled_s"] / (
                row["ours"]["settled_s"] - row["verify_s"]
            )
            row |= agreement(scratch / "ours", scratch / "theirs")
    for key, value in row.items():
        print(f"{key:22} {value}")
    print(json.dumps(dict(bench="export", **machine(args), results=row)))


def startup() -> float:
    """Seconds that our command takes to refuse: imports, headers, tokenizers."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import thinkswitch.export.export"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    return time.perf_counter() - began


def agreement(ours: Path, theirs: Path) -> dict:
    """Largest difference between the two results, relative to each tensor's norm.

    And the share of equal values.
    """
    from safetensors import safe_open

    where = {}
    for file in theirs.glob("*.safetensors"):
        with safe_open(file, "pt") as shard:
            where |= dict.fromkeys(shard.keys(), file)
    worst, equal, count = 0.0, 0, 0
    for file in ours.glob("*.safetensors"):
        with safe_open(file, "pt") as mine:
            for name in mine:
                with safe_open(where[name], "pt") as shard:
                    a, b = mine.get_tensor(name), shard.get_tensor(name)
                equal, count = equal + int((a == b).sum()), count + a.numel()
                worst = max(worst, float((a.float() - b.float()).norm() / b.float().norm()))
    return dict(differs_by=worst, equal_values=equal / count)


if __name__ == "__main__":
    main()
