"""Hub ids, for real: our commands and huggingface_hub as installed, against the Hub in fake_hub.py."""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from math import prod
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Qwen3MoeConfig

from conftest import ROOT, TINY, byte_tokenizer, save_pair, wait
from thinkswitch.weights.weight_files import model_shapes
from unit.adapter_helpers import save_adapter

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
termios = pytest.importorskip("termios", reason="Windows has no pseudo-terminals")
HOSTILE = "<img src=x onerror=alert(1)>"  # went from a header on the Hub into the page


def shards(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("*.safetensors"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A pair of several shards, each larger than what is asked for a header."""
    made = save_pair(tmp_path_factory.mktemp("pair"), hidden_size=128, intermediate_size=512, shard="500KB")
    made = [Path(folder) for folder in made]
    assert all(len(shards(folder)) > 3 for folder in made)
    assert min(shard.stat().st_size for folder in made for shard in shards(folder)) > 120_000
    return made


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The same with shards of 13 MB: huggingface_hub writes 10 MiB at a time, and resumes nothing smaller."""
    made = save_pair(tmp_path_factory.mktemp("large"), hidden_size=256, intermediate_size=4096, shard="14MB")
    made = [Path(folder) for folder in made]
    assert [round(shard.stat().st_size / 1e6) for shard in shards(made[0])] == [13, 13]
    yield made
    shutil.rmtree(made[0].parent)


@pytest.fixture
def publish(hub, tmp_path):
    """Puts a pair on the Hub under names that no other test has in the cache; a preset names them.

    `changes` are of the thinking checkpoint's files.
    """
    owner = f"lab{len(hub.repos)}"

    def publish(folders, **changes):
        instruct = hub.publish(f"models/{owner}/instruct", folders[0])
        thinking = hub.publish(f"models/{owner}/thinking", folders[1], **changes)
        preset = tmp_path / "pair.yaml"
        preset.write_text(f"name: hub\ninstruct: {instruct}\nthinking: {thinking}\n", "utf-8")
        return SimpleNamespace(
            instruct=instruct, thinking=thinking, names=[instruct, thinking], preset=preset
        )

    yield publish
    for flaws in (hub.cut, hub.stall, hub.refused):
        flaws.clear()


@pytest.fixture
def pair(publish, folders):
    return publish(folders)


def ask(preset: Path) -> tuple:
    return "ask", preset, "--prompt", "1 + 1", "--t", "0", "1", "--tokens", "2", "--greedy", "--json"


def of_header(asked) -> bool:
    """A request for the beginning of a file: huggingface_hub reads a header with one."""
    return bool(re.fullmatch(r"bytes=0-\d+", asked.range))


def weights(seen) -> dict[str, int]:
    """owner/name/shard -> bytes of it that were sent, beyond what was asked for a header."""
    sent: dict[str, int] = {}
    for asked in seen:
        if asked.path.endswith(".safetensors") and asked.method == "GET" and not of_header(asked):
            sent[asked.path] = sent.get(asked.path, 0) + asked.sent
    return sent


def headers(seen) -> set[str]:
    return {asked.path for asked in seen if of_header(asked) and asked.sent}


def sizes(folders, pair) -> dict[str, int]:
    """owner/name/shard -> its size, of all shards of a pair."""
    found = {}
    for name, folder in zip(pair.names, folders, strict=True):
        found |= {f"{name}/{shard.name}": shard.stat().st_size for shard in shards(folder)}
    return found


def of_instruct(seen, pair) -> set[str]:
    """The instruct checkpoint's shards that were sent."""
    return {path for path in weights(seen) if path.startswith(pair.instruct)}


# ---- headers only


def test_check_and_plan_ask_for_headers_only(hub, online, pair, folders):
    with hub.watched() as seen:
        said = online("check", *pair.names)
        assert "think" in online("plan", pair.preset)
    assert said.startswith("compatible: qwen3")
    assert headers(seen) == sizes(folders, pair).keys() and not weights(seen)
    assert said == online("check", *folders)


# ---- fetched, and then there


def test_fetched_once_and_then_without_the_hub(hub, online, offline, pair, folders):
    """With the weights here neither a dead network nor HF_HUB_OFFLINE=1 matters.

    `check` and `plan` asked the Hub for headers all the same.
    """
    with hub.watched() as seen:
        first = online(*ask(pair.preset))
    assert weights(seen) == sizes(folders, pair)
    with hub.watched() as seen:
        assert online(*ask(pair.preset)) == first
    assert (
        seen and not weights(seen) and not headers(seen)
    )  # asks whether there is a new commit, and for no more
    with hub.unreachable(), hub.watched() as seen:
        for commands in (online, offline):
            assert commands(*ask(pair.preset)) == first
            assert commands("check", *pair.names).startswith("compatible: qwen3")
            assert "think" in commands("plan", pair.preset)
    assert not seen


def test_only_the_weights_that_the_index_names_are_fetched(hub, online, publish, folders):
    """Some repositories hold all weights twice, or a copy per checkpoint: all of it came."""
    copies = {"consolidated.safetensors": b"x" * 200_000, "checkpoint-1/model.safetensors": b"x" * 200_000}
    pair = publish(folders, **copies)
    with hub.watched() as seen:
        online(*ask(pair.preset))
    assert weights(seen).keys() == sizes(folders, pair).keys()


def test_the_commit_that_was_checked_is_the_one_that_is_fetched(hub, online, pair, folders):
    """A push between the look at the headers and the download: what comes is what was looked at."""
    with hub.watched() as seen:
        online(*ask(pair.preset))
    asked = [a.address for a in seen if a.path.endswith(".safetensors") and "/cdn/" not in a.address]
    assert asked
    for address in asked:
        _, owner, role, *_ = address.split("/")
        assert f"/resolve/{hub.sha(f'models/{owner}/{role}')}/" in address


def test_a_broken_connection_is_resumed_where_it_broke(hub, online, publish, large):
    pair = publish(large)
    file = f"{pair.thinking}/{shards(large[1])[1].name}"
    broke_at = 12_000_000
    hub.cut[file] = [broke_at, 1]
    with hub.watched() as seen:
        online(*ask(pair.preset))
    ranges = [a.range for a in seen if a.path == file and a.address.startswith("/cdn/") and not of_header(a)]
    assert len(ranges) == 2 and ranges[0] == ""
    assert 0 < int(re.fullmatch(r"bytes=(\d+)-", ranges[1])[1]) <= broke_at


def test_an_interrupted_download_damages_nothing(hub, online, offline, pair, folders):
    """A connection that went for good was a traceback. What is whole is kept, half is no whole."""
    file = f"{pair.instruct}/{shards(folders[0])[2].name}"
    half = f"{pair.instruct} is here only in part, without 1 of its 6 shards ({Path(file).name})"
    hub.cut[file] = [150_000, 99]
    said = online.refusal(*ask(pair.preset))
    assert said.startswith(half) and "what is here is kept, run this again" in said
    with hub.unreachable():
        for verb in (ask(pair.preset), ("plan", pair.preset), ("check", *pair.names)):
            said = offline.refusal(*verb)
            assert said.startswith(half) and "HF_HUB_OFFLINE is set" in said
        assert online.refusal(*verb).startswith(half)
    del hub.cut[file]
    with hub.watched() as seen:
        online(*ask(pair.preset))
    assert of_instruct(seen, pair) == {file}  # only what broke


def test_progress_is_shown_and_a_killed_download_goes_on(hub, online, publish, large, home):
    """transformers' disable_progress_bar() silences huggingface_hub, too: gigabytes came without a sign.

    Here on a terminal. And nothing else is asked than the Hub for this pair.
    """
    pair = publish(large)
    file = f"{pair.instruct}/{shards(large[0])[1].name}"
    hub.stall[file] = 12_000_000
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    env = {key: value for key, value in online.env.items() if key != "HF_HUB_DISABLE_TELEMETRY"}
    command = [sys.executable, "-m", "thinkswitch", *map(str, ask(pair.preset))]
    child = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=terminal)
    os.close(terminal)
    digest = hashlib.sha256(shards(large[0])[0].read_bytes()).hexdigest()
    blob = home / "hub" / f"models--{pair.instruct.replace('/', '--')}" / "blobs" / digest
    with hub.watched() as seen:
        shown = b""
        while not re.search(rb"MB / \d", shown):
            shown += os.read(screen, 4096)
        wait(blob.exists)
        child.kill()
        child.wait()
    os.close(screen)
    assert f"fetching {pair.instruct}: 2 files, 26 MB" in shown.decode()
    owner = pair.instruct.partition("/")[0]
    assert seen and all(a.path.removeprefix("/api/models/").startswith(f"{owner}/") for a in seen)
    hub.stall.clear()
    with hub.watched() as seen:
        online(*ask(pair.preset))
    assert of_instruct(seen, pair) == {file}


# ---- refused, in one sentence, before weights are fetched


def safetensors(header: dict) -> bytes:
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + b"x" * 200_000


def spoiled(folder: Path, flaw: str) -> dict[str, bytes | None]:
    """Changes to a folder's files."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    first = shards(folder)[0].name
    if flaw == "tokens":
        tokenizer = byte_tokenizer()
        tokenizer.add_tokens(["<new>"])
        template = tokenizer.chat_template + "<new>"  # one that nobody uses would do no harm
        return {
            "tokenizer.json": tokenizer.backend_tokenizer.to_str().encode(),
            "chat_template.jinja": template.encode(),
        }
    if flaw == "pickled":
        gone = [*(shard.name for shard in shards(folder)), "model.safetensors.index.json"]
        return {**dict.fromkeys(gone), "pytorch_model.bin": b"pickle"}
    return {
        "quantised": {
            "config.json": json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}).encode()
        },
        "experts": {"config.json": json.dumps(Qwen3MoeConfig(num_experts=128).to_dict()).encode()},
        "template": {"chat_template.jinja": None},
        "shard": {first: None},
        "header": {first: struct.pack("<Q", 100) + b"x" * 200_000},
        "dtype": {first: safetensors({"w": {"dtype": HOSTILE, "shape": [2], "data_offsets": [0, 4]}})},
    }[flaw]


# flaw -> what the sentence says of it; all but the last begin with the checkpoint's name
FLAWS = {
    "pickled": ["has no weights", "convert them to safetensors"],
    "quantised": ["is quantised"],
    "experts": ["qwen3_moe", "mixture-of-experts"],
    "template": ["has no chat template"],
    "shard": ["lacks model-00001-of-00006.safetensors on the Hub"],
    "header": ["is here without its weights", "header"],
    "dtype": ["the tensor 'w'", HOSTILE],
    "tokens": ["cannot be interpolated", "tokenizers differ in 1 token", "<new>"],
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_what_cannot_be_used_is_refused_before_weights_are_fetched(hub, online, publish, folders, flaw):
    """The flaw is the second checkpoint's: the first one's gigabytes came before it was looked at."""
    pair = publish(folders, **spoiled(folders[1], flaw))
    with hub.watched() as seen:
        said = online.refusal(*ask(pair.preset))
        for verb in ("check", "fetch"):
            assert said == online.refusal(verb, *pair.names)
    assert said.startswith(pair.thinking) or flaw == "tokens"
    assert pair.thinking in said and all(part in said for part in FLAWS[flaw]), said
    assert not weights(seen) and not [a for a in seen if a.path.endswith(".bin")]


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_checkpoint(hub, online, pair, status):
    """The Hub says 401 to those it does not know, 403 to those it does."""
    hub.refused[f"models/{pair.thinking}"] = (status, "GatedRepo")
    with hub.watched() as seen:
        said = online.refusal(*ask(pair.preset))
        assert said == online.refusal("check", *pair.names)
    assert said.startswith(f"{pair.thinking} is gated") and f"{hub.endpoint}/{pair.thinking}" in said
    assert not weights(seen)


@pytest.mark.parametrize("status", [401, 404])
def test_a_checkpoint_that_does_not_exist_or_is_private(hub, online, pair, status):
    hub.refused[f"models/{pair.thinking}"] = (status, "RepoNotFound")
    with hub.watched() as seen:
        said = online.refusal(*ask(pair.preset))
        assert said == online.refusal("check", *pair.names)
    assert said.startswith(f"{pair.thinking} is no folder here") and "hf auth login" in said
    assert not weights(seen)


def test_nothing_here_and_no_network(hub, online, offline, pair):
    with hub.unreachable():
        for commands, advice in (
            (online, "check the name and the network"),
            (offline, "HF_HUB_OFFLINE is set"),
        ):
            said = commands.refusal("check", *pair.names)
            assert said.startswith(f"{pair.instruct} is no folder here, and the Hub cannot be reached")
            assert advice in said


def test_a_disk_that_is_too_small_is_seen_before_weights_are_fetched(hub, online, publish, folders):
    """By the headers the pair takes terabytes. What fills a disk with the first checkpoint helps nobody."""
    config = json.loads((folders[0] / "config.json").read_text("utf-8"))
    config |= {"hidden_size": 10**6, "intermediate_size": 10**6}
    shapes = model_shapes(AutoConfig.for_model(**config))
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * prod(shape)]}
    huge = {"model.safetensors": safetensors(tensors), "config.json": json.dumps(config).encode()}

    def swollen(folder: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.iterdir() if "safetensors" not in p.name} | huge

    pair = publish([swollen(folder) for folder in folders])
    with hub.watched() as seen:
        said = online.refusal(*ask(pair.preset))
    takes = f"{4 * sum(map(prod, shapes.values())) / 1e9:,.1f} GB"
    assert pair.instruct in said and pair.thinking in said and takes in said
    assert "GB free" in said and "HF_HOME" in said
    assert headers(seen) and not weights(seen)


def test_a_disk_that_is_full_in_the_middle(hub, online, pair, folders):
    """Here a limit on what a file may hold, which the system reports as it does a full disk."""
    said = online.refusal(*ask(pair.preset), largest=300_000)
    assert re.match(rf"{pair.instruct} is here only in part, without \d of its 6 shards", said), said
    assert "make room" in said and "HF_HOME" in said
    with hub.watched() as seen:
        online(*ask(pair.preset))
    assert 0 < len(of_instruct(seen, pair)) < 6  # the smaller ones had arrived


# ---- revisions

SMALL = ["rounds=1", "prompts=8", "held_out=6", "rows=8", "epochs=1", "batch=4"]


def test_a_repository_that_moves_between_run_and_resume(hub, online, publish, tmp_path):
    """verl 7658: a resumed run went on with other weights than it had begun with."""
    pair = publish([TINY / "instruct", TINY / "thinking"])
    sets = [f"train_set={TINY / 'train.jsonl'}", f"held_out_set={TINY / 'held_out.jsonl'}"]
    began_with = {name: hub.sha(f"models/{name}") for name in pair.names}
    run = tmp_path / "run"
    online("run", pair.preset, "--out", run, "--set", *SMALL, *sets)
    question = ("--prompt", "What is 4 + 5 - 2?", "--t", "1", "--greedy", "--json")
    before, first = online("ask", run, *question), online("ask", pair.preset, *question)
    hub.publish(f"models/{pair.thinking}", TINY / "instruct")  # a push, of all things
    assert hub.sha(f"models/{pair.thinking}") != began_with[pair.thinking]
    with hub.watched() as seen:
        online("resume", run)
        assert online("ask", run, *question) == before
        online("export", run, "--point", "0.5", "--out", tmp_path / "out")
    assert not weights(seen)
    assert json.loads((run / "run.json").read_text("utf-8"))["origin"]["commits"] == began_with
    assert json.loads((tmp_path / "out" / "recipe.json").read_text("utf-8"))["commits"] == began_with
    assert online("ask", pair.preset, *question) != first  # the preset follows the Hub


def test_a_revision_that_is_named(hub, online, publish, tmp_path):
    pair = publish([TINY / "instruct", TINY / "thinking"])
    old = hub.sha(f"models/{pair.thinking}")
    hub.publish(f"models/{pair.thinking}", TINY / "instruct")
    opens = "thinking: its chat template opens the trace"
    assert opens in online("check", pair.instruct, f"{pair.thinking}@{old}")
    assert opens not in online("check", pair.instruct, pair.thinking)
    assert opens not in online("check", pair.instruct, f"{pair.thinking}@main")
    named = tmp_path / "named.yaml"
    named.write_text(f"instruct: {pair.instruct}@main\nthinking: {pair.thinking}@{old}\n", "utf-8")
    online("export", named, "--point", "1", "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"- {pair.thinking}\n" in card and f"`{pair.thinking}@{old}`" in card
    for wrong in ("v9", "0" * 40, "main2"):
        said = online.refusal("check", pair.instruct, f"{pair.thinking}@{wrong}")
        assert said.startswith(f"{pair.thinking}@{wrong}: the Hub has no such revision of it")
    assert "neither an existing folder nor a Hub id" in online.refusal("check", "a@b", pair.thinking)


def test_a_head_of_its_own_is_found_once_the_weights_are_here(hub, online, publish, tmp_path):
    """From headers nobody can tell whether it is a copy of the embedding."""
    copy = Path(shutil.copytree(TINY / "thinking", tmp_path / "thinking"))
    weights = load_file(copy / "model.safetensors")
    head = weights["model.embed_tokens.weight"] * 2
    save_file({**weights, "lm_head.weight": head}, copy / "model.safetensors", {"format": "pt"})
    pair = publish([TINY / "instruct", copy])
    assert "left out (not compared before it is here)" in online("check", *pair.names)
    assert online(*ask(pair.preset)) == online(*ask(pair.preset))
    said = online("check", *pair.names)
    assert "untied embeddings" in said and "but a different one is stored; that one is used" in said
    adapter = save_adapter(str(copy), tmp_path / "adapter")
    base = hub.publish(f"models/{pair.thinking}-again", copy)
    online("fetch", base, adapter)
    assert "untied embeddings" in online("check", base, adapter)


def test_a_stale_index_on_the_hub(hub, online, publish):
    """CoSER 3: the single file was on the Hub, and an index of shards that were not."""
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    stale = {"model.safetensors.index.json": json.dumps(index).encode()}
    pair = publish([TINY / "instruct", TINY / "thinking"], **stale)
    assert online("check", *pair.names).startswith("compatible: qwen3")
    assert json.loads(online(*ask(pair.preset)))
    with hub.unreachable():
        assert online("check", *pair.names).startswith("compatible: qwen3")
