"""Hub ids and Hub data sets, for real: our commands, huggingface_hub and datasets as installed, against the Hub in hub.py."""

import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import Qwen3MoeConfig

from conftest import ROOT, SETS, TINY, byte_tokenizer, save_pair
from fake_hub import Hub
from thinkswitch import problems
from thinkswitch.preset import load_preset

pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")  # and fork: not on Windows
HEADER = "bytes=0-100000"  # so much of a shard huggingface_hub asks for to get its header in one request
HOSTILE = "<img src=x onerror=alert(1)>"  # went from a header on the Hub into the page
# What may stand before our sentence: what is being fetched, and the libraries' own warnings.
BEFORE = "fetching |Error while downloading|Trying to resume|Max retries|Repo card metadata|Failed to (read|load) |Generating |$"
# Starting python with torch takes longer than most commands: one process forks a child for each, so none knows of another.
FORKS = """
import json, os, resource, sys, tempfile, traceback
import datasets, peft, thinkswitch.loop
from thinkswitch.__main__ import main
stdout, sys.stdout = sys.stdout, sys.stderr
main(["ask", "tiny", "--prompt", "?", "--tokens", "1", "--json"])  # whatever is imported late is imported by now
sys.stdout = stdout
for line in sys.stdin:
    asked = json.loads(line)
    outputs = [tempfile.TemporaryFile("w+") for _ in range(2)]
    child = os.fork()
    if not child:
        for file, number in zip(outputs, (1, 2)):
            os.dup2(file.fileno(), number)
        if asked["largest"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest"], asked["largest"]))
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
    """Our command line in another process, with a cache and a Hub of its own."""

    def __init__(self, hub: Hub, home: Path, offline: bool):
        self.env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline)), "HF_HUB_ETAG_TIMEOUT": "60",
                    "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        self.process = subprocess.Popen([sys.executable, "-c", FORKS], env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(self, largest=0, **asked) -> SimpleNamespace:
        self.process.stdin.write(json.dumps(dict(asked, largest=largest)) + "\n")
        self.process.stdin.flush()
        return SimpleNamespace(**dict(zip(("returncode", "stdout", "stderr"), json.loads(self.process.stdout.readline()))))

    def __call__(self, *argv, largest=0) -> str:
        """What a command prints when it succeeds."""
        done = self.send(argv=list(map(str, argv)), largest=largest)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refusal(self, *argv, largest=0) -> str:
        """The one sentence of a command that cannot do what it is asked."""
        done = self.send(argv=list(map(str, argv)), largest=largest)
        assert done.returncode == 1 and re.fullmatch("(run folder: .*\n)?", done.stdout), done.stdout + done.stderr
        *before, last = done.stderr.splitlines()
        assert last.startswith("error: ") and all(re.match(BEFORE, line) for line in before), done.stderr
        return last.removeprefix("error: ")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    yield (folder := tmp_path_factory.mktemp("hf"))
    shutil.rmtree(folder)  # pytest would keep three of them


@pytest.fixture(scope="module")
def hub():
    hub = Hub()
    yield hub
    hub.shutdown()


def started(hub, home, offline):
    commands = Commands(hub, home, offline)
    yield commands
    commands.process.kill()
    commands.process.wait()


@pytest.fixture(scope="module")
def online(hub, home):
    yield from started(hub, home, False)


@pytest.fixture(scope="module")
def offline(hub, home):
    yield from started(hub, home, True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A pair of several shards, each larger than what is asked for a header."""
    made = [Path(f) for f in save_pair(tmp_path_factory.mktemp("pair"), hidden_size=128, intermediate_size=512, shard="500KB")]
    assert all(len(shards(f)) > 3 for f in made) and min(p.stat().st_size for f in made for p in shards(f)) > 120_000
    return made


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The same with shards of 13 MB: huggingface_hub writes 10 MiB at a time, and from less it resumes nothing."""
    made = [Path(f) for f in save_pair(tmp_path_factory.mktemp("large"), hidden_size=256, intermediate_size=4096, shard="14MB")]
    assert [round(p.stat().st_size / 1e6) for p in shards(made[0])] == [13, 13]
    yield made
    shutil.rmtree(made[0].parent)


def shards(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("*.safetensors"))


@pytest.fixture
def publish(hub, tmp_path):
    """Puts a pair on the Hub under names that no other test has in the cache; a preset names them."""
    def publish(folders, **changes):  # of the thinking one's files
        instruct, thinking = names = [hub.publish(f"models/{owner}/{role}", folder, **extra)
                                      for role, folder, extra in zip(("instruct", "thinking"), folders, ({}, changes))]
        path = tmp_path / "pair.yaml"
        path.write_text(f"name: hub\ninstruct: {instruct}\nthinking: {thinking}\ndevice: cpu\n")
        return SimpleNamespace(instruct=instruct, thinking=thinking, names=names, preset=path)

    owner = f"lab{len(hub.repos)}"
    yield publish
    hub.cut.clear(), hub.stall.clear(), hub.refused.clear()


@pytest.fixture
def pair(publish, folders):
    return publish(folders)


def ask(preset):
    return "ask", preset, "--prompt", "1 + 1", "--t", "0", "1", "--tokens", "2", "--greedy", "--json"


def weights(seen) -> dict[str, int]:
    """owner/name/shard -> bytes of it that were sent, beyond what was asked for a header."""
    sent = {}
    for asked in seen:
        if asked.path.endswith(".safetensors") and asked.method == "GET" and asked.range != HEADER:
            sent[asked.path] = sent.get(asked.path, 0) + asked.sent
    return sent


def headers(seen) -> set[str]:
    return {a.path for a in seen if a.range == HEADER and a.sent}


def named(folders, pair) -> set[str]:
    return {f"{name}/{shard.name}" for name, folder in zip(pair.names, folders) for shard in shards(folder)}


# ---- headers only


def test_check_and_plan_ask_for_headers_only(hub, online, pair, folders):
    with hub.watched() as seen:
        said = online("check", *pair.names)
        assert "think" in online("plan", pair.preset)
    assert said.startswith("compatible: qwen3") and "thinking: its chat template opens the trace" in said
    assert headers(seen) == named(folders, pair) and not weights(seen)
    assert said == online("check", *folders)


# ---- fetched, and then there


def test_fetched_once_and_then_without_the_hub(hub, online, offline, pair, folders):
    """With the weights here neither a dead network nor HF_HUB_OFFLINE=1 matters; `check` and `plan` asked the Hub for headers all the same."""
    with hub.watched() as seen:
        first = online(*ask(pair.preset))
    assert weights(seen) == {path: (folder / Path(path).name).stat().st_size for path in named(folders, pair)
                             for folder in folders if folder.name == path.split("/")[1]}
    with hub.watched() as seen:
        assert online(*ask(pair.preset)) == first
    assert seen and not weights(seen) and not headers(seen)  # asks whether there is a new commit, and for no more
    with hub.unreachable(), hub.watched() as seen:
        for commands in (online, offline):
            assert commands(*ask(pair.preset)) == first
            assert commands("check", *pair.names).startswith("compatible: qwen3")
            assert "think" in commands("plan", pair.preset)
    assert not seen


def test_only_the_weights_that_the_index_names_are_fetched(hub, online, publish, folders):
    """Mistral's repositories hold all weights twice (consolidated.safetensors), a trainer's hold a copy per checkpoint: all of it came."""
    pair = publish(folders, **{"consolidated.safetensors": b"x" * 200_000, "checkpoint-1/model.safetensors": b"x" * 200_000})
    with hub.watched() as seen:
        online(*ask(pair.preset))
    assert weights(seen).keys() == named(folders, pair)


def test_the_commit_that_was_checked_is_the_one_that_is_fetched(hub, online, pair, folders):
    """A push between the look at the headers and the download: what comes is what was looked at, or nothing."""
    with hub.watched() as seen:
        online(*ask(pair.preset))
    asked = [a.address for a in seen if a.path.endswith(".safetensors") and "/cdn/" not in a.address]
    assert asked and all(f"/resolve/{hub.sha('models/' + '/'.join(a.split('/')[1:3]))}/" in a for a in asked)


def test_a_broken_connection_is_taken_up_where_it_broke(hub, online, publish, large):
    pair = publish(large)
    file = f"{pair.thinking}/{shards(large[1])[1].name}"
    hub.cut[file] = [12_000_000, 1]
    with hub.watched() as seen:
        online(*ask(pair.preset))
    assert [a.range for a in seen if a.path == file and a.address.startswith("/cdn/")] == [HEADER, "", f"bytes={10 * 2**20}-"]


def test_an_interrupted_download_damages_nothing(hub, online, offline, pair, folders):
    """A connection that goes for good was a traceback of httpx2. Now a sentence; what is whole is kept, and half is never taken for whole."""
    file = f"{pair.instruct}/{shards(folders[0])[2].name}"
    half = f"{pair.instruct} is here only in part, without 1 of its 6 shards ({Path(file).name}), and the Hub "
    hub.cut[file] = [150_000, 99]
    said = online.refusal(*ask(pair.preset))
    assert said.startswith(half + "gave no more of it (peer closed connection") and said.endswith("what is here is kept, run this again")
    with hub.unreachable():
        for verb in (ask(pair.preset), ("plan", pair.preset), ("check", *pair.names)):
            assert offline.refusal(*verb) == half + "cannot be reached (HF_HUB_OFFLINE is set); unset it"
        assert online.refusal(*verb).startswith(half + "gave no more of it ([Errno 111] Connection refused);")
    del hub.cut[file]
    with hub.watched() as seen:
        online(*ask(pair.preset))
    assert {path for path in weights(seen) if path.startswith(pair.instruct)} == {file}  # of the first checkpoint only what broke


def test_progress_is_shown_and_a_killed_download_goes_on(hub, online, publish, large, home):
    """transformers' disable_progress_bar() silences huggingface_hub, too: gigabytes came without a sign of life. Here on a terminal."""
    pair = publish(large)
    file = f"{pair.instruct}/{shards(large[0])[1].name}"
    hub.stall[file] = 12_000_000
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    command = [sys.executable, "-m", "thinkswitch", *map(str, ask(pair.preset))]
    env = {key: value for key, value in online.env.items() if key != "HF_HUB_DISABLE_TELEMETRY"}
    process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    blob = home / "hub" / f"models--{pair.instruct.replace('/', '--')}" / "blobs" / hashlib.sha256(shards(large[0])[0].read_bytes()).hexdigest()
    with hub.watched() as seen:
        shown = b""
        while b"MB / 25.8MB" not in shown:
            shown += os.read(screen, 4096)
        while not blob.exists():
            time.sleep(0.05)
        process.kill()
        process.wait()
    os.close(screen)
    assert f"fetching {pair.instruct}: 2 files, 26 MB" in shown.decode()
    lab = pair.instruct.partition("/")[0]
    assert seen and all(a.path.removeprefix("/api/models/").startswith(f"{lab}/") for a in seen)  # it calls nobody else
    hub.stall.clear()
    with hub.watched() as seen:
        online(*ask(pair.preset))
    assert {path for path in weights(seen) if path.startswith(pair.instruct)} == {file}


