"""Damages files: bytes, text, trees of YAML and JSON, PNG chunks and pixels, pickles.

Every function takes the drawer first and returns the whole new file. Nothing here is made to harm:
what asks to run code asks for an empty folder, whose name is looked for afterwards.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import cv2
import numpy as np
import torch
import yaml

# A file that runs code makes this folder, in the working folder.
CANARY = "code_was_run"

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 255, 256, 1000, 65535, 65536, 2**24, 2**31, 2**63, -(2**63)),
    *(2**64, 10**30, 0.5, -0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", " ", "0", "1.5", "nan", "None", "True", "void", "..", "../../x", "/", "a\0b", "~", "$NO"),
    *("x" * 300, "\u202e\u0000", "自転車", "[1, 2]", "\ud800", "{}", "road", "car", "2001-99-99"),
    *([], [[]], [None], [0], [1, 2], [1, 2, 3], [0, 0, 256], ["car"], {}, {"a": 1}, {1: 2}),
]
Mutation = Callable[[Random, bytes], bytes]


def odd(draw: Random) -> Any:
    """Returns a value that seldom belongs where it is put."""
    return copy.deepcopy(draw.choice(ODD))


# Bytes


def changed_bytes(draw: Random, data: bytes) -> bytes:
    """Flips, overwrites, cuts, doubles or inserts a few bytes."""
    new = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 5, 20])):
        at = draw.randrange(len(new) + 1)
        end = min(len(new), at + draw.choice([1, 1, 2, 4, 8, 64]))
        how = draw.randrange(6)
        if how == 0 and at < len(new):
            new[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            new[at:end] = draw.randbytes(end - at)
        elif how == 2:
            del new[at:end]
        elif how == 3:
            new[at:at] = new[at:end]
        elif how == 4:
            new[at:end] = draw.choice([b"\0", b"\xff", b"\x7f"]) * (end - at)
        else:
            new[at:at] = draw.randbytes(end - at)
    return bytes(new)


def cut_or_foreign(draw: Random, data: bytes) -> bytes:
    """Cuts the file, empties it, or puts something else in its place."""
    how = draw.randrange(7)
    if how < 3:
        return data[: draw.randrange(len(data) + 1)]
    if how == 3:
        return b""
    if how == 4:
        return draw.randbytes(draw.choice([1, 24, 300]))
    if how == 5:
        return draw.choice([b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n"])
    return data + draw.randbytes(draw.choice([1, 24, 300]))


# Text

_INTO_TEXT = [
    *("\n", "\t", ":", "- ", "{", "}", "[", "]", ",", '"', "'", "#", "&a ", "*a", "!!int ", "|\n"),
    *("\0", "\ufeff", "---\n", "...\n", "<<: ", "? ", "!!timestamp ", "!!bool ", "!!float x", "%"),
    *("9" * 5000, "0x_", "1e999", "-", "NaN", "Infinity", "null", "~", "0b", "=", "!!set ", "''"),
    f"!!python/object/apply:os.mkdir [{CANARY}]",
    f"!!python/object/new:os.mkdir [{CANARY}]",
]


def changed_text(draw: Random, data: bytes) -> bytes:
    """Moves, doubles and drops lines and words; puts marks of YAML and JSON anywhere."""
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


# Nine lines that stand for nine to the ninth values.
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
    """Puts a trap of YAML in place of the file, before or behind what is there."""
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
    """Puts a trap of JSON in place of the file."""
    return draw.choice(_WHOLE_JSON).encode()


# Trees


def _places(tree: Any) -> list[tuple[Any, Any]]:
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
    """Replaces, drops, doubles, swaps, wraps or renames a few nodes of nested dicts and lists."""
    root = [copy.deepcopy(tree)]
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        places = _places(root)
        node, key = draw.choice(places)
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
            other = draw.choice(places)
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
    """Changes what a JSON file says."""
    return json.dumps(changed_tree(draw, json.loads(data)), default=str, skipkeys=True).encode()


def changed_json_line(draw: Random, data: bytes) -> bytes:
    """Changes what a line of a file of JSON lines says."""
    lines = data.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = changed_json(draw, lines[at])
    return b"\n".join(lines) + b"\n"


def changed_yaml(draw: Random, data: bytes) -> bytes:
    """Changes what a YAML file says."""
    tree = changed_tree(draw, yaml.safe_load(data))
    try:
        return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "replace")
    except (yaml.YAMLError, RecursionError):
        return json.dumps(tree, default=str, skipkeys=True).encode()


def changed_cells(draw: Random, data: bytes) -> bytes:
    """Changes cells, rows and the head of a CSV file."""
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


# PNG


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        parts += [
            struct.pack(">I", len(body)),
            kind,
            body,
            struct.pack(">I", zlib.crc32(kind + body)),
        ]
    return b"".join(parts)


_SMALL_CHUNKS = [
    *(b"tRNS", b"PLTE", b"gAMA", b"sBIT", b"acTL", b"fcTL", b"tEXt", b"xxxx", b"eXIf", b"iCCP")
]
_SIDES = [0, 1, 2, 3, 23, 24, 25, 39, 40, 41, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1]


def changed_chunks(draw: Random, data: bytes) -> bytes:
    """Changes the head or the order of a PNG file's chunks; all checksums are right."""
    chunks = _chunks(data)
    for _ in range(draw.choice([1, 1, 2])):
        how, at = draw.randrange(7), draw.randrange(max(1, len(chunks)))
        if not chunks:
            break
        kind, body = chunks[at]
        if how <= 2 and chunks[0][0] == b"IHDR" and len(chunks[0][1]) == 13:
            head = list(struct.unpack(">IIBBBBB", chunks[0][1]))
            field = draw.randrange(7)
            head[field] = draw.choice(_SIDES if field < 2 else [0, 1, 2, 3, 4, 6, 8, 16, 255])
            chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *head))
        elif how == 3:
            del chunks[at]
        elif how == 4:
            chunks.insert(draw.randrange(len(chunks) + 1), (kind, body))
        elif how == 5:
            size = draw.choice([0, 1, 3, 6, 256, 768])
            name = draw.choice(_SMALL_CHUNKS)
            chunks.insert(draw.choice([1, at]), (name, draw.randbytes(size)))
        elif kind == b"IDAT":
            pixels = changed_bytes(draw, _inflated(body))
            chunks[at] = (kind, zlib.compress(pixels))
    return _png(chunks)


