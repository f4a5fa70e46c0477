"""PNG files of eight bits, grey or RGB, by libspng: in about half of OpenCV's time.

What is rarer (palettes, transparency, 16 bits) stays OpenCV's and Pillow's to read.
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
    """Returns the bits per channel of a PNG file; None of any other."""
    return data[24] if data.startswith(SIGNATURE) and len(data) > 24 else None


def promises_too_much(data: bytes) -> bool:
    """True of a PNG file whose head says that it has more pixels than the whole file can hold.

    Deflate makes 1032 bytes of one at the most; a damaged head must not ask for all memory.
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
    """Decodes a file of a :func:`plain_format`.

    Args:
        data: all of the file.
        pixels: :data:`GREY` of grey files; :data:`RGB` or :data:`RGBA` of those of colours.

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
    """Decodes COCO's coding of ids in an RGB file, red + 256 green + 65536 blue: (H, W) int32."""
    # Red, green, blue and alpha are the four bytes of a little-endian number.
    words = decode(data, RGBA).view("<i4")[:, :, 0]
    return np.bitwise_and(words, 0xFFFFFF, out=words)