# ---- refused, in one sentence, before weights are fetched


def spoiled(folder: Path, flaw: str) -> dict:
    """Changes to a folder's files."""
    config = json.loads((folder / "config.json").read_text())
    if flaw == "pickled":
        return {p.name: None for p in [*shards(folder), folder / "model.safetensors.index.json"]} | {"pytorch_model.bin": b"pickle"}
    if flaw == "quantised":
        return {"config.json": json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}).encode()}
    if flaw == "experts":
        return {"config.json": json.dumps(Qwen3MoeConfig(num_experts=128).to_dict()).encode()}
    if flaw == "template":
        return {"chat_template.jinja": None}
    if flaw == "shard":
        return {shards(folder)[0].name: None}
    if flaw == "dtype":
        header = json.dumps({"w": dict(dtype=HOSTILE, shape=[2], data_offsets=[0, 4])}).encode()
        return {shards(folder)[0].name: struct.pack("<Q", len(header)) + header + b"x" * 200_000}
    if flaw == "header":
        return {shards(folder)[0].name: struct.pack("<Q", 100) + b"x" * 200_000}
    if flaw == "tokens":
        tok = byte_tokenizer()
        tok.add_tokens(["<new>"])
        return {"tokenizer.json": tok.backend_tokenizer.to_str().encode()}


