"""Damages chunks and pixels of PNG files."""

from __future__ import annotations

import struct
import zlib
from random import Random

import cv2
import numpy as np
from byte_mutations import changed_bytes


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
    """Changes the header or the order of a PNG file's chunks; all checksums are valid."""
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
    """Writes a valid file with other values, or another size, depth or number of channels."""
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
