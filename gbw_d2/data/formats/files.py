"""Reading PNG files and listing folders, with errors that name the file."""

from __future__ import annotations

import io
import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from gbw_d2 import keys
from gbw_d2.data.spec import DatasetError, Record
from gbw_d2.errors import UserError

# A record's label file. Class statistics follow every file that is named in a record.
LABEL_FILE = "label_file_name"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def list_names(folder: Path, suffix: str, hint: str) -> list[str]:
    """Lists the names in ``folder`` that end with ``suffix``, sorted.

    Args:
        folder: the folder to list.
        suffix: for example ``".png"``.
        hint: what to do when there is none; the end of the error message.

    Raises:
        DatasetError: the folder is missing, or it holds no such file.
    """
    if not folder.is_dir():
        raise DatasetError(f"no folder '{folder}'. {hint}")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(suffix))
    if not names:
        raise DatasetError(f"no file *{suffix} in '{folder}'. {hint}")
    return names


def load_pairs(image_folder: Path, label_folder: Path, hint: str) -> list[Record]:
    """Lists PNG images whose labels have the same names in another folder, sorted by name.

    Args:
        image_folder: holds the images.
        label_folder: holds the labels.
        hint: what to do when there are none; the end of the error message.

    Returns:
        Records with ``file_name``, ``image_id``, ``height``, ``width`` and :data:`LABEL_FILE`.

    Raises:
        DatasetError: a folder is missing or empty, or images and labels do not pair up.
    """
    names = list_names(image_folder, ".png", hint)
    labels = list_names(label_folder, ".png", hint)
    lonely = sorted(set(names) ^ set(labels))
    if lonely:
        raise DatasetError(
            f"{len(names)} images in '{image_folder}' but {len(labels)} labels in "
            f"'{label_folder}'; without a partner: {few(lonely)}. Unpack the archive again."
        )
    return [
        {
            **image_record(image_folder / name, name.removesuffix(".png")),
            LABEL_FILE: str(label_folder / name),
        }
        for name in names
    ]


def image_record(path: Path, image_id: str) -> Record:
    """Makes the record of an image without labels; only the head of the file is read.

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
    """Raises :class:`DatasetError` where images of one folder share an id."""
    counts = Counter(record[keys.IMAGE_ID] for record in records)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise DatasetError(
            f"several images in '{folder}' have one name: {few(twice)}. Delete all but one of each."
        )


def few(names: Sequence[str], limit: int = 3) -> str:
    """Joins the first names of a long list, for messages."""
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
    if len(head) < 24 or not head.startswith(_PNG_SIGNATURE):
        raise DatasetError(f"'{path}' is not a PNG file; copy or unpack it again")
    width, height = struct.unpack(">II", head[16:24])
    return height, width


_UNPACK = "copy or unpack it again"


def _read_whole(path: str | Path, remedy: str = _UNPACK) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read '{path}': {error.strerror}") from error
    # A truncated PNG may decode to an image whose lower part is black, so the end is looked at.
    if data.startswith(_PNG_SIGNATURE) and b"IEND" not in data[-16:]:
        raise DatasetError(f"'{path}' is a truncated PNG file; {remedy}")
    return data


def image_size(path: str | Path) -> tuple[int, int]:
    """Reads (height, width) in pixels from the head of an image file of any kind.

    Raises:
        DatasetError: the file cannot be opened or is no image.
    """
    if str(path).lower().endswith(".png"):
        return png_size(path)
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"'{path}' is not an image that can be read ({error}); copy or unpack it again"
        ) from error


def read_array(path: str | Path, flags: int, remedy: str = _UNPACK) -> np.ndarray:
    """Reads an image file with OpenCV.

    Args:
        path: an image file.
        flags: OpenCV's, such as ``cv2.IMREAD_UNCHANGED``.
        remedy: what to do where it cannot be read; the end of the error message.

    Returns:
        (H, W) or (H, W, C) array; colour channels in OpenCV's order, blue first.

    Raises:
        DatasetError: the file cannot be opened, is truncated or is not an image.
    """
    data = _read_whole(path, remedy)
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise DatasetError(f"'{path}' cannot be decoded ({error.err}); {remedy}") from error
    if array is None:
        raise DatasetError(f"'{path}' is not an image that can be read; {remedy}")
    return array


@contextmanager
def decoded(path: str | Path) -> Iterator[Image.Image]:
    """Opens an image file with Pillow, whose errors become :class:`DatasetError`."""
    try:
        with Image.open(io.BytesIO(_read_whole(path))) as image:
            yield image
    # A damaged PNG chunk makes Pillow raise SyntaxError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"'{path}' cannot be decoded ({error}); unpack it again") from error


def read_indices(path: str | Path, wide: bool = False) -> np.ndarray:
    """Reads the values of a label file with one channel: palette indices, or grey levels as such.

    OpenCV gives a palette's colours and not its indices, so Pillow reads these files.

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
    """Reads a colour image.

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
    # Labels carry no orientation, so that of the image must not be applied either.
    image = read_array(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image_format == "RGB" else image


def check_size(array: np.ndarray, height: int, width: int, path: str | Path) -> None:
    """Raises :class:`DatasetError` where an array is not (height, width, ...) pixels."""
    if array.shape[:2] != (height, width):
        rows, cols = array.shape[:2]
        raise DatasetError(
            f"'{path}' has {rows}x{cols} pixels (rows x columns) but its image has {height}x{width}"
        )
