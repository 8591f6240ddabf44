"""(e) Export at scale: our stream against mergekit's slerp and against copying the files; and GGUF.

    python bench/export.py [--size 4B] [--mergekit PATH/mergekit-yaml] [--converter PATH]

Time and peak memory. Two random bf16 checkpoints in 5 GB shards; the point t = 0.5 of round 0. Ours runs as
`python -m thinkswitch export`, mergekit's (0.1.5, in a venv of its own: `pip install mergekit==0.1.5
torch==2.13.0`) as its own command; both read both checkpoints, find the angles and write one. Ours also
compares what it writes with the live blend, layer by layer, meanwhile; `write_s` leaves that and start-up
out. Everything is timed until it is on the disk.

GGUF: ours in one command, in Q8_0 and, where xllamacpp is installed, in Q4_K_M, each read back and compared
in llama.cpp. Against it the way one goes else: mergekit's folder, then llama.cpp's own converter to Q8_0 (in
the sources of llama-cpp-python: vendor/llama.cpp/convert_hf_to_gguf.py; it runs in mergekit's venv). From
there to Q4_K_M one would have to compile llama-quantize. `disk` is all that a way leaves or needs on it.
Last line: JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from common import ROOT, arguments, machine, parameters, random_pair
from safetensors import safe_open

from thinkswitch import rounds
from thinkswitch.export import llama_cpp
from thinkswitch.export.destination import fsync_tree
from thinkswitch.export.gguf_folder import plan_files
from thinkswitch.export.gguf_tokenizer import find_rule
from thinkswitch.export.gguf_writer import write_files
from thinkswitch.export.layout import checkpoint_entries, tensor_blocks
from thinkswitch.export.point import ExportPoint
from thinkswitch.export.safetensors_writer import write_shards
from thinkswitch.preset import Preset
from thinkswitch.recipe import Schedule
from thinkswitch.weights.pair import Pair, open_pair

T = 0.5
# A small process that runs the command, because Linux counts the peak of whoever starts a process as its own.
RUN_COMMAND = """
import json, os, resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
spent = time.perf_counter() - began
os.sync()
settled = time.perf_counter() - began
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
print(json.dumps([code, spent, settled, peak]))
"""


# It knows a tokenizer by what it does with a text, and not that of a random pair.
CONVERT = """
import runpy, sys
script, rule, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
sys.path.insert(0, script.rpartition("/")[0])
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: rule
runpy.run_path(script, run_name="__main__")
"""


def timed(command: list, cwd: Path | None = None) -> dict:
    """Seconds until what a command wrote is on the disk, and its peak resident memory."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_COMMAND, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    code, spent, settled, peak = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return {"seconds": spent, "settled_s": settled, "peak_rss": peak}


# ---- what is timed


def copying(folder: Path, out: Path) -> float:
    """Seconds to copy one checkpoint's weights to the disk, settled as ours is."""
    began = time.perf_counter()
    out.mkdir()
    for file in folder.glob("*.safetensors"):
        shutil.copyfile(file, out / file.name)
        with open(out / file.name, "rb") as written:
            os.fsync(written.fileno())
    took = time.perf_counter() - began
    shutil.rmtree(out)  # room for what is written next
    return took


def writing(pair: Pair, out: Path) -> dict:
    """Our stream alone, in this process: from angles to settled files."""
    began = time.perf_counter()
    start = rounds.start(pair)
    angles_s = time.perf_counter() - began
    began = time.perf_counter()
    point = ExportPoint(pair, start, T, Schedule(), Preset())
    entries = checkpoint_entries(pair)

    def blocks(name: str):
        return tensor_blocks(point, name, entries[name])

    out.mkdir()
    for _ in write_shards(out, entries, blocks):
        pass
    fsync_tree(out)
    write_s = time.perf_counter() - began
    shutil.rmtree(out)
    return {"angles_s": angles_s, "write_s": write_s}


def our_command(pair: Pair, scratch: Path, out: str = "ours", *flags: str) -> dict:
    """The whole command, as a user runs it; the export goes to `scratch`/`out`."""
    preset = scratch / "p.yaml"
    sides = {"instruct": str(pair.instruct.folder), "thinking": str(pair.thinking.folder)}
    preset.write_text(json.dumps({"name": "bench", **sides}))  # JSON is YAML, too
    command = [sys.executable, "-m", "thinkswitch", "export", preset, "--point", T, "--out", scratch / out]
    return timed([*command, *flags], cwd=ROOT)


