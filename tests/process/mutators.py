"""Damage to files, by seeded rules: what disks, editors, scripts and half-done downloads make of them.

A rule takes the random numbers and the content, and returns the damaged content. What it draws depends on the
random numbers alone, so a seed names a mutation on every machine.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from process.safetensors_mutators import SAFETENSORS_RULES
from process.tree_mutators import (
    JSON_BYTE_RULES,
    TREE_RULES,
    YAML_BYTE_RULES,
    Draw,
    as_json,
)

# ---- any file


def empty(draw: Draw, content: bytes) -> bytes:
    return b""


def zero_filled(draw: Draw, content: bytes) -> bytes:
    """What a file system that lost power may leave of a file."""
    return bytes(len(content))


def truncated(draw: Draw, content: bytes) -> bytes:
    return content[: draw.randrange(max(1, len(content)))]


def head_lost(draw: Draw, content: bytes) -> bytes:
    return content[draw.randrange(max(1, len(content))) :]


def bytes_changed(draw: Draw, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 4, 64))):
        if changed:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def bytes_inserted(draw: Draw, content: bytes) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + draw.randbytes(draw.choice((1, 3, 50))) + content[at:]


def block_lost(draw: Draw, content: bytes) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + content[start + draw.randrange(1, 500) :]


def doubled(draw: Draw, content: bytes) -> bytes:
    return content + content


def noise(draw: Draw, content: bytes) -> bytes:
    return draw.randbytes(draw.choice((1, 8, 100, 5000)))


FILE_RULES = (
    empty,
    zero_filled,
    truncated,
    head_lost,
    bytes_changed,
    bytes_inserted,
    block_lost,
    doubled,
    noise,
)

# ---- text


def other_encoding(draw: Draw, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace") + draw.choice(("", "é", "你好", "\U0001f914"))
    return text.encode(draw.choice(("utf-16", "utf-8-sig", "utf-32", "cp1252", "utf-16-le")), "replace")


def other_line_ends(draw: Draw, content: bytes) -> bytes:
    return content.replace(b"\n", draw.choice((b"\r\n", b"\r", b"\x00\n", b"\xe2\x80\xa8")))


def word_changed(draw: Draw, content: bytes) -> bytes:
    words = content.split(b" ")
    words[draw.randrange(len(words))] = draw.choice((b"", b"{", b"}", b'"', b"\x00", b"\xff", b"None", b"-1"))
    return b" ".join(words)


TEXT_RULES = (other_encoding, other_line_ends, word_changed)

# ---- lines of JSON


def line_edited(draw: Draw, content: bytes) -> bytes:
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = as_json(draw.choice(TREE_RULES)(draw, json.loads(lines[at])))
    return b"\n".join(lines) + b"\n"


def every_line_edited(draw: Draw, content: bytes) -> bytes:
    """The same damage in every line: what a script that went wrong does."""
    lines = content.splitlines()
    rule, seed = draw.choice(TREE_RULES), draw.random()
    return b"".join(as_json(rule(Draw(seed), json.loads(line))) + b"\n" for line in lines)


def line_lost(draw: Draw, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return b"".join(lines)


def line_twice(draw: Draw, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return b"".join(lines)


def lines_shuffled(draw: Draw, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    draw.shuffle(lines)
    return b"".join(lines)


def odd_line(draw: Draw, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    odd = (b"\n", b"null\n", b"[]\n", b"1\n", b'"x"\n', b"{}\n", b"{\n", b"\xff\xfe\n", b"\x00" * 50 + b"\n")
    more = (
        b"[" * 100_000 + b"\n",
        b"1" * 5000 + b"\n",
        b"{}",
        b'{"phase":',
        b"NaN\n",
        b'{"a":' * 100_000 + b"\n",
    )
    lines.insert(draw.randrange(len(lines) + 1), draw.choice((*odd, *more)))
    return b"".join(lines)


LINE_RULES = (line_edited, line_edited, every_line_edited, line_lost, line_twice, lines_shuffled, odd_line)

# ---- chat templates


def template_piece(draw: Draw, content: bytes) -> bytes:
    pieces = (
        *(b"{{ raise_exception('no') }}", b"{{ nothing.at.all }}", b"{{ 1 / 0 }}", b"{% if %}", b"{{", b"{#"),
        *(b"{% for i in range(99999999) %}x{% endfor %}", b"{{ messages[7].content }}", b"{{ 'x' * 10**9 }}"),
        *(b"{{ messages | nofilter }}", b"{% include 'x' %}", b"{{ ''.__class__ }}", b"<think>", b"</think>"),
        *(
            b"{% generation %}",
            b"{% endgeneration %}",
            b"{% set messages = [] %}",
            b"\xff",
            b"<|im_end|>",
            b"!",
        ),
        *(b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", b"{{ messages }}", b"{{ 10 ** 99999999 }}"),
    )
    at = draw.randrange(len(content) + 1)
    return content[:at] + draw.choice(pieces) + content[at:]


def without_statements(draw: Draw, content: bytes) -> bytes:
    parts = content.split(b"{%")
    del parts[draw.randrange(len(parts))]
    return b"{%".join(parts)


def without_content(draw: Draw, content: bytes) -> bytes:
    word = draw.choice((b"content", b"role", b"messages", b"add_generation_prompt", b"assistant", b"<think>"))
    return content.replace(word, draw.choice((b"", b"x", b"role")))


TEMPLATE_RULES = (template_piece, template_piece, without_statements, without_content)

# ---- paths


def gone(draw: Draw, path: Path) -> None:
    path.unlink()


def a_folder(draw: Draw, path: Path) -> None:
    path.unlink()
    path.mkdir()
    if draw.random() < 0.5:
        (path / "x").write_text("x", encoding="utf-8")


def link_to_itself(draw: Draw, path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def link_to_nothing(draw: Draw, path: Path) -> None:
    path.unlink()
    path.symlink_to("not-here")


def unreadable(draw: Draw, path: Path) -> None:
    """Does nothing for root, who may read everything."""
    path.chmod(0)


def a_neighbour(draw: Draw, path: Path) -> None:
    """The content of another file of its folder: downloaded or saved under the wrong name."""
    others = sorted(one for one in path.parent.iterdir() if one.is_file() and one != path)
    path.write_bytes(draw.choice(others).read_bytes() if others else b"")


def a_pipe(draw: Draw, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


PATH_RULES = (gone, a_folder, link_to_itself, link_to_nothing, unreadable, a_neighbour, a_pipe)


# ---- by kind of content


def tree_rule(rule: Callable[[Draw, Any], Any], read: Callable, write: Callable) -> Callable:
    def edit(draw: Draw, content: bytes) -> bytes:
        return write(rule(draw, read(content)))

    edit.__name__ = rule.__name__
    return edit


def as_yaml(tree: Any) -> bytes:
    try:
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError, RecursionError):
        return b"{"


JSON_RULES = (*(tree_rule(rule, json.loads, as_json) for rule in TREE_RULES), *JSON_BYTE_RULES)
YAML_RULES = (*(tree_rule(rule, yaml.safe_load, as_yaml) for rule in TREE_RULES), *YAML_BYTE_RULES)
RULES_OF: dict[str, tuple[Callable, ...]] = {
    ".json": (*JSON_RULES, *TEXT_RULES),
    ".yaml": (*YAML_RULES, *TEXT_RULES),
    ".jsonl": (*LINE_RULES, *TEXT_RULES),
    ".jinja": (*TEMPLATE_RULES, *TEXT_RULES),
    ".safetensors": SAFETENSORS_RULES,
}


def mutate(draw: Draw, path: Path) -> str:
    """Damage a file by a rule; returns the rule's name. Half of them know what the file holds."""
    if draw.random() < 0.12:
        rule = draw.choice(PATH_RULES)
        rule(draw, path)
        return rule.__name__
    informed = RULES_OF[path.suffix]
    rule = draw.choice(draw.choice((FILE_RULES, informed, informed, informed)))
    path.write_bytes(rule(draw, path.read_bytes()))
    return rule.__name__
