"""Damage to what JSON and YAML say: values of another type, keys that are gone, trees that are too deep."""

import contextlib
import json
import random
from collections.abc import Callable
from typing import Any

Draw = random.Random
BIG_TEXT = 4096
DEPTHS = (30, 3000, 200_000)


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