def _inflated(body: bytes) -> bytes:
    try:
        return zlib.decompress(body)
    except zlib.error:
        return body


def changed_pixels(draw: Random, data: bytes) -> bytes:
    """Writes other numbers, of another size, depth or number of channels; the file is whole."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    rng = np.random.default_rng(draw.randrange(2**32))
    how = draw.randrange(7)
    if how == 0:
        array = rng.integers(0, 1 + np.iinfo(array.dtype).max, array.shape).astype(array.dtype)
    elif how == 1:
        top, left = rng.integers(0, array.shape[0]), rng.integers(0, array.shape[1])
        value = draw.choice([0, 1, 19, 33, 34, 200, 254, 255])
        array[top : top + 4, left : left + 4] = value
    elif how == 2:
        array = array[: draw.choice([1, 3, len(array)]), : draw.choice([1, 7])]
    elif how == 3:
        array = array.astype(np.uint16 if array.dtype == np.uint8 else np.uint8)
    elif how == 4:
        array = np.stack([array] * draw.choice([3, 4]), 2) if array.ndim == 2 else array[:, :, 0]
    elif how == 5:
        array = array.swapaxes(0, 1)
    else:
        array = np.full_like(array, draw.choice([0, 1, 5, 255]))
    name = draw.choice([".png"] * 6 + [".jpg", ".bmp", ".tiff", ".webp"])
    done, coded = cv2.imencode(name, np.ascontiguousarray(array))
    return coded.tobytes() if done else data


# Weights


class MakesAFolder:
    """A pickle of it makes the folder :data:`CANARY` when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (CANARY,)


_TENSORS: list[Callable[[], Any]] = [
    lambda: torch.zeros(0),
    lambda: torch.zeros(3, dtype=torch.complex64),
    lambda: torch.full((2, 2), float("nan")),
    lambda: torch.zeros(1, dtype=torch.int64),
    lambda: torch.zeros(2, 3, dtype=torch.bool),
    lambda: torch.eye(2).to_sparse(),
    lambda: torch.zeros(5, device="meta"),
    lambda: np.zeros(3),
]


