"""Reads ``.pkl`` files of Detectron2's and Caffe2's model zoos without executing code.

A pickle can call any function that it names. Here it can only name the few classes that arrays are
written with, and even these are replacements of NumPy's: NumPy would let an array of a forged type
read memory outside its data.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

_NUMBER = re.compile("[biuf][1248]")


class _DType:
    """Replaces ``numpy.dtype``; only numbers of 1 to 8 bytes are allowed."""

    def __init__(self, name: str, *_: Any) -> None:
        if not (isinstance(name, str) and _NUMBER.fullmatch(name)):
            raise pickle.UnpicklingError(f"an array of type {name!r}, expected numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Replaces ``numpy.ndarray`` while the file is read."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        # Python 2 wrote byte strings, which are read as Latin-1 text.
        data = data.encode("latin1") if isinstance(data, str) else data
        self.array = _from_buffer(data, dtype, shape, "F" if is_fortran else "C")


def _from_buffer(data: bytes, dtype: _DType, shape: tuple[int, ...], order: Any) -> np.ndarray:
    if not (isinstance(data, (bytes, bytearray)) and isinstance(dtype, _DType)):
        raise pickle.UnpicklingError(f"an array made of a {type(data).__name__}, expected bytes")
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)):
        raise pickle.UnpicklingError(f"an array of shape {shape!r}")
    array = np.frombuffer(bytes(data), dtype.dtype).reshape(shape, order=order)
    # PyTorch accepts numbers in the machine's byte order only.
    return array.astype(dtype.dtype.newbyteorder("="))


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes written as {encoding!r}, expected latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_KNOWN: dict[str, Any] = {
    "__builtin__.bytes": _no_bytes,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray._reconstruct"] = _reconstruct
    _KNOWN[f"{_core}.numeric._frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _KNOWN:
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}")
        return _KNOWN[f"{module}.{name}"]


def read_zoo_pickle(path: str | Path) -> dict[str, Any]:
    """Reads a file of weights.

    Args:
        path: a pickle of arrays by name, alone, under ``"blobs"`` (Caffe2) or under ``"model"``
            (Detectron2).

    Returns:
        The entries that Detectron2's checkpointer expects: ``model`` (arrays by name),
        ``__author__`` and ``matching_heuristics``.

    Raises:
        pickle.UnpicklingError: the file names code, or holds something else than arrays and plain
            Python; damaged files raise this and other errors of Python.
    """
    with open(path, "rb") as file:
        found = _Unpickler(file, encoding="latin1").load()
    if not isinstance(found, dict):
        raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, expected a dictionary")
    if "model" in found and "__author__" in found:
        return found | {"model": _with_arrays(found["model"])}
    weights = _with_arrays(found.get("blobs", found))
    weights = {k: v for k, v in weights.items() if not k.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _with_arrays(weights: dict[str, Any]) -> dict[str, Any]:
    return {k: v.array if isinstance(v, _Array) else v for k, v in weights.items()}