FLAWS = dict(
    pickled=r"{name} has no weights: model.safetensors is missing on the Hub; pickled weights are never opened, convert them to safetensors$",
    quantised=r"{name} is quantised; interpolation needs the original weights$",
    experts=r"{name} is a qwen3_moe model, and mixture-of-experts layers are not supported yet; known are .*qwen3$",
    template=r"{name} has no chat template; copy chat_template.jinja from the vendor's checkpoint into it$",
    shard=r"{name} lacks model-00001-of-00006.safetensors on the Hub, which its index names; choose another checkpoint$",
    header=r"{name} is here without its weights, and the Hub gave no more of it \(Failed to parse safetensors header.*; what is here is kept, run this again$",
    dtype=r"{name}: the tensor 'w' has the dtype '<img src=x onerror=alert\(1\)>', which safetensors does not know; download it again, or choose another checkpoint$",
    tokens=r"{other} and {name} cannot be interpolated: the tokenizers differ in 1 tokens \('<new>'\)$")


@pytest.mark.parametrize("flaw", FLAWS)
def test_what_cannot_be_used_is_refused_before_weights_are_fetched(hub, online, publish, folders, flaw):
    """The flaw is the second checkpoint's: the first one's gigabytes came before it was looked at."""
    pair = publish(folders, **spoiled(folders[1], flaw))
    with hub.watched() as seen:
        said = online.refusal(*ask(pair.preset))
        assert said == online.refusal("check", *pair.names)
    assert re.match(FLAWS[flaw].format(name=pair.thinking, other=pair.instruct), said), said
    assert not weights(seen) and not [a for a in seen if a.path.endswith(".bin")]


