"""(e) Export at scale: our stream against mergekit's slerp and against copying the files; time and peak memory.

    python bench/export.py [--size 4B] [--mergekit PATH/mergekit-yaml]

Two random bf16 checkpoints in 5 GB shards; the point t = 0.5 of round 0. Ours runs as `python -m thinkswitch export`, mergekit's
(0.1.5, in a venv of its own) as its own command; both read both checkpoints, find the angles and write one. Where this machine has
the memory, ours also loads the result beside the live blend; `write_s` leaves that and start-up out. Last line: JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, machine, parameters, random_pair

ROOT = Path(__file__).parents[1]


def timed(command: list, **env) -> dict:
    """Seconds and peak resident memory of a child."""
    began = time.perf_counter()
    child = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env})
    said = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed:\n{said[-2000:]}")
    return dict(seconds=time.perf_counter() - began, peak_rss=used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


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
    from thinkswitch import export, place, recipe
    from thinkswitch.preset import Preset, Schedule
    began = time.perf_counter()
    start = recipe.start(pair)
    angles = time.perf_counter()
    point = export.Point(pair, start, 0.5, Schedule(), Preset(), False)
    entries = export.checkpoint_entries(pair)
    out.mkdir()
    for _ in export.write_tensors(out, entries, lambda name: export.blocks(point, name, entries[name])):
        pass
    place.settle(out)
    return dict(angles_s=angles - began, write_s=time.perf_counter() - angles)


def main() -> None:
    args = arguments(__doc__.splitlines()[0], size="0.6B or 4B (default 0.6B)", mergekit="path of mergekit-yaml, to time it as well")
    size = "33M" if args.quick else args.size or "0.6B"
    with random_pair(size) as pair, tempfile.TemporaryDirectory() as scratch:
        scratch, total = Path(scratch), sum(f.stat().st_size for f in pair.instruct.folder.glob("*.safetensors"))
        (scratch / "p.yaml").write_text(json.dumps(dict(name="bench", instruct=str(pair.instruct.folder), thinking=str(pair.thinking.folder))))
        row = dict(parameters=parameters(pair), bytes=total, copy_s=copying(pair.instruct.folder, scratch / "copy"))
        shutil.rmtree(scratch / "copy")
        row |= writing(pair, scratch / "stream")
        shutil.rmtree(scratch / "stream")
        row["ours"] = timed([sys.executable, "-m", "thinkswitch", "export", scratch / "p.yaml", "--point", "0.5", "--out", scratch / "ours"],
                            PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1")
        row["write_of_copy_speed"] = row["copy_s"] / row["write_s"]
        if args.mergekit:
            text = (scratch / "ours" / "mergekit.yml").read_text()
            for side in (pair.instruct, pair.thinking):  # the card names folders by their last two parts
                text = text.replace("/".join(side.folder.parts[-2:]), str(side.folder))
            (scratch / "mergekit.yml").write_text(text)
            row["mergekit"] = timed([args.mergekit, scratch / "mergekit.yml", scratch / "theirs", "--quiet", "--num-threads", args.threads], HF_HUB_OFFLINE="1")
            row["times_faster"] = row["mergekit"]["seconds"] / row["ours"]["seconds"]
            row |= agreement(scratch / "ours", scratch / "theirs")
    for key, value in row.items():
        print(f"{key:22} {value}")
    print(json.dumps(dict(bench="export", **machine(args), results=row)))


def agreement(ours: Path, theirs: Path) -> dict:
    """Largest difference between the two results, relative to each tensor's norm; and the share of equal values."""
    from safetensors import safe_open
    where = {}
    for file in theirs.glob("*.safetensors"):
        with safe_open(file, "pt") as shard:
            where |= dict.fromkeys(shard.keys(), file)
    worst, equal, count = 0.0, 0, 0
    for file in ours.glob("*.safetensors"):
        with safe_open(file, "pt") as mine:
            for name in mine.keys():
                with safe_open(where[name], "pt") as shard:
                    a, b = mine.get_tensor(name), shard.get_tensor(name)
                equal, count = equal + int((a == b).sum()), count + a.numel()
                worst = max(worst, float((a.float() - b.float()).norm() / b.float().norm()))
    return dict(differs_by=worst, equal_values=equal / count)


if __name__ == "__main__":
    main()
