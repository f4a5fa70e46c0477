"""COCO's panoptic format: PNG files of segment ids, R + 256 G + 65536 B, and one JSON file."""

from __future__ import annotations

from typing import Any

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.files import check_size, few, read_ids
from gbw_d2.data.formats.segments import segment_ids, segments_info
from gbw_d2.data.spec import DatasetError, Record, SegmentsInfo
from gbw_d2.label_spaces import LabelSpace

PANOPTIC_FILE = "pan_seg_file_name"
SEGMENTS = "segments_info"


def check_annotation(annotation: dict[str, Any]) -> None:
    """Checks an entry of ``annotations``: its file name and its segments.

    Raises:
        TypeError, ValueError or KeyError: the entry is invalid.
    """
    name = annotation["file_name"]
    if not isinstance(name, str) or not name:
        raise TypeError(f"file_name {name!r} is no text")
    for segment in annotation[SEGMENTS]:
        check_segment(segment)
    if len({segment["id"] for segment in annotation[SEGMENTS]}) < len(annotation[SEGMENTS]):
        raise ValueError(f"{name} lists a segment twice")


def check_segment(segment: dict[str, Any]) -> None:
    """Raises TypeError or ValueError for an invalid entry of ``segments_info``."""
    if not all(is_whole(segment[key]) for key in ("id", "category_id")):
        raise TypeError(f"segment {segment} has no whole numbers")
    if not 0 < segment["id"] < 1 << 24:
        raise ValueError(
            f"segment {segment}, expected an id 1 .. 2 ** 24 - 1; id 0, black in the PNG file, is "
            "void, which is no segment"
        )
    if segment["iscrowd"] not in (0, 1) or not 0 <= segment["category_id"] < 1 << 31:
        raise ValueError(f"segment {segment}, expected iscrowd 0 or 1 and a category from 0")


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; JSON's true and false are not."""
    return type(value) is int


def read_numbers(record: Record, remedy: str = "write both anew") -> np.ndarray:
    """Reads each pixel's index into the record's segments, (H, W) uint16; void = their number.

    Args:
        record: a record with the PNG file and its segments.
        remedy: what to do if PNG and JSON file disagree; the end of the error message.

    Raises:
        DatasetError: unreadable, not colour, another size than its image, or a segment that the
            JSON file does not list.
    """
    path = record[PANOPTIC_FILE]
    ids = read_ids(path, remedy)
    check_size(ids, record[keys.HEIGHT], record[keys.WIDTH], path)
    listed = [segment["id"] for segment in record[SEGMENTS]]
    # One entry per possible id; only entries of occurring ids are touched, so it needs little
    # memory. Indices count from 1 here: 0 marks ids that the list lacks.
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


def read_segments(
    record: Record, class_ids: np.ndarray, space: LabelSpace, remedy: str
) -> tuple[np.ndarray, SegmentsInfo]:
    """Reads a panoptic label whose segments have classes of another table.

    Segments of one stuff class become one, as panoptic scores demand; see
    :func:`gbw_d2.data.formats.segments.join_segments`.

    Args:
        record: a record with the PNG file and its segments.
        class_ids: (S + 1,) uint8, the class of each of its segments and of void, 255 = void.
        space: the classes.
        remedy: as in :func:`read_numbers`.

    Raises:
        DatasetError: as :func:`read_numbers`.
    """
    crowds = [bool(segment["iscrowd"]) for segment in record[SEGMENTS]]
    instances = np.array([0 if crowd else i + 1 for i, crowd in enumerate(crowds)] + [0])
    segments = segment_ids(class_ids, instances, space)[read_numbers(record, remedy)]
    return segments, segments_info(segments, space)
