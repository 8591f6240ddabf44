"""Safetensors files written block by block: readable, aligned, and in the memory of a few blocks."""

import errno
import hashlib
import json
import os
import re
import struct
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from thinkswitch import rounds
from thinkswitch.export.layout import tensor_blocks
from thinkswitch.export.point import ExportPoint
from thinkswitch.export.safetensors_writer import ShardWriter, tensor_bytes, write_shards
from thinkswitch.recipe import Schedule
from thinkswitch.weights import materialise
from thinkswitch.weights.adapter import Adapter
from thinkswitch.weights.checkpoint import Checkpoint, TensorInfo
from thinkswitch.weights.materialise import combine
from thinkswitch.weights.pair import Pair
from unit.export_helpers import PRESET, finish

FILE = "model.safetensors"


def read_header(path: Path) -> tuple[int, dict]:
    """The size of the header, and the header itself."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return size, json.loads(content[8 : 8 + size])


def values_and_entries(shapes: dict[str, tuple], dtype=torch.float32, name="F32"):
    values = {key: torch.randn(shape).to(dtype) for key, shape in shapes.items()}
    return values, {key: TensorInfo(shape, name, FILE) for key, shape in shapes.items()}


def test_every_tensor_begins_at_a_multiple_of_its_item_size(tmp_path):
    """Wide types come first and the header is padded."""
    entries = {"a": TensorInfo((3,), "BF16", FILE), "b": TensorInfo((2, 2), "F32", FILE)}
    values = {"a": torch.tensor([1, 2, 3]).bfloat16(), "b": torch.arange(4.0).view(2, 2)}
    finish(write_shards(tmp_path, entries, lambda name: iter([values[name]])))
    size, header = read_header(tmp_path / FILE)
    assert size % 8 == 0 and header["__metadata__"] == {"format": "pt"}
    assert header["b"]["data_offsets"] == [0, 16]
    assert header["a"]["data_offsets"] == [16, 22]
    loaded = load_file(tmp_path / FILE)
    assert loaded.keys() == values.keys()
    assert all(torch.equal(values[name], tensor) for name, tensor in loaded.items())


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_blocks_of_any_size_make_the_same_file(tmp_path, rows):
    values, entries = values_and_entries({"a": (100, 7), "b": (10,)})
    hashes, _ = finish(write_shards(tmp_path, entries, lambda name: iter(values[name].split(rows))))
    content = (tmp_path / FILE).read_bytes()
    assert hashes == {FILE: hashlib.sha256(content).hexdigest()}
    assert all(torch.equal(values[name], tensor) for name, tensor in load_file(tmp_path / FILE).items())


def test_a_file_has_its_final_length_from_the_start(tmp_path):
    """Readers compare it with the header, and a large checkpoint is read while it is written."""
    values, entries = values_and_entries({"a": (64, 64)})
    with ShardWriter(tmp_path / FILE, entries) as writer:
        length = (tmp_path / FILE).stat().st_size
        writer.write(values["a"])
        assert writer.close() == hashlib.sha256((tmp_path / FILE).read_bytes()).hexdigest()
    size, _ = read_header(tmp_path / FILE)
    assert length == (tmp_path / FILE).stat().st_size == 8 + size + tensor_bytes(entries["a"])


def test_a_tensor_is_announced_when_it_can_be_read(tmp_path):
    values, entries = values_and_entries({f"t{i}": (50, 40) for i in range(10)})
    read_back = {}

    def on_written(name: str) -> None:
        read_back[name] = load_file(tmp_path / FILE)[name]

    finish(write_shards(tmp_path, entries, lambda name: iter(values[name].split(7)), on_written))
    assert list(read_back) == list(values)
    assert all(torch.equal(values[name], tensor) for name, tensor in read_back.items())


def test_progress_counts_bytes_of_all_files(tmp_path):
    values, entries = values_and_entries({"a": (30, 10), "b": (20, 10)})
    entries["b"] = TensorInfo((20, 10), "F32", "other.safetensors")
    hashes, yielded = finish(write_shards(tmp_path, entries, lambda name: iter(values[name].split(10))))
    assert yielded == sorted(yielded) and yielded[-1] == (2000, 2000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
    assert index["weight_map"] == {"a": FILE, "b": "other.safetensors"}
    assert index["metadata"] == {"total_size": 2000, "sha256": hashes} and len(hashes) == 2


def test_a_full_disk_is_reported_and_ends_the_threads(tmp_path, monkeypatch):
    """It is found in another thread, some blocks later."""
    values, entries = values_and_entries({"a": (100, 7)})

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), ShardWriter(tmp_path / FILE, entries) as writer:
        monkeypatch.setattr(os, "posix_fadvise", full, raising=False)
        monkeypatch.setattr("thinkswitch.export.safetensors_writer.FLUSH_BYTES", 64)
        for block in values["a"].split(1):
            writer.write(block)
        writer.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's resettable peak of memory"
)
def test_memory_is_that_of_blocks_and_not_of_tensors(tmp_path, monkeypatch):
    """Two sides of 64 MB and an update, in blocks of 1 MB. The whole tensor shows in the same measure."""
    info = TensorInfo((4096, 4096), "F32", FILE)
    sides = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(4096, 4096, generator=generator)
        finish(write_shards(folder, {"w": info}, lambda _, weight=weight: iter([weight])))
        sides.append(Checkpoint(str(seed), folder, None, {"w": info}))
    update = Adapter({"w": (torch.randn(4, 4096), torch.randn(4096, 4))})
    gram = {"w": [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]}
    state = rounds.Round(1, [update], {"w": (1.0, 0.0, 1.0)}, {"w": (0.2, 0.8, 0.2)}, gram)
    point = ExportPoint(Pair(*sides), state, 0.5, Schedule(), PRESET)
    monkeypatch.setattr(materialise, "BLOCK", 1 << 18)

    def write() -> None:
        finish(write_shards(tmp_path, {"w": info}, lambda name: tensor_blocks(point, name, info)))

    write()  # at first, memory also grows by that of code and threads
    write()
    assert memory_growth(write) < 32
    assert 60 < memory_growth(lambda: combine(point.pair, state.adapters, point.recipe, "w")) < 96
    exact = combine(point.pair, state.adapters, point.recipe, "w")
    assert (load_file(tmp_path / FILE)["w"] - exact).abs().max() < 1e-5


def memory_growth(work) -> float:
    """The MB by which resident memory grows at most."""
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = int(re.search(r"VmRSS:\s+(\d+)", status.read_text("utf-8"))[1])
    work()
    return (int(re.search(r"VmHWM:\s+(\d+)", status.read_text("utf-8"))[1]) - before) / 1024