def startup() -> float:
    """Seconds that our command takes before it works: Python, and the module it imports."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import thinkswitch.export.export"], cwd=ROOT, check=True)
    return time.perf_counter() - began


def mergekit_command(args, pair: Pair, scratch: Path) -> dict:
    """mergekit on the configuration that our export wrote; its result goes to `scratch`/theirs."""
    text = (scratch / "ours" / "mergekit.yml").read_text()
    for side in pair.checkpoints:  # the configuration names folders by their last two parts
        text = text.replace("/".join(side.folder.parts[-2:]), str(side.folder))
    config = scratch / "mergekit.yml"
    config.write_text(text)
    flags = ["--quiet", "--num-threads", args.threads]
    return timed([args.mergekit, config, scratch / "theirs", *flags])


def writing_gguf(pair: Pair, kind: str, scratch: Path) -> float:
    """Seconds of our stream alone, until its file is on the disk."""
    point = ExportPoint(pair, rounds.start(pair), T, Schedule(), Preset(), gguf=(kind,))
    out = scratch / "stream"
    out.mkdir()
    began = time.perf_counter()
    for _ in write_files(point, plan_files(point, out)):
        pass
    fsync_tree(out)
    took = time.perf_counter() - began
    shutil.rmtree(out)
    return took


def our_gguf(pair: Pair, kind: str, scratch: Path) -> dict:
    write_s = writing_gguf(pair, kind, scratch)
    row = our_command(pair, scratch, kind, "--gguf", kind)
    return {**row, "write_s": write_s, "disk": disk(scratch / kind)}


def converter_command(args, pair: Pair, scratch: Path) -> dict:
    """mergekit's folder to one file, by the Python that mergekit has."""
    script = Path(args.converter).resolve()
    python = Path(args.mergekit).parent / "python"
    rule = find_rule(pair.thinking).name
    out = scratch / "theirs.gguf"
    flags = ["--outtype", "q8_0", "--outfile", out]
    return timed([python, "-c", CONVERT, script, rule, scratch / "theirs", *flags])


def disk(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def agreement(ours: Path, theirs: Path) -> dict:
    """The share of equal values, and the largest difference relative to a tensor's norm."""
    file_of: dict[str, Path] = {}
    for file in theirs.glob("*.safetensors"):
        with safe_open(file, "pt") as shard:
            file_of |= dict.fromkeys(shard.keys(), file)
    worst = 0.0
    equal = 0
    count = 0
    for file in ours.glob("*.safetensors"):
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 (it is no dict)
                a = shard.get_tensor(name)
                b = read_tensor(file_of[name], name)
                equal += int((a == b).sum())
                count += a.numel()
                worst = max(worst, float((a.float() - b.float()).norm() / b.float().norm()))
    return {"differs_by": worst, "equal_values": equal / count}


def read_tensor(file: Path, name: str):
    with safe_open(file, "pt") as shard:
        return shard.get_tensor(name)


# ---- the table


def measure(args, pair: Pair, scratch: Path) -> dict:
    folder = pair.instruct.folder
    row = {
        "parameters": parameters(pair),
        "bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        "copy_s": copying(folder, scratch / "copy"),
        **writing(pair, scratch / "stream"),
        "ours": our_command(pair, scratch),
    }
    ours_s = row["ours"]["settled_s"]
    row["write_of_copy_speed"] = row["copy_s"] / row["write_s"]
    # what comparing adds to the rest of the command
    row["verify_s"] = ours_s - startup() - row["angles_s"] - row["write_s"]
    if args.mergekit:
        row["mergekit"] = mergekit_command(args, pair, scratch)
        theirs_s = row["mergekit"]["settled_s"]
        row["times_faster"] = theirs_s / ours_s
        row["times_faster_without_verifying"] = theirs_s / (ours_s - row["verify_s"])
        row |= agreement(scratch / "ours", scratch / "theirs")
    shutil.rmtree(scratch / "ours")  # room for what is written next
    row["gguf"] = measure_gguf(args, pair, scratch, row.get("mergekit"))
    return row


def measure_gguf(args, pair: Pair, scratch: Path, mergekit: dict | None) -> dict:
    kinds = ["Q8_0", "Q4_K_M"] if llama_cpp.is_here() else ["Q8_0"]
    row: dict = {"compared_in_llama_cpp": llama_cpp.is_here()}
    for kind in kinds:
        row[kind] = our_gguf(pair, kind, scratch)
        shutil.rmtree(scratch / kind)
    if mergekit and args.converter:
        converted = converter_command(args, pair, scratch)
        row["converter"] = converted
        ways = [mergekit, converted]
        theirs = {
            "settled_s": sum(way["settled_s"] for way in ways),
            "peak_rss": max(way["peak_rss"] for way in ways),
            "disk": disk(scratch / "theirs") + disk(scratch / "theirs.gguf"),
        }
        row["mergekit_and_converter"] = theirs
        row["times_faster"] = theirs["settled_s"] / row["Q8_0"]["settled_s"]
        row["of_their_disk"] = row["Q8_0"]["disk"] / theirs["disk"]
    return row


def chosen_pair(args) -> AbstractContextManager[Pair]:
    """The pair in the folder that is named, or a random one."""
    if args.pair:
        folder = Path(args.pair).resolve()  # our command runs in another working directory
        return nullcontext(open_pair(str(folder / "instruct"), str(folder / "thinking")))
    return random_pair("33M" if args.quick else args.size or "0.6B")


def main() -> None:
    args = arguments(
        __doc__.splitlines()[0],
        size="0.6B or 4B (default 0.6B)",
        mergekit="path of mergekit-yaml, to time it as well",
        converter="path of llama.cpp's convert_hf_to_gguf.py, to time it after mergekit",
        pair="a folder with instruct/ and thinking/, instead of a random pair",
        at="where to write; default the temporary folder",
    )
    with chosen_pair(args) as pair, tempfile.TemporaryDirectory(dir=args.at) as scratch:
        row = measure(args, pair, Path(scratch).resolve())
    for key, value in row.items():
        print(f"{key:22} {value}")
    print(json.dumps({"bench": "export", **machine(args), "results": row}))


if __name__ == "__main__":
    main()
