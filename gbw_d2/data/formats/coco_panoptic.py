"""COCO's panoptic format: PNG files of segment ids, R + 256 G + 65536 B, and one JSON file."""

from __future__ import annotations

from typing import Any

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.files import check_size, few, read_ids
from gbw_d2.data.spec import DatasetError, Record

PANOPTIC_FILE = "pan_seg_file_name"
SEGMENTS = "segments_info"


def check_segment(segment: dict[str, Any]) -> None:
    """Raises TypeError or ValueError where an entry of ``segments_info`` cannot be used."""
    if not all(isinstance(segment[key], int) for key in ("id", "category_id", "iscrowd")):
        raise TypeError(f"segment {segment} has no whole numbers")
    if not 0 < segment["id"] < 1 << 24:
        raise ValueError(f"segment {segment}, expected an id 1 .. 2 ** 24 - 1")


def read_numbers(record: Record, remedy: str = "write both anew") -> np.ndarray:
    """Reads which segment of the record each pixel shows: (H, W) uint16, void = the number of them.

    Args:
        record: names the PNG file and lists its segments.
        remedy: what to do where both do not agree; the end of the error message.

    Raises:
        DatasetError: unreadable, not colour, another size than its image, or a segment that the
            JSON file does not list.
    """
    path = record[PANOPTIC_FILE]
    ids = read_ids(path, remedy)
    check_size(ids, record[keys.HEIGHT], record[keys.WIDTH], path)
    listed = [segment["id"] for segment in record[SEGMENTS]]
    # One entry per possible id: only those that occur are ever touched, so it costs no memory.
    # Counted from 1 on here: 0 is what the list lacks.
    position = np.zeros(1 << 24, dtype=np.uint16)
    position[[*listed, 0]] = np.arange(1, len(listed) + 2)
    numbers = position[ids]
    if not numbers.all():
        wrong = np.unique(ids[numbers == 0])
        raise DatasetError(
            f"'{path}' holds segment(s) {few([str(i) for i in wrong])} that the JSON file does not "
            f"list; {remedy}"
        )
    return numbers - np.uint16(1)
