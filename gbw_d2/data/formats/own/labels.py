"""Codings of label files: one number per pixel, a colour, or one channel of a colour file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbw_d2.class_tables import ids_of_colors
from gbw_d2.data.formats.files import decoded, read_array, read_indices
from gbw_d2.data.formats.own import entries
from gbw_d2.data.spec import DatasetError


@dataclass(frozen=True)
class LabelCoding:
    """One coding of label files.

    Args:
        read: reads a file as codes (H, W), unsigned integers or int32.
        codes: maps a class's entry in a data.yaml to codes; raises ValueError with the expected
            form.
        shown: maps a code to its form in errors and in a data.yaml.
    """

    read: Callable[[str | Path], np.ndarray]
    codes: Callable[[Any], list[int]]
    shown: Callable[[int], str] = str


def _numbers(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    if not all(entries.is_whole(v) and 0 <= v < 1 << 16 for v in values):
        raise ValueError("whole numbers 0..65535")
    return values


def _colors(value: Any) -> list[int]:
    values = [value] if entries.is_color(value) or not isinstance(value, list) else value
    return [_color(v) for v in values]


def _color(value: Any) -> int:
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        value = [int(value[i : i + 2], 16) for i in (1, 3, 5)]
    if not entries.is_color(value):
        raise ValueError('colours as [red, green, blue] or "#rrggbb"')
    red, green, blue = value
    return red + 256 * green + 65536 * blue


def shown_color(code: int) -> str:
    """Returns a colour's code in the form of a data.yaml."""
    return f"[{code % 256}, {code // 256 % 256}, {code // 65536}]"


def _read_colors(path: str | Path) -> np.ndarray:
    """Reads colours, also those of a palette, as codes R + 256 G + 65536 B."""
    with decoded(path) as image:
        if image.mode not in ("RGB", "RGBA", "P"):
            raise DatasetError(
                f"'{path}' is of Pillow's mode {image.mode}, expected colours; for one number per "
                "pixel leave `label_coding` out"
            )
        return ids_of_colors(np.array(image.convert("RGB"))[..., ::-1].copy())


def _read_channel(channel: int, path: str | Path) -> np.ndarray:
    array = read_array(path, cv2.IMREAD_UNCHANGED)
    if array.ndim != 3:
        raise DatasetError(
            f"'{path}' has one channel, expected colours; for one number per pixel leave "
            "`label_coding` out"
        )
    return array[:, :, channel]


LABEL_CODINGS = {
    "index": LabelCoding(partial(read_indices, wide=True), _numbers),
    "colors": LabelCoding(_read_colors, _colors, shown_color),
    # OpenCV's channel order is BGR.
    **{
        name: LabelCoding(partial(_read_channel, channel), _numbers)
        for name, channel in (("red", 2), ("green", 1), ("blue", 0))
    },
}
