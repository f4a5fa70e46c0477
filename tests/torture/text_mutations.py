"""Damages text, YAML, JSON and CSV files."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from random import Random
from typing import Any

import yaml
from byte_mutations import CANARY, ODD, odd

_INTO_TEXT = [
    *("\n", "\t", ":", "- ", "{", "}", "[", "]", ",", '"', "'", "#", "&a ", "*a", "!!int ", "|\n"),
    *("\0", "\ufeff", "---\n", "...\n", "<<: ", "? ", "!!timestamp ", "!!bool ", "!!float x", "%"),
    *("9" * 5000, "0x_", "1e999", "-", "NaN", "Infinity", "null", "~", "0b", "=", "!!set ", "''"),
    f"!!python/object/apply:os.mkdir [{CANARY}]",
    f"!!python/object/new:os.mkdir [{CANARY}]",
]


def changed_text(draw: Random, data: bytes) -> bytes:
    """Moves, doubles and removes lines and words; inserts symbols of YAML and JSON anywhere."""
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(draw.choice([1, 1, 2, 4])):
        how, lines = draw.randrange(5), text.split("\n")
        at = draw.randrange(len(text) + 1)
        line, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        if how == 0:
            lines[line], lines[other] = lines[other], lines[line]
        elif how == 1:
            lines.insert(other, lines[line])
        elif how == 2:
            del lines[line]
        elif how == 3:
            lines[line] = draw.choice([" ", "  ", "\t"]) + lines[line]
        text = "\n".join(lines)
        if how == 4:
            text = text[:at] + draw.choice(_INTO_TEXT) + text[at + draw.choice([0, 0, 1, 5]) :]
    codings = ["utf-8"] * 12 + ["utf-16", "utf-8-sig", "latin-1"]
    return text.encode(draw.choice(codings), "replace")


# Nine lines that expand to nine to the ninth values.
_MANY_ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi")
)
_WHOLE_YAML = [
    _MANY_ALIASES,
    "&a {a: *a, _BASE_: *a, splits: *a}",
    "splits: &a [*a]\nclasses: *a",
    "[" * 3000,
    "{a: " * 3000,
    "- " * 3000 + "a",
    f"!!python/object/apply:os.mkdir [{CANARY}]",
    f"splits: !!python/object/apply:os.mkdir [{CANARY}]",
    "%YAML 9.9\n---\na: 1",
    "--- a\n--- b",
    "a: !!timestamp 2001-99-99",
    "2001-99-99",
    "? {a: 1}\n: 2",
    "!!binary abc",
]


def other_yaml(draw: Random, data: bytes) -> bytes:
    """Replaces the file by a trap of YAML, or puts one before or after its content."""
    trap = draw.choice(_WHOLE_YAML).encode()
    return draw.choice([trap, trap + b"\n" + data, data + b"\n" + trap])


_WHOLE_JSON = [
    "[" * 200_000,
    '{"a":' * 200_000,
    '{"annotations": [NaN], "categories": [Infinity], "splits": -Infinity}',
    '{"a": 1, "a": 2}',
    '"\\ud800"',
    "1" * 10_000,
    "\ufeff{}",
]


def other_json(draw: Random, data: bytes) -> bytes:
    """Replaces the file by a trap of JSON."""
    return draw.choice(_WHOLE_JSON).encode()


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Lists (container, key) of every node below the root."""
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], (dict, list)):
                todo.append(node[key])
    return found


def changed_tree(draw: Random, tree: Any) -> Any:
    """Replaces, removes, doubles, swaps, wraps or renames a few nodes of nested containers."""
    root = [copy.deepcopy(tree)]
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        found = places(root)
        node, key = draw.choice(found)
        how = draw.randrange(10)
        value = node[key]
        if how <= 3:
            node[key] = odd(draw)
        elif how == 4 and node is not root:
            del node[key]
        elif how == 5 and isinstance(node, list) and node is not root:
            node.insert(draw.randrange(len(node) + 1), copy.deepcopy(value))
        elif how == 5 and isinstance(node, dict):
            node[draw.choice([str(key) + "x", str(key).upper(), odd_key(draw)])] = value
        elif how == 6:
            other = draw.choice(found)
            node[key] = copy.deepcopy(other[0][other[1]])
        elif how == 7:
            node[key] = draw.choice([[value], {"a": value}, str(value), [value] * 3])
        elif how == 8 and isinstance(value, (int, float)):
            node[key] = draw.choice([-value, value + 1, value - 1, value * 1e6, float(value)])
        else:
            node[key] = _nested(draw.choice([3, 3, 3, 200]), value)
    return root[0]


def odd_key(draw: Random) -> Any:
    """Returns a value that can be a key."""
    return draw.choice([v for v in ODD if not isinstance(v, (list, dict))])


def _nested(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def changed_json(draw: Random, data: bytes) -> bytes:
    """Changes values of a JSON file."""
    return json.dumps(changed_tree(draw, json.loads(data)), default=str, skipkeys=True).encode()


def changed_json_line(draw: Random, data: bytes) -> bytes:
    """Changes values in a line of a file of JSON lines."""
    lines = data.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = changed_json(draw, lines[at])
    return b"\n".join(lines) + b"\n"


def changed_yaml(draw: Random, data: bytes) -> bytes:
    """Changes values of a YAML file."""
    tree = changed_tree(draw, yaml.safe_load(data))
    try:
        return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "replace")
    except (yaml.YAMLError, RecursionError):
        return json.dumps(tree, default=str, skipkeys=True).encode()


def changed_cells(draw: Random, data: bytes) -> bytes:
    """Changes cells, rows and the header of a CSV file."""
    rows = [line.split(",") for line in data.decode().split("\n")]
    for _ in range(draw.choice([1, 1, 3])):
        row = draw.choice(rows)
        how = draw.randrange(4)
        if how <= 1:
            row[draw.randrange(len(row))] = str(odd(draw)).encode("utf-8", "replace").decode()
        elif how == 2:
            row.append(str(draw.choice([1, "x", ""])))
        else:
            row.pop()
            row[:] = row or [""]
    return "\n".join(map(",".join, rows)).encode()
