"""Conversion of id maps between label spaces, and to and from the colours of COCO's PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from gbw_d2.label_spaces import IGNORE_LABEL

SegmentsInfo = list[dict[str, Any]]


def ids_of_colors(colors: np.ndarray) -> np.ndarray:
    """Reads COCO's panoptic PNG: the id is red + 256 * green + 65536 * blue.

    Args:
        colors: (H, W, 3) uint8 in OpenCV's order, blue first.

    Returns:
        (H, W) int32.
    """
    # Red, green, blue and alpha are the four bytes of a little-endian number.
    words = cv2.cvtColor(colors, cv2.COLOR_BGR2RGBA).view("<i4")[:, :, 0]
    return (words & 0xFFFFFF).astype(np.int32, copy=False)


def colors_of_ids(ids: np.ndarray) -> np.ndarray:
    """Encodes ids (H, W), 0 .. 2 ** 24 - 1, as uint8 colours; inverts :func:`ids_of_colors`.

    Raises:
        ValueError: an id does not fit into three bytes.
    """
    largest = int(ids.max(initial=0))
    if largest >= 1 << 24:
        raise ValueError(f"segment id {largest} does not fit into three bytes ({(1 << 24) - 1})")
    planes = np.ascontiguousarray(ids, dtype="<u4").view(np.uint8)
    return np.ascontiguousarray(planes.reshape(*ids.shape, 4)[..., 2::-1])


def look_up(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns ``table[ids]`` for a table of 256 entries, several times faster than NumPy.

    Args:
        table: (256,) numbers.
        ids: uint8, of any shape.
    """
    # OpenCV does not accept empty arrays or other dtypes.
    if ids.size == 0:
        return table[ids]
    rows = np.ascontiguousarray(ids).reshape(1, -1)
    return cv2.LUT(rows, table.reshape(1, 256)).reshape(ids.shape)


def is_identity(table: np.ndarray) -> bool:
    """Whether a table maps each of the class ids 0..K-1 to itself."""
    return bool((table == np.arange(len(table))).all())


def regrouped(counts: np.ndarray, table: np.ndarray, num_classes: int, axis: int) -> np.ndarray:
    """Sums counts by class ids of one label space to counts by class ids of another.

    Args:
        counts: an array whose ``axis`` is indexed by class id.
        table: (256,) uint8, class id of the other space for each class id, 255 = none.
        num_classes: number of classes of the other space.
        axis: the axis to sum over.

    Returns:
        The same shape but for ``axis``, which has ``num_classes`` entries.
    """
    by_class = np.moveaxis(counts, axis, 0)
    result = np.zeros((num_classes, *by_class.shape[1:]), dtype=counts.dtype)
    kept = table[: len(by_class)] != IGNORE_LABEL
    np.add.at(result, table[: len(by_class)][kept], by_class[kept])
    return np.moveaxis(result, 0, axis)


def translated_segments(
    segment_map: np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    table: np.ndarray,
    is_thing: np.ndarray,
    was_thing: np.ndarray,
) -> tuple[np.ndarray, SegmentsInfo]:
    """Converts a panoptic map to another label space.

    Segments without a class there become void. A stuff class has a single segment, so the segments
    of classes that become the same stuff class are joined. A labelled stuff class that becomes a
    thing class has no instances, so its segment becomes a crowd.

    Args:
        segment_map: (H, W) integer segment ids, 0 = void.
        segments: dictionaries with ``id`` and ``category_id``, a class id; labels also have
            ``iscrowd``.
        table: (256,) uint8, class id of the other space for each class id, 255 = none.
        is_thing: (256,) bool, whether each class id of the other space is a thing.
        was_thing: (256,) bool, whether each class id of this space is a thing.

    Returns:
        The map (the same object if no id changes) and the segments, with updated ``area``.
    """
    many = np.bincount(table, minlength=256) > 1
    stuff: dict[int, dict[str, Any]] = {}
    kept: SegmentsInfo = []
    changed: dict[int, int] = {}
    for segment in segments:
        before, number = int(segment["category_id"]), int(segment["id"])
        category = int(table[before])
        if category == IGNORE_LABEL:
            changed[number] = 0
        elif not is_thing[category] and category in stuff:
            changed[number] = stuff[category]["id"]
            if "area" in segment:
                stuff[category]["area"] += segment["area"]
        else:
            kept.append({**segment, "category_id": category})
            if not is_thing[category] and (many[category] or was_thing[before]):
                stuff[category] = kept[-1]
            if "iscrowd" in segment and is_thing[category] != was_thing[before]:
                kept[-1]["iscrowd"] = int(is_thing[category])
    if not changed:
        return segment_map, kept
    highest = max(int(segment_map.max(initial=0)), *changed)
    number_of = np.arange(highest + 1, dtype=segment_map.dtype)
    number_of[list(changed)] = list(changed.values())
    return number_of[segment_map], kept