@pytest.mark.parametrize("status, code", [(401, "GatedRepo"), (403, "GatedRepo"), (401, "RepoNotFound"), (404, "RepoNotFound")])
def test_what_the_hub_refuses(hub, online, pair, status, code):
    """It says 401 to whom it does not know, 403 or 404 to whom it does."""
    says = dict(GatedRepo=f"{pair.thinking} is gated: ask for access at {hub.endpoint}/{pair.thinking}, then `hf auth login`",
                RepoNotFound=f"{pair.thinking} is no folder here, and the Hub has no such checkpoint, or none for you; check the spelling, "
                             "or `hf auth login` if it is private")
    hub.refused[f"models/{pair.thinking}"] = (status, code)
    with hub.watched() as seen:
        assert online.refusal(*ask(pair.preset)) == online.refusal("check", *pair.names) == says[code]
    assert not weights(seen)


def test_nothing_here_and_no_network(hub, online, offline, pair):
    with hub.unreachable():
        for commands, reason in ((online, "[Errno 111] Connection refused); check the name and the network"), (offline, "HF_HUB_OFFLINE is set); unset it")):
            assert commands.refusal("check", *pair.names) == f"{pair.instruct} is no folder here, and the Hub cannot be reached ({reason}"


def test_a_disk_that_is_too_small_is_seen_before_weights_are_fetched(hub, online, publish, folders):
    """By the headers the pair takes terabytes. What fills a disk with the first checkpoint helps nobody."""
    names = json.loads((folders[0] / "model.safetensors.index.json").read_text())["weight_map"]
    header = json.dumps({name: dict(dtype="BF16", shape=[10**5, 10**6], data_offsets=[0, 2 * 10**11]) for name in names}).encode()
    huge = {"model.safetensors": struct.pack("<Q", len(header)) + header + b"x" * 200_000}
    pair = publish([{p.name: p.read_bytes() for p in folder.iterdir() if "safetensors" not in p.name} | huge for folder in folders])
    with hub.watched() as seen:
        said = online.refusal(*ask(pair.preset))
    assert re.match(rf"the weights of {pair.instruct} and {pair.thinking} take {len(names) * 400:,}.0 GB, the disk of the Hub's cache has [\d,.]+ GB free; "
                    "make room, or set HF_HOME to a folder on a larger disk$", said), said
    assert headers(seen) and not weights(seen)


