"""Damage to files, by seeded rules: what disks, editors, scripts and half-done downloads make of them.

A rule takes the random numbers and the content, and returns the damaged content. What it draws depends on the
random numbers alone, so a seed names a mutation on every machine.
"""

import contextlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Draw = random.Random
BIG_TEXT = 4096
DEPTHS = (30, 3000, 200_000)

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

# ---- trees: JSON and YAML


def leaf(draw: Draw) -> Any:
    """A value of another type or size than is expected."""
    values: tuple = (
        *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**25, -(10**25), 0.5, -0.0, 1e308, 1e-308),
        *(float("nan"), float("inf"), float("-inf"), "", " ", "0", "x", "nan", "../..", "/dev/null", "\x00"),
        *("é" * BIG_TEXT, "{x}", "{0}", "%s", "\ud800", "<think>", "<|im_end|>", "\u2028", "\n", "auto"),
        *([], {}, [None], [[]], {"": None}, [1, 2, 3], ["a", "b"], {"a": {"b": {}}}, [0.0] * 1000),
    )
    return draw.choice(values)


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a tree."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            waiting.append(node[key])
    return found


def some_node(draw: Draw, tree: Any) -> tuple[Any, Any] | None:
    """Near the root more often: a vocabulary has thousands of leaves, and settings stand above them."""
    found = nodes(tree)
    top = [(tree, key) for key in tree] if isinstance(tree, dict) else []
    return draw.choice(draw.choice((top or found, found[:200] or found, found))) if found else None


def edit_node(change: Callable[[Draw, Any, Any], None]) -> Callable[[Draw, Any], Any]:
    def edit(draw: Draw, tree: Any) -> Any:
        place = some_node(draw, tree)
        if place:
            change(draw, *place)
        return tree

    edit.__name__ = change.__name__
    return edit


@edit_node
def dropped(draw: Draw, container: Any, key: Any) -> None:
    del container[key]


@edit_node
def retyped(draw: Draw, container: Any, key: Any) -> None:
    container[key] = leaf(draw)


@edit_node
def wrapped(draw: Draw, container: Any, key: Any) -> None:
    value = container[key]
    container[key] = draw.choice(([value], {"value": value}, str(value), [value, value]))


@edit_node
def another_number(draw: Draw, container: Any, key: Any) -> None:
    value = container[key]
    if isinstance(value, (int, float)):
        container[key] = draw.choice((-value, value + 1, value * 2, value * 10**6, value / 3, 0, str(value)))
    else:
        container[key] = draw.choice((0, -1, 7))


@edit_node
def renamed(draw: Draw, container: Any, key: Any) -> None:
    if isinstance(container, dict):
        container[draw.choice((f"{key}_", str(key).upper(), "", "x", "__class__"))] = container.pop(key)
    else:
        container.append(container.pop(key))


@edit_node
def nested(draw: Draw, container: Any, key: Any) -> None:
    value: Any = container[key]
    for _ in range(draw.choice(DEPTHS[:1])):
        value = draw.choice(([value], {"a": value}))
    container[key] = value


def swapped(draw: Draw, tree: Any) -> Any:
    one, other = some_node(draw, tree), some_node(draw, tree)
    if one and other:
        with contextlib.suppress(LookupError, TypeError):  # one may hold the other
            one[0][one[1]], other[0][other[1]] = other[0][other[1]], one[0][one[1]]
            json.dumps(tree)
    return tree


def another_root(draw: Draw, tree: Any) -> Any:
    return draw.choice(([tree], {"data": tree}, [], {}, leaf(draw), json.dumps(str(tree))[:1000]))


TREE_RULES = (dropped, retyped, wrapped, another_number, renamed, nested, swapped, another_root)


def as_json(tree: Any) -> bytes:
    try:
        return json.dumps(tree, ensure_ascii=True).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # a tree that holds itself, by `swapped`
        return b"{"


def too_deep(draw: Draw, content: bytes) -> bytes:
    depth = draw.choice(DEPTHS)
    return draw.choice((b'{"a":' * depth, b"[" * depth, b"[" * depth + b"]" * depth))


def key_twice(draw: Draw, content: bytes) -> bytes:
    keys = list(json.loads(content)) or ["a"]
    first = json.dumps(str(draw.choice(keys))) + ":" + json.dumps(draw.choice((None, 1, "x", [], {}))) + ","
    return content.replace(b"{", b"{" + first.encode(), 1)


JSON_BYTE_RULES = (too_deep, key_twice)


def yaml_bomb(draw: Draw, content: bytes) -> bytes:
    """Nine lines that stand for billions of values, under unknown settings or a known one."""
    lines = [b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)]
    known = draw.choice((b"name: *a11", b"t: *a11", b"schedule: *a11", b"think_tags: *a11", b"a12: *a11"))
    return b"\n".join([b"a0: &a0 [x, x, x, x, x, x, x, x, x]", *lines, known, content])


