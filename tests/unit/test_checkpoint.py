"""A checkpoint is opened by its headers, and its weights are read whole or a block of rows at a time."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from thinkswitch.errors import UserError
from thinkswitch.weights.checkpoint import DTYPES, Checkpoint, TensorInfo, open_checkpoint, tensor_offsets
from thinkswitch.weights.hub import headers
from thinkswitch.weights.safetensors_reader import DTYPE_BITS, open_safetensors, read_header

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def copied(folders, tmp_path) -> Path:
    """An instruct checkpoint that a test may damage."""
    return Path(shutil.copytree(folders("qwen3")[0], tmp_path / "instruct"))


def write_header(path: Path, **tensors: dict) -> None:
    """A safetensors file of which only the header matters."""
    header = json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))


def entry(**changes) -> dict:
    return {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8], **changes}


def checkpoint_of(folder: Path, weights: dict[str, torch.Tensor]) -> Checkpoint:
    save_file(weights, folder / "model.safetensors")
    return Checkpoint("test", folder, None, read_header(folder / "model.safetensors"))


# ---- headers


def test_a_header_with_an_unknown_dtype_is_refused_by_name(copied):
    """The dtype of a Hub header went into the page as HTML: a script ran where processes can be started."""
    write_header(copied / "model.safetensors", **{"model.norm.weight": entry(dtype=HOSTILE)})
    with pytest.raises(UserError) as caught:
        open_checkpoint(str(copied))
    assert "the tensor 'model.norm.weight' has the dtype '<img src=x onerror=alert(1)>'" in str(caught.value)
    assert "which safetensors does not know" in str(caught.value)


def test_what_a_header_says_is_cut_short_in_a_refusal(copied):
    write_header(copied / "model.safetensors", **{"w" * 5000: entry(dtype="X" * 5000)})
    with pytest.raises(UserError) as caught:
        open_checkpoint(str(copied))
    assert len(str(caught.value)) < 400 + len(str(copied))


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(dtype=HOSTILE), "has the dtype '<img"),
        (dict(dtype=["BF16"]), r"has the dtype \['BF16'\]"),
        (dict(shape=[HOSTILE]), r"has the shape \['<img"),
        (dict(shape=[-1, 2]), r"has the shape \[-1, 2\]"),
        (dict(shape=7), "has the shape 7"),  # it was gone through: 'int' object is not iterable
        (dict(shape=None), "has the shape None"),
        (dict(shape={"a": 1}), "has the shape {'a': 1}"),
        (dict(shape=[True, 2]), r"has the shape \[True, 2\]"),
    ],
)
def test_a_header_from_the_hub_is_checked_too(tmp_path, monkeypatch, wrong, says):
    """huggingface_hub passes on whatever stands in the file."""
    found = {"dtype": "BF16", "shape": [2, 2], **wrong}
    tensor = type("Tensor", (), found)
    metadata = type("Metadata", (), {"tensors": {"model.norm.weight": tensor}})
    monkeypatch.setattr("huggingface_hub.parse_safetensors_file_metadata", lambda *args, **kwargs: metadata)
    with pytest.raises(UserError, match=f"lab/model: the tensor 'model.norm.weight' {says}"):
        headers("lab/model", tmp_path, ["model.safetensors"])


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_of_the_format_can_be_named(tmp_path, dtype):
    """`check` says what a pair is made of, also where it cannot be exported."""
    bits = 4 * 64 * DTYPE_BITS[dtype]
    path = tmp_path / "model.safetensors"
    header = json.dumps({"w": dict(dtype=dtype, shape=[4, 64], data_offsets=[0, bits // 8])}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(bits // 8))
    [(name, info)] = read_header(path).items()
    assert (name, info) == ("w", TensorInfo((4, 64), dtype, "model.safetensors"))
    assert info.nbytes == bits / 8


@pytest.mark.parametrize("damage", ["not json", "longer than the file", "empty"])
def test_a_damaged_header_is_one_sentence(copied, damage):
    path = copied / "model.safetensors"
    contents = {
        "not json": struct.pack("<Q", 8) + b"x" * 99,
        "longer than the file": b"\xff" * 99,
        "empty": b"",
    }
    path.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"truncated or no safetensors file .*; download it again$"):
        open_checkpoint(str(copied))


# ---- reading


@pytest.mark.parametrize("dtype", [*DTYPES.values(), torch.int8])
@pytest.mark.parametrize(
    "shape, step", [((10, 6), 4), ((10, 6), 10), ((10, 6), 99), ((7,), 2), ((3, 2, 5), 2)]
)
def test_blocks_are_the_tensor_in_float32(tmp_path, dtype, shape, step):
    weights = {name: (torch.randn(shape) * 9).to(dtype) for name in ("a", "b")}
    checkpoint = checkpoint_of(tmp_path, weights)
    for name in ("b", "a"):
        blocks = [block.clone() for block in checkpoint.stream(name, step)]
        assert all(block.dtype == torch.float32 and len(block) <= step for block in blocks)
        assert torch.equal(torch.cat(blocks), weights[name].float())


def test_blocks_share_their_memory(tmp_path):
    """The rule that every reader has to know: memory is that of one block, so use it before the next one."""
    checkpoint = checkpoint_of(tmp_path, {"w": torch.arange(6.0).view(3, 2)})
    blocks = list(checkpoint.stream("w", 1))
    assert len({block.data_ptr() for block in blocks}) == 1
    assert [block.tolist() for block in blocks] == [[[4.0, 5.0]]] * 3


def test_a_file_that_shrank_after_it_was_opened_is_refused(tmp_path):
    checkpoint = checkpoint_of(tmp_path, {"w": torch.ones(1000, 8)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors is truncated; download it again"):
        list(checkpoint.stream("w", 100))


def test_offsets_are_where_the_tensors_lie(tmp_path):
    weights = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    data = (tmp_path / "model.safetensors").read_bytes()
    for name, start in tensor_offsets(tmp_path / "model.safetensors").items():
        stored = data[start : start + weights[name].nbytes]
        assert stored == weights[name].numpy().tobytes()


def test_rows_of_a_tensor_are_read_alone(folders):
    checkpoint = open_checkpoint(folders("qwen3")[0])
    whole = load_file(checkpoint.folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(checkpoint.tensor("model.embed_tokens.weight", slice(3, 9)), whole[3:9])
    assert torch.equal(dict(checkpoint.tensors())["model.embed_tokens.weight"], whole)


# ---- small files


@pytest.mark.parametrize("ids, expected", [(7, {7}), ([7, 9], {7, 9}), (None, set())])
def test_stop_tokens_are_those_of_the_generation_config_and_of_the_tokenizer(copied, ids, expected):
    (copied / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}), encoding="utf-8")
    checkpoint = open_checkpoint(str(copied))
    assert checkpoint.stop_token_ids == expected | {checkpoint.tokenizer.eos_token_id}


def test_a_template_that_opens_the_trace_is_recognised(folders):
    instruct, thinking = (open_checkpoint(folder) for folder in folders("qwen3"))
    assert (instruct.template_opens_think, thinking.template_opens_think) == (False, True)
    prompt = "Naïve ½?"
    assert instruct.tokenizer.decode(instruct.prompt_ids(prompt)) == instruct.render(prompt)
    assert prompt in instruct.render(prompt)


@pytest.mark.parametrize(
    "content",
    [
        '{"weight_map": ["a"]}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": null}}',
        '{"weight_map": {"a": ["b"]}}',
        '{"weight_map": {"a": "two\\nlines"}}',  # its name made two lines of the sentence
        '{"weight_map": {"a": "../other/model.safetensors"}}',
        '{"weight_map": {"a": "/dev/zero"}}',
        '{"weight_map": {"a": ""}}',
        "[" * 9000,  # a RecursionError
        '{"a":' * 9000,
        "null",
    ],
    ids=lambda content: content[:40],
)
def test_an_index_of_another_form(folders, tmp_path, content):
    folder = Path(shutil.copytree(folders("qwen3")[0], tmp_path / "it"))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="is not a readable index of shards; download it again"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    "values",
    [
        {
            "eos_token_id": "151645"
        },  # '<' not supported between instances of 'str' and 'int', after the loading
        {"eos_token_id": ["2"]},
        {"eos_token_id": [[2]]},
        {"eos_token_id": {"id": 2}},
        {"eos_token_id": 2.0},
        {"eos_token_id": True},
        {"__class__": 1},  # transformers sets every key as an attribute: the export failed at its end
        [],
        3,
    ],
    ids=str,
)
def test_a_generation_config_of_another_form(folders, tmp_path, values):
    folder = Path(shutil.copytree(folders("qwen3")[0], tmp_path / "it"))
    (folder / "generation_config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(
        UserError,
        match=r"has the eos_token_id .*; it must hold token ids|generation_config\.json cannot be used",
    ):
        open_checkpoint(str(folder))


def test_a_librarys_reason_is_cut(folders, tmp_path):
    """safetensors quotes whole values of a header: a sentence of thousands of characters."""
    folder = Path(shutil.copytree(folders("qwen3")[0], tmp_path / "it"))
    header = json.dumps({"x" * 9000: {"dtype": "F32", "shape": [1], "data_offsets": "z" * 9000}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="is truncated or no safetensors file") as refusal:
        open_checkpoint(str(folder))
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo] if hasattr(os, "mkfifo") else [Path.mkdir])
def test_weights_that_are_no_file_are_refused(tmp_path, make):
    """A pipe of that name was waited for, for ever."""
    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(UserError, match="a folder or a pipe, not a file"):
        open_safetensors(path)