def test_a_disk_that_is_full_in_the_middle(hub, online, pair, folders):
    """Here a limit on what a file may hold, which the system reports as it does a full disk."""
    said = online.refusal(*ask(pair.preset), largest=300_000)
    assert re.match(rf"{pair.instruct} is here only in part, without \d of its 6 shards \(.*\), and the Hub's cache, .*, takes no more "
                    r"\(File too large\); make room, or set HF_HOME to a folder on another disk, and run this again$", said), said
    with hub.watched() as seen:
        online(*ask(pair.preset))
    assert 0 < len([path for path in weights(seen) if path.startswith(pair.instruct)]) < 6  # the smaller ones had arrived


# ---- data sets


def parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def sets(hub):
    """The sets that the shipped presets name, laid out as the Hub has them: a card that names configs and splits, parquet, or bare JSONL."""
    card = "---\nconfigs:\n{}---\n".format
    config = "- config_name: {}\n  data_files:\n  - split: train\n    path: {}/train-*\n".format
    for name in ("AI-MO/aimo-validation-aime", "MathArena/aime_2026"):
        hub.publish(f"datasets/{name}", {"README.md": card(config("default", "data")).encode(),
                                         "data/train-00000-of-00001.parquet": parquet(SETS[name, "train"])})
    labelled = parquet(SETS["qiaojin/PubMedQA", "pqa_labeled", "train"])
    hub.publish("datasets/qiaojin/PubMedQA", {"README.md": card(config("pqa_artificial", "pqa_artificial") + config("pqa_labeled", "pqa_labeled")).encode(),
                                              "pqa_labeled/train-00000-of-00001.parquet": labelled, "pqa_artificial/train-00000-of-00001.parquet": labelled})
    lines = "".join(json.dumps(row) + "\n" for row in SETS["HuggingFaceH4/MATH-500", "test"])
    hub.publish("datasets/HuggingFaceH4/MATH-500", {"README.md": b"---\nlicense: mit\n---\n", "test.jsonl": lines.encode()})


DRAW = """
import json
from thinkswitch import problems
from thinkswitch.preset import load_preset
train, held = problems.train_and_held_out(load_preset({!r}))
print(json.dumps([[(p.prompt, p.answer) for p in part] for part in (train, held)]))
"""


@pytest.mark.parametrize("name", ["qwen3_4b_aime", "qwen3_4b_pubmedqa", "openthinker3_1b"])
def test_the_sets_of_shipped_presets_load_and_stay(hub, online, offline, sets, name):
    shipped = load_preset(name)
    drawn = online.send(code=DRAW.format(name))
    assert drawn.returncode == 0, drawn.stderr
    train, held = json.loads(drawn.stdout)
    assert (len(train), len(held)) == (shipped.prompts, shipped.held_out)
    for source, part in ((shipped.train_set, train), (shipped.held_out_set, held)):
        repository, _, split = source.partition(":")
        owner, rest, *config = repository.split("/")
        rows = [problems.make_problem(row, "", shipped.prompt_template, shipped.answer_column, shipped.kind) for row in SETS[f"{owner}/{rest}", *config, split]]
        assert {tuple(p) for p in part} <= {(row.prompt, row.answer) for row in rows}
    with hub.watched() as seen:
        again = offline.send(code=DRAW.format(name))
    assert again.stdout == drawn.stdout and not seen, again.stderr


def test_a_run_of_hub_checkpoints_on_a_hub_set(hub, online, offline, publish, tmp_path):
    """All of it from the Hub, a round long; its folder is good without the Hub, too."""
    pair = publish([TINY / "instruct", TINY / "thinking"])
    sums = hub.publish("datasets/lab/sums", {f"{split}.jsonl": b"".join((TINY / f"{file}.jsonl").read_bytes().splitlines(keepends=True)[:40])
                                             for split, file in (("train", "train"), ("test", "held_out"))})
    settings = dict(instruct=pair.instruct, thinking=pair.thinking, held_out_set=f"{sums}:test", prompts=8, held_out=4, rounds=1, epochs=1, fresh=False)
    online(*run(f"{sums}:train", tmp_path, **settings))
    with hub.watched() as seen:
        offline("sweep", tmp_path / "run", "--t", "0", "1", "--json", tmp_path / "table.json")
    assert json.loads((tmp_path / "table.json").read_text())["round"] == 1 and not seen