def yaml_line(draw: Draw, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    at = draw.randrange(len(lines) + 1)
    new = draw.choice(
        (
            *(
                b"\tx: 1\n",
                b"x: !!python/object/apply:os.getcwd []\n",
                b"? [a]\n: b\n",
                b"<<: *x\n",
                b"- x\n",
            ),
            *(
                b"---\n",
                b"...\n",
                b"%YAML 9.9\n",
                b"name: 2001-99-99\n",
                b"seed: 0o17\n",
                b"t: 1_0\n",
                b"'\n",
            ),
            *(b"rounds: .inf\n", b"1: 2\n", b"null: 1\n", b"&a x: *a\n", b"x: [" + b"[" * 2000 + b"\n"),
            *(b"&r [*r]: 1\n", b"depth: &r [*r]\n", b"name: &r [*r]\n", b"=: 1\n", b"? {}\n", b"t: 0x_\n"),
        )
    )
    return b"".join([*lines[:at], new, *lines[at:]])


YAML_BYTE_RULES = (yaml_bomb, yaml_line)

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

# ---- safetensors


def parts_of(content: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def safetensors_of(header: Any, body: bytes) -> bytes:
    text = as_json(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def header_edited(draw: Draw, content: bytes) -> bytes:
    header, body = parts_of(content)
    return safetensors_of(draw.choice(TREE_RULES)(draw, header), body)


def header_length(draw: Draw, content: bytes) -> bytes:
    lengths = (0, 1, 7, 2**20, 2**31, 2**63, 2**64 - 1, len(content), len(content) - 8)
    return draw.choice(lengths).to_bytes(8, "little") + content[8:]


def another_dtype(draw: Draw, content: bytes) -> bytes:
    header, body = parts_of(content)
    names = [name for name in header if name != "__metadata__"]
    wanted = draw.choice(("F16", "BF16", "F32", "I32", "U32", "I64", "U8", "BOOL", "F8_E4M3", "F64", "f32"))
    for name in draw.choice(([draw.choice(names)], names)):
        header[name]["dtype"] = wanted
    return safetensors_of(header, body)


def another_shape(draw: Draw, content: bytes) -> bytes:
    """Shapes whose bytes still add up, and shapes whose bytes do not."""
    header, body = parts_of(content)
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    shape = entry["shape"]
    count = 1
    for size in shape:
        count *= size
    shapes = (shape[::-1], [*shape, 1], [1, *shape], [count], [], [0], [-1], [2**40, 2**40], [count, 0])
    entry["shape"] = draw.choice(shapes)
    return safetensors_of(header, body)


def tensor_renamed(draw: Draw, content: bytes) -> bytes:
    header, body = parts_of(content)
    name = draw.choice([name for name in header if name != "__metadata__"])
    new = draw.choice(
        (f"{name}_", f"x.{name}", name.replace("layers.0", "layers.9"), "", "lm_head.weight", "\x00")
    )
    header[new] = header.pop(name)
    return safetensors_of(header, body)


def tensor_lost(draw: Draw, content: bytes) -> bytes:
    """The tensor and its bytes are gone, and all others are in order."""
    header, body = parts_of(content)
    name = draw.choice([name for name in header if name != "__metadata__"])
    start, end = header.pop(name)["data_offsets"]
    for key, entry in header.items():
        if key != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - start) for offset in entry["data_offsets"]]
    return safetensors_of(header, body[:start] + body[end:])


def tensor_added(draw: Draw, content: bytes) -> bytes:
    header, body = parts_of(content)
    name = draw.choice(
        ("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "x", "model.visual.a")
    )
    size = draw.choice((0, 4, 64))
    header[name] = {"dtype": "F32", "shape": [size], "data_offsets": [len(body), len(body) + 4 * size]}
    return safetensors_of(header, body + bytes(4 * size))


def offsets_moved(draw: Draw, content: bytes) -> bytes:
    header, body = parts_of(content)
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    start, end = entry["data_offsets"]
    moved = (
        [start + 4, end + 4],
        [end, start],
        [-4, end],
        [start, end + 2**40],
        [start, start],
        [0, end - start],
    )
    entry["data_offsets"] = draw.choice(moved)
    return safetensors_of(header, body)


def values_damaged(draw: Draw, content: bytes) -> bytes:
    """NaN, infinity, zeros or noise in the weights themselves."""
    header, body = parts_of(content)
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    start, end = entry["data_offsets"]
    pattern = draw.choice(
        (b"\xff\xff", b"\x80\x7f", b"\x00\x7c", b"\x00\x00", b"\xff\x7e", draw.randbytes(2))
    )
    end = min(end, start + draw.choice((4, 2**10, 2**30)) // 4 * 4)
    filled = (pattern * ((end - start) // 2 + 1))[: end - start]
    return safetensors_of(header, body[:start] + filled + body[end:])


SAFETENSORS_RULES = (
    header_edited,
    header_edited,
    header_length,
    another_dtype,
    another_shape,
    tensor_renamed,
    tensor_lost,
    tensor_added,
    offsets_moved,
    values_damaged,
    values_damaged,
)

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
