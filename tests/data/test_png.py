"""PNG files by libspng: the pixels of OpenCV, and one-line errors."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gbw_d2.class_tables import colors_of_ids
from gbw_d2.data.formats import png
from gbw_d2.data.formats.files import read_array, read_ids, read_image
from gbw_d2.data.spec import DatasetError

RNG = np.random.default_rng(0)
PICTURES = {
    "grey": RNG.integers(0, 256, (5, 7), dtype=np.uint8),
    "colours": RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8),
    "transparent": RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8),
    "16 bit grey": RNG.integers(0, 65536, (5, 7), dtype=np.uint16),
    "16 bit colours": RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16),
}
PLAIN = {"grey": png.GREY, "colours": png.RGB}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_pixels_are_those_of_opencv(tmp_path: Path, kind: str, order: str) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), PICTURES[kind])
    assert png.plain_format(path.read_bytes()) == PLAIN.get(kind)
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read_array(path, cv2.IMREAD_UNCHANGED), stored)
    shown = cv2.imread(str(path), cv2.IMREAD_COLOR)
    expected = shown if order == "BGR" else shown[:, :, ::-1]
    np.testing.assert_array_equal(read_image(path, order), expected)


def test_a_colour_declared_transparent_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PICTURES["colours"]).save(path, transparency=(1, 2, 3))
    assert png.plain_format(path.read_bytes()) is None
    np.testing.assert_array_equal(read_image(path, "RGB"), PICTURES["colours"])


def test_ids_of_three_bytes(tmp_path: Path) -> None:
    ids = RNG.integers(0, 1 << 24, (5, 7), dtype=np.int32)
    ids[0, :2] = 0, (1 << 24) - 1
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), colors_of_ids(ids))
    found = read_ids(path)
    assert found.dtype == np.int32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, ids)


def test_ids_of_a_palette_are_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture = Image.fromarray(PICTURES["grey"] % 3).convert("P")
    picture.putpalette([1, 2, 3, 4, 5, 6, 7, 8, 9])
    picture.save(path)
    values = np.array([1 + 2 * 256 + 3 * 65536, 4 + 5 * 256 + 6 * 65536, 7 + 8 * 256 + 9 * 65536])
    np.testing.assert_array_equal(read_ids(path), values[np.asarray(picture)])


@pytest.mark.parametrize("kind", ["grey", "16 bit colours"])
def test_ids_need_three_channels_of_eight_bits(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), PICTURES[kind])
    with pytest.raises(DatasetError, match=r"a\.png' is not an 8-bit RGB PNG file; make it anew"):
        read_ids(path, "make it anew")


@pytest.mark.parametrize("read", [read_ids, lambda path: read_image(path, "RGB")])
def test_a_damaged_file_is_named(tmp_path: Path, read: object) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), PICTURES["colours"])
    data = bytearray(path.read_bytes())
    data[data.find(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.png' cannot be decoded"):
        read(path)


def test_a_head_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((4096, 4096), np.uint8))  # as small as such a file can be
    data = path.read_bytes()
    assert read_array(path, cv2.IMREAD_UNCHANGED).shape == (4096, 4096)
    head = struct.pack(">II", 4096 * 64, 4096) + data[24:29]
    check = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    path.write_bytes(data[:16] + head + check + data[33:])
    with pytest.raises(DatasetError, match=r"a\.png' .* promises more pixels than it holds"):
        read_array(path, cv2.IMREAD_UNCHANGED)
