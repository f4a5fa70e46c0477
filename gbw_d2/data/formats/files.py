"""Reads image and label files and lists folders, with errors that name the file."""

from __future__ import annotations

import io
import logging
import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from gbw_d2 import keys
from gbw_d2.class_tables import ids_of_colors
from gbw_d2.data.formats import png
from gbw_d2.data.spec import DatasetError, Record
from gbw_d2.errors import UserError

# The record entry of the label file. Class statistics depend on every file named in a record.
LABEL_FILE = "label_file_name"

# First bytes of formats with lossy compression or a palette, which cannot hold labels.
_LOSSY = {b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF"}
_EXIF_ORIENTATION = 0x0112
# Maximum of 12-bit values in a 16-bit file after conversion to 8 bits.
_DARK = 16

logger = logging.getLogger(__name__)


def is_clutter(name: str) -> bool:
    """Whether a name is that of a hidden file, a thumbnail or a notebook's checkpoint."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def list_names(folder: Path, suffix: str, hint: str) -> list[str]:
    """Lists the names in ``folder`` that end with ``suffix``, sorted.

    Args:
        folder: the folder to list.
        suffix: for example ``".png"``.
        hint: what to do if there is no such file; the end of the error message.

    Raises:
        DatasetError: the folder is missing, or it holds no such file.
    """
    if not folder.is_dir():
        raise DatasetError(f"no folder '{folder}'. {hint}")
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.endswith(suffix) and not is_clutter(entry.name)
    )
    if not names:
        raise DatasetError(f"no file *{suffix} in '{folder}'. {hint}")
    return names


def image_record(path: Path, image_id: str) -> Record:
    """Makes the record of an image without labels, reading only the file's header.

    Raises:
        DatasetError: the file cannot be opened or is no image.
    """
    height, width = image_size(path)
    return {
        keys.FILE_NAME: str(path),
        keys.IMAGE_ID: image_id,
        keys.HEIGHT: height,
        keys.WIDTH: width,
    }


def check_unique(folder: Path, records: list[Record]) -> None:
    """Raises :class:`DatasetError` if several images of a folder have the same id."""
    counts = Counter(record[keys.IMAGE_ID] for record in records)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise DatasetError(
            f"several images in '{folder}' have one name: {few(twice)}. Delete all but one of each."
        )


def few(names: Sequence[str], limit: int = 3) -> str:
    """Returns the first names of a list as text, for messages."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def png_size(path: str | Path) -> tuple[int, int]:
    """Reads (height, width) in pixels from a PNG file's first 24 bytes.

    Raises:
        DatasetError: the file cannot be opened or is no PNG file.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(24)
    except OSError as error:
        raise DatasetError(f"cannot read '{path}': {error.strerror}") from error
    if len(head) < 24 or not head.startswith(png.SIGNATURE):
        raise DatasetError(f"'{path}' is not a PNG file; copy or unpack it again")
    width, height = struct.unpack(">II", head[16:24])
    return height, width


_UNPACK = "copy or unpack it again"


def _read_whole(path: str | Path, remedy: str = _UNPACK) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read '{path}': {error.strerror}") from error
    # A truncated PNG may decode to an image whose lower part is black, so the file's end is
    # checked.
    if data.startswith(png.SIGNATURE) and b"IEND" not in data[-16:]:
        raise DatasetError(f"'{path}' is a truncated PNG file; {remedy}")
    if png.promises_too_much(data):
        raise DatasetError(
            f"'{path}' is a damaged PNG file: its head promises more pixels than it holds; {remedy}"
        )
    return data


def image_size(path: str | Path) -> tuple[int, int]:
    """Reads an image's (height, width) in pixels as :func:`read_image` gives it, from the header.

    Raises:
        DatasetError: the file cannot be opened or is no image.
    """
    if str(path).lower().endswith(".png"):
        return png_size(path)
    try:
        with Image.open(path) as image:
            turned = _orientation(image) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"'{path}' is not an image that can be read ({error}); copy or unpack it again"
        ) from error


def read_array(path: str | Path, flags: int, remedy: str = _UNPACK) -> np.ndarray:
    """Reads an image file with OpenCV, or with ``IMREAD_UNCHANGED`` a label file.

    Args:
        path: an image file.
        flags: OpenCV's, such as ``cv2.IMREAD_UNCHANGED``.
        remedy: what to do if it cannot be read; the end of the error message.

    Returns:
        (H, W) or (H, W, C) array; colour channels in OpenCV's order, blue first.

    Raises:
        DatasetError: the file cannot be opened, is truncated or is not an image, or a label file
            has lossy compression.
    """
    return _decode(path, _read_whole(path, remedy), flags, remedy)


def _decode(path: str | Path, data: bytes, flags: int, remedy: str) -> np.ndarray:
    if flags == cv2.IMREAD_UNCHANGED:
        _refuse_lossy(path, data)
        if png.plain_format(data) == png.GREY:
            with _named(path, remedy):
                return png.decode(data, png.GREY)
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise DatasetError(f"'{path}' cannot be decoded ({error.err}); {remedy}") from error
    if array is None:
        raise DatasetError(f"'{path}' is not an image that can be read; {remedy}")
    return array


@contextmanager
def _named(path: str | Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except png.PNGError as error:
        raise DatasetError(f"'{path}' cannot be decoded ({error}); {remedy}") from error


def read_ids(path: str | Path, remedy: str = _UNPACK) -> np.ndarray:
    """Reads a map of ids in COCO's colour coding, red + 256 green + 65536 blue.

    Args:
        path: an RGB PNG file.
        remedy: what to do if it cannot be read; the end of the error message.

    Returns:
        (H, W) int32.

    Raises:
        DatasetError: it cannot be read, or does not hold three channels of 8 bits.
    """
    data = _read_whole(path, remedy)
    if png.plain_format(data) == png.RGB:
        with _named(path, remedy):
            return png.decode_ids(data)
    colors = _decode(path, data, cv2.IMREAD_UNCHANGED, remedy)
    if colors.ndim != 3 or colors.shape[2] != 3 or colors.dtype != np.uint8:
        raise DatasetError(f"'{path}' is not an 8-bit RGB PNG file; {remedy}")
    return ids_of_colors(colors)


@contextmanager
def decoded(path: str | Path) -> Iterator[Image.Image]:
    """Opens a label file with Pillow, whose errors become :class:`DatasetError`."""
    try:
        data = _read_whole(path)
        _refuse_lossy(path, data)
        with Image.open(io.BytesIO(data)) as image:
            yield image
    # A damaged PNG chunk makes Pillow raise SyntaxError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"'{path}' cannot be decoded ({error}); unpack it again") from error


def read_indices(path: str | Path, wide: bool = False) -> np.ndarray:
    """Reads the values of a label file with one channel: palette indices or grey levels.

    OpenCV returns a palette's colours instead of its indices, so Pillow reads these files.

    Args:
        path: a PNG file with a palette or grey levels.
        wide: whether grey levels may have 16 bits.

    Returns:
        (H, W) uint8, or uint16 of a file of 16 bits.

    Raises:
        DatasetError: the file cannot be read, or it holds colours.
    """
    with decoded(path) as image:
        if image.mode in ("P", "L"):
            return np.array(image)
        if wide and image.mode in ("I", "I;16", "I;16B"):
            return np.array(image).astype(np.uint16)
        raise DatasetError(
            f"'{path}' is of Pillow's mode {image.mode}, expected {'8 or 16' if wide else '8'} "
            "bits with a palette or in grey: a label holds one number per pixel, not colours"
            + (" (or write `label_coding: colors`, or red)" if wide else "")
        )


def read_image(path: str | Path, image_format: str) -> np.ndarray:
    """Reads a colour image, rotated by its EXIF orientation, as viewers display it.

    Labels have no orientation and are never rotated. PNG files are read as stored.

    Args:
        path: an image file.
        image_format: ``"RGB"`` or ``"BGR"``.

    Returns:
        (H, W, 3) uint8, 0..255, channels in ``image_format`` order.

    Raises:
        DatasetError: the file cannot be read.
        UserError: unknown ``image_format``.
    """
    if image_format not in ("RGB", "BGR"):
        raise UserError(f"INPUT.FORMAT is '{image_format}', expected 'RGB' or 'BGR'")
    data = _read_whole(path)
    if png.plain_format(data) == png.RGB:
        with _named(path, _UNPACK):
            image = png.decode(data, png.RGB)
        return image if image_format == "RGB" else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Rotated here, because it depends on OpenCV's version for which formats it does so.
    image = _decode(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, _UNPACK)
    image = _turned(image, _orientation_of(path))
    if png.bit_depth(data) == 16:
        _warn_of_darkness(path, image)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image_format == "RGB" else image


def check_size(array: np.ndarray, height: int, width: int, path: str | Path) -> None:
    """Raises :class:`DatasetError` if an array does not have the size (height, width, ...)."""
    if array.shape[:2] != (height, width):
        rows, cols = array.shape[:2]
        turned = (
            ". If the image is turned by its EXIF orientation, labels made of its stored pixels do "
            "not fit: turn them likewise, or delete the tag"
        )
        raise DatasetError(
            f"'{path}' has {rows}x{cols} pixels (rows x columns) but its image has {height}x{width}"
            + (turned if (cols, rows) == (height, width) else "")
        )


def _refuse_lossy(path: str | Path, data: bytes) -> None:
    kind = next((k for start, k in _LOSSY.items() if data.startswith(start)), "")
    if data.startswith(b"RIFF") and data[8:16] == b"WEBPVP8 ":
        kind = "lossy WebP"
    if kind:
        raise DatasetError(
            f"'{path}' is a {kind} file, whatever its name says; compression has changed its "
            "labels, which PNG files keep: make it again as PNG from what it was made of"
        )


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation 1..8 of a JPEG or WebP file, 1 if it has none."""
    if image.format not in ("JPEG", "MPO", "WEBP"):
        return 1
    value = image.getexif().get(_EXIF_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _orientation_of(path: str | Path) -> int:
    try:
        with Image.open(path) as image:
            return _orientation(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        # OpenCV reads some files that Pillow cannot read.
        return 1


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Rotates or mirrors an image (H, W, 3) by its EXIF orientation."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def warn_once(message: str) -> None:
    """Logs a warning once, and once more if logging is set up after the first time."""
    _warn(message, logger.hasHandlers())


@cache
def _warn(message: str, logs: bool) -> None:
    logger.warning(message)


def _warn_of_darkness(path: str | Path, image: np.ndarray) -> None:
    if image.max(initial=0) < _DARK:
        warn_once(
            f"Images in '{Path(path).parent}' have 16 bits but values below 4096 only, so they are "
            "nearly black in 8 bits; multiply them by 16 (12-bit cameras)"
        )
