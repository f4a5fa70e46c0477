"""Images are rotated by their EXIF orientation, labels never; lossy label formats are refused."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from gbw_d2.data.formats import files
from gbw_d2.data.spec import DatasetError
from gbw_d2.inference.inputs import read_photo


def picture(rows: int = 24, columns: int = 40) -> np.ndarray:
    smooth = np.linspace(0, 255, rows * columns).reshape(rows, columns)
    return np.stack([smooth, smooth[::-1], smooth[:, ::-1]], axis=2).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_orientation_is_that_of_pillow(tmp_path: Path, orientation: int, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture()).save(path, exif=exif, quality=100)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    for found in (files.read_image(path, "RGB"), read_photo(path)):
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 2
    assert files.image_size(path) == expected.shape[:2]


def test_a_png_is_taken_as_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(files.read_image(tmp_path / "a.png", "RGB"), picture())
    assert np.array_equal(read_photo(tmp_path / "a.png"), picture())
    assert files.image_size(tmp_path / "a.png") == (24, 40)


def test_a_size_mismatch_names_exif() -> None:
    with pytest.raises(DatasetError, match="EXIF orientation"):
        files.check_size(np.zeros((4, 6)), 6, 4, "label.png")
    with pytest.raises(DatasetError, match=r"has 4x6 .* has 7x4$"):
        files.check_size(np.zeros((4, 6)), 7, 4, "label.png")


@pytest.mark.parametrize(
    ("kind", "words"), [("JPEG", "a JPEG file"), ("GIF", "a GIF file"), ("WEBP", "a lossy WebP")]
)
def test_labels_of_formats_that_change_them(tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "label.png"
    image = Image.fromarray(picture()[..., 0])
    (image.convert("RGB") if kind == "WEBP" else image).save(path, format=kind)
    for read in (files.read_indices, lambda p: files.read_array(p, cv2.IMREAD_UNCHANGED)):
        with pytest.raises(DatasetError, match=f"label.png' is {words}.*again as PNG"):
            read(path)


def test_twelve_bits_in_sixteen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dark = picture().astype(np.uint16) * 16
    with caplog.at_level(logging.WARNING, "gbw_d2"):
        cv2.imwrite(str(tmp_path / "full.png"), dark * 16)
        files.read_image(tmp_path / "full.png", "RGB")
        assert not caplog.records
        for name in ("a.png", "b.png"):
            cv2.imwrite(str(tmp_path / name), dark)
            files.read_image(tmp_path / name, "RGB")
    assert len(caplog.records) == 1
    assert "multiply them by 16" in caplog.text