def changed_weights(draw: Random, data: bytes, folder_maker: bool = True) -> bytes:
    """Changes what a file of ``torch.save`` holds; one in ten asks to run code."""
    tree = torch.load(io.BytesIO(data), weights_only=True)
    tree = _changed_state(draw, tree)
    if folder_maker and draw.random() < 0.1:
        node, key = draw.choice(_places(tree))
        node[key] = MakesAFolder()
    out = io.BytesIO()
    old = draw.random() < 0.2
    torch.save(tree, out, _use_new_zipfile_serialization=not old)
    return out.getvalue()


def _changed_state(draw: Random, tree: Any) -> Any:
    if isinstance(tree, dict) and "model" in tree and draw.random() < 0.5:
        model = tree["model"]
        name = draw.choice(list(model))
        how = draw.randrange(4)
        if how == 0:
            model[name] = draw.choice(_TENSORS)()
        elif how == 1:
            del model[name]
        elif how == 2:
            model[draw.choice([name + "x", "a.b", 3])] = model[name]
        else:
            model[name] = model[name].flatten()[:1] * draw.choice([1, float("inf")])
        return tree
    shallow = _without_tensors(tree)
    return _with_tensors(changed_tree(draw, shallow), _tensors(tree))


def _tensors(tree: Any) -> list[Any]:
    return [n[k] for n, k in _places([tree]) if not isinstance(n[k], (dict, list))]


class _Kept:
    """Stands for a value that is not copied."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: Any) -> _Kept:
        return self


def _without_tensors(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _without_tensors(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_without_tensors(v) for v in tree]
    return _Kept(tree) if isinstance(tree, torch.Tensor) else tree


def _with_tensors(tree: Any, kept: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _with_tensors(v, kept) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_with_tensors(v, kept) for v in tree]
    return tree.value if isinstance(tree, _Kept) else tree


def changed_pickle(draw: Random, data: bytes) -> bytes:
    """Changes what a pickle of arrays holds; one in five asks to run code."""
    tree = pickle.loads(data)
    node, key = draw.choice(_places(tree))
    how = draw.randrange(5)
    if how == 0:
        node[key] = MakesAFolder()
    elif how == 1:
        node[key] = odd(draw)
    elif how == 2:
        node[key] = draw.choice([np.array(["a"]), np.array([None]), np.zeros(2, complex), 3.5])
    elif how == 3:
        del node[key]
    else:
        node[key] = np.full((2, 3), np.nan, np.float32)
    return pickle.dumps(tree, protocol=draw.choice([0, 2, 4]))


def changed_safetensors(draw: Random, data: bytes) -> bytes:
    """Changes the head of a safetensors file, which is JSON behind its length."""
    length = struct.unpack("<Q", data[:8])[0]
    head = changed_tree(draw, json.loads(data[8 : 8 + length]))
    body = json.dumps(head, default=str, skipkeys=True).encode()
    size = draw.choice([len(body)] * 6 + [0, 1, 2**40, 2**63])
    return struct.pack("<Q", size) + body + data[8 + length :]


def changed_array(draw: Random, data: bytes) -> bytes:
    """Writes another array, or one of objects, whose pickle asks to run code."""
    out = io.BytesIO()
    array = draw.choice(
        [
            np.array([MakesAFolder()], dtype=object),
            np.zeros(0),
            np.zeros((2, 2, 2)),
            np.full((2, 19), -1),
            np.full((2, 19), np.nan),
            np.array("x"),
            np.zeros((2, 19), complex),
        ]
    )
    if data[:2] == b"PK":
        np.savez(out, **{draw.choice(["counts", "count", "a"]): array})
    else:
        np.save(out, array, allow_pickle=True)
    return out.getvalue()


BINARY: tuple[Mutation, ...] = (changed_bytes, cut_or_foreign)
TEXT: tuple[Mutation, ...] = (changed_bytes, cut_or_foreign, changed_text)
YAML = (*TEXT, changed_text, changed_yaml, changed_yaml, changed_yaml, other_yaml)
JSON = (*TEXT, changed_text, changed_json, changed_json, changed_json, changed_json, other_json)
JSON_LINES = (*TEXT, changed_json_line, changed_json_line)
CSV = (*TEXT, changed_cells, changed_cells)
PNG = (*BINARY, changed_chunks, changed_chunks, changed_pixels, changed_pixels)
PTH = (*BINARY, changed_weights, changed_weights)
PKL = (*BINARY, changed_pickle, changed_pickle)
SAFETENSORS = (*BINARY, changed_safetensors, changed_safetensors)
ARRAY = (*BINARY, changed_array)
