"""Damages weights and other pickles; some contain code, which would make an empty folder."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch
from byte_mutations import CANARY, odd
from text_mutations import changed_tree, places


class MakesAFolder:
    """An object whose pickle makes the folder :data:`CANARY` when it is read."""

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
    """Changes the content of a file of ``torch.save``; one in ten contains code."""
    tree = torch.load(io.BytesIO(data), weights_only=True)
    tree = _changed_state(draw, tree)
    if folder_maker and draw.random() < 0.1:
        node, key = draw.choice(places(tree))
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
    return [n[k] for n, k in places([tree]) if not isinstance(n[k], (dict, list))]


class _Kept:
    """A placeholder for a value that is not copied."""

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
    """Changes the content of a pickle of arrays; one in five contains code."""
    tree = pickle.loads(data)
    node, key = draw.choice(places(tree))
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
    """Changes the header of a safetensors file, which is JSON after its length."""
    length = struct.unpack("<Q", data[:8])[0]
    head = changed_tree(draw, json.loads(data[8 : 8 + length]))
    body = json.dumps(head, default=str, skipkeys=True).encode()
    size = draw.choice([len(body)] * 6 + [0, 1, 2**40, 2**63])
    return struct.pack("<Q", size) + body + data[8 + length :]


def changed_array(draw: Random, data: bytes) -> bytes:
    """Writes another array, or one of objects, whose pickle contains code."""
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
