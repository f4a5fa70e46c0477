"""Damages bytes of files, and supplies values that are rarely valid."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

# A file whose code is executed makes this folder in the working folder.
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
    """Returns a value that is rarely valid at its place."""
    return copy.deepcopy(draw.choice(ODD))


def changed_bytes(draw: Random, data: bytes) -> bytes:
    """Flips, overwrites, removes, doubles or inserts a few bytes."""
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
    """Truncates or empties the file, or replaces its content."""
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
