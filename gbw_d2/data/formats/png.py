"""Decodes PNG files of eight bits, grey or RGB, by libspng, in about half of OpenCV's time.

Rarer formats (palettes, transparency, 16 bits) are read by OpenCV and Pillow.
"""

from __future__ import annotations

import struct

import numpy as np
import pyspng

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY = "L"
RGB = "RGB"
RGBA = "RGBA"
# Channels of each colour type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Bit depth and colour type, bytes 24 and 25 of a file.
_PLAIN = {b"\x08\x00": GREY, b"\x08\x02": RGB}


class PNGError(ValueError):
    """A file that libspng cannot decode."""


def bit_depth(data: bytes) -> int | None:
    """Returns the bits per channel of a PNG file, or None for other files."""
    return data[24] if data.startswith(SIGNATURE) and len(data) > 24 else None


def promises_too_much(data: bytes) -> bool:
    """Whether a PNG file's header claims more pixels than the file can hold.

    Deflate expands one byte to at most 1032; a damaged header must not lead to a huge allocation.
    """
    if not data.startswith(SIGNATURE) or len(data) < 26:
        return False
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    return height * (width * depth * _CHANNELS.get(kind, 1) // 8) > 1032 * len(data)


def plain_format(data: bytes) -> str | None:
    """Returns :data:`GREY` or :data:`RGB` for PNG of 8 bits without transparency, else None."""
    if not data.startswith(SIGNATURE) or b"tRNS" in data[: data.find(b"IDAT")]:
        return None
    return _PLAIN.get(data[24:26])


def decode(data: bytes, pixels: str) -> np.ndarray:
    """Decodes a file in a :func:`plain_format`.

    Args:
        data: the whole file.
        pixels: :data:`GREY` for grey files; :data:`RGB` or :data:`RGBA` for colour files.

    Returns:
        (H, W), (H, W, 3) or (H, W, 4) uint8.

    Raises:
        PNGError: the file is damaged.
    """
    try:
        array = pyspng.load(data, format=pixels)
    except RuntimeError as error:
        raise PNGError(str(error)) from error
    return array[:, :, 0] if pixels == GREY and array.ndim == 3 else array


def decode_ids(data: bytes) -> np.ndarray:
    """Decodes ids (H, W) int32 in COCO's coding of an RGB file, red + 256 green + 65536 blue."""
    # Red, green, blue and alpha are the four bytes of a little-endian number.
    words = decode(data, RGBA).view("<i4")[:, :, 0]
    return np.bitwise_and(words, 0xFFFFFF, out=words)