def run(train_set, tmp_path, **changes):
    settings = dict(train_set=train_set, held_out_set=train_set, prompts=2, held_out=2) | changes
    return "run", "tiny", "--out", tmp_path / "run", "--set", *(f"{key}={value}" for key, value in settings.items())


WRITE = "write owner/name:split or owner/name/config:split"
LOADED = "the data set {source} could not be loaded: "


@pytest.mark.parametrize("source, says", [
    ("nobody/nothing:train", "the Hub has no data set nobody/nothing, or none for you; check the spelling, or `hf auth login` if it is private"),
    ("MathArena/aime_2026:test", LOADED + "Unknown split \"test\". Should be one of ['train']; " + WRITE),
    ("qiaojin/PubMedQA/pqa:train", LOADED + "BuilderConfig 'pqa' not found. Available: ['pqa_artificial', 'pqa_labeled']; " + WRITE),
    ("qiaojin/PubMedQA:train", LOADED + "Config name is missing. Please pick one among the available configs: ['pqa_artificial', 'pqa_labeled']; " + WRITE),
    ("MathArena/aime_2026:train", "{source} row 0: the prompt template '{{prompt}}' asks for 'prompt', the row has problem_idx, answer, problem"),
    ("MathArena/aime_2026", "'{source}' is neither an existing JSONL file nor a Hub data set; " + WRITE),
], ids=["repository", "split", "config", "no config", "column", "no split"])
def test_a_data_set_that_cannot_be_used_is_one_sentence(online, sets, tmp_path, source, says):
    """Of several lines the first was told: "Config name is missing.", and not which there are."""
    assert online.refusal(*run(source, tmp_path)) == says.format(source=source)
    assert not (tmp_path / "run").exists()


def test_a_data_set_without_the_answer_column(online, sets, tmp_path):
    said = online.refusal(*run("MathArena/aime_2026:train", tmp_path, prompt_template="{problem}", answer_column="final"))
    assert re.match("30 held-out problems of MathArena/aime_2026:train have no 'final', the first being .*; held-out problems need answers$", said)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_data_set(hub, online, tmp_path, status):
    name = hub.publish(f"datasets/lab/gated{status}", {"README.md": b"", "train.jsonl": b"{}"})
    hub.refused[f"datasets/{name}"] = (status, "GatedRepo")
    said = online.refusal(*run(f"{name}:train", tmp_path))
    assert said == f"the data set {name} is gated: ask for access at {hub.endpoint}/datasets/{name}, then `hf auth login`"


@pytest.mark.parametrize("name, files, says", [
    ("damaged", {"train.parquet": b"no parquet"}, "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file"),
    ("lines", {"train.jsonl": b"no json"}, "An error occurred while generating the dataset (JSON parse error: Invalid value. in row 0)"),
    ("empty", {}, "The directory at hf://datasets/lab/empty@{sha} doesn't contain any data files"),
], ids=lambda value: value if isinstance(value, str) and value.isalpha() else "")
def test_a_data_set_that_is_damaged_or_empty(hub, online, tmp_path, name, files, says):
    hub.publish(f"datasets/lab/{name}", {"README.md": b""} | files)
    said = online.refusal(*run(f"lab/{name}:train", tmp_path))
    assert said == LOADED.format(source=f"lab/{name}:train") + says.format(sha=hub.sha(f"datasets/lab/{name}"))


def test_a_data_set_that_never_came_and_no_network(offline, tmp_path):
    said = offline.refusal(*run("nobody/nothing:train", tmp_path))
    assert said == LOADED.format(source="nobody/nothing:train") + "it is not in the cache, and the Hub cannot be reached (HF_HUB_OFFLINE is set); unset it"
