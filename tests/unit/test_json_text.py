"""JSON that people bring: all that can be wrong with it is one kind of error."""

import os
from pathlib import Path

import pytest

from thinkswitch import json_text
from thinkswitch.errors import quote

DEEP = 100_000


@pytest.mark.parametrize(
    "text",
    [
        "[" * DEEP,
        '{"a":' * DEEP,
        "[" * DEEP + "]" * DEEP,
        "",
        "{",
        "nonsense",
        "1" * 5000,  # Python refuses to read so long a number
        b"\xff\xfe{}",
        b"\x00" * 40,
        "{}".encode("utf-16"),
    ],
    ids=lambda text: repr(text[:8]),
)
def test_whatever_is_wrong_is_a_value_error(text, tmp_path):
    """Thousands of brackets are a RecursionError: past all who expect a damaged file, it was a traceback."""
    with pytest.raises(ValueError):
        json_text.parse(text)
    (tmp_path / "x.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError):
        json_text.read(tmp_path / "x.json")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo] if hasattr(os, "mkfifo") else [Path.mkdir])
def test_a_folder_or_a_pipe_with_the_name_of_a_file_is_an_os_error(make, tmp_path):
    """The fuzzer's find: opening a pipe for an adapter's config waited for ever."""
    make(tmp_path / "x.json")
    with pytest.raises(OSError, match="not a file"):
        json_text.read(tmp_path / "x.json")


@pytest.mark.parametrize(
    "text, value", [("{}", {}), (b'{"a": "\xc3\xa9"}', {"a": "é"}), ("[1, null]", [1, None])]
)
def test_values(text, value):
    assert json_text.parse(text) == value


def bomb(levels: int = 40):
    value: list = ["x"] * 9
    for _ in range(levels):
        value = [value] * 9
    return value


def ring() -> list:
    value: list = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value, shown",
    [
        ("a", "'a'"),
        (None, "None"),
        ("x" * 5000, None),
        (10**400, None),
        ([[0.0] * 1000] * 1000, None),
        (bomb(), None),
        (ring(), None),
        ({"k" * 500: "v" * 500}, None),
    ],
    ids=["text", "none", "long", "huge", "many", "bomb", "ring", "mapping"],
)
def test_a_value_of_any_size_fits_into_a_sentence(value, shown):
    """Nine lines of YAML stand for 9**40 values, and the sentence that refused them wrote out each."""
    assert len(quote(value)) <= 60 and quote(value) == (shown or quote(value))
