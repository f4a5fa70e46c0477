"""COCO's panoptic format, as the toy layouts write it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbw_d2.class_tables import ids_of_colors
from gbw_d2.data.formats.files import read_array


def list_segments(
    path: Path, category_of: Callable[[int], int], is_crowd: Callable[[int], bool]
) -> list[dict[str, Any]]:
    """Lists the segments of a PNG file that a layout has written.

    Args:
        path: of the file.
        category_of: segment id -> the id of its category.
        is_crowd: segment id -> whether it is a crowd.

    Returns:
        ``segments_info`` with ``id``, ``category_id``, ``area`` and ``bbox`` in pixels, and
        ``iscrowd``.
    """
    ids = ids_of_colors(read_array(path, cv2.IMREAD_COLOR))
    segments = []
    for segment in np.unique(ids[ids > 0]).tolist():
        rows, columns = np.nonzero(ids == segment)
        x, y = int(columns.min()), int(rows.min())
        segments.append(
            {
                "id": segment,
                "category_id": category_of(segment),
                "area": len(rows),
                "bbox": [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1],
                "iscrowd": int(is_crowd(segment)),
            }
        )
    return segments
