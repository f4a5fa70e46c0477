"""Operations on segment maps and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gbw_d2.label_spaces import IGNORE_LABEL


def segment_attributes(
    segment_map: np.ndarray, segments_info: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers the segments of a map 1..S in the order of ``segments_info``.

    Args:
        segment_map: (H, W) integers >= 0, 0 = void; ids that are not listed are void.
        segments_info: COCO dicts with ``id``, ``category_id``, ``iscrowd``.

    Returns:
        The map of numbers (H, W) int32, 0 = void; category (S + 1,) int64 and crowd (S + 1,) bool
        by number; number 0 has category 255.
    """
    ids = np.array([s["id"] for s in segments_info], dtype=np.int64)
    highest = max(int(segment_map.max(initial=0)), int(ids.max(initial=0)))
    number_of = np.zeros(highest + 1, dtype=np.int32)
    number_of[ids] = np.arange(1, len(ids) + 1)
    categories = np.array([IGNORE_LABEL, *(s["category_id"] for s in segments_info)], np.int64)
    is_crowd = np.array([False, *(bool(s["iscrowd"]) for s in segments_info)])
    return number_of[segment_map], categories, is_crowd


def class_map(segment_map: np.ndarray, segments_info: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns the class id of each pixel, uint8, 255 outside the listed segments.

    Args:
        segment_map: (H, W) integers >= 0, 0 = void.
        segments_info: COCO dicts with ``id`` and ``category_id``, 0..255.
    """
    ids = np.array([s["id"] for s in segments_info], dtype=np.int64)
    categories = np.array([s["category_id"] for s in segments_info], dtype=np.uint8)
    # The table holds class id + 1, and 0 for void, which becomes 255 when 1 is subtracted: of a
    # table of zeros only the pages of occurring ids are allocated. Larger ids take the last entry.
    one_more = np.zeros(int(ids.max(initial=0)) + 2, dtype=np.uint8)
    one_more[ids] = categories + np.uint8(1)
    return one_more.take(segment_map, mode="clip") - np.uint8(1)


def runs_of(segment_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits a map into runs of equal ids within rows, in the order of the pixels.

    Args:
        segment_map: (H, W) integers.

    Returns:
        The flat index of each run's first pixel, its length and its id.
    """
    begins = np.ones(segment_map.shape, dtype=bool)
    np.not_equal(segment_map[:, 1:], segment_map[:, :-1], out=begins[:, 1:])
    first = np.flatnonzero(begins)
    return first, np.diff(first, append=segment_map.size), segment_map.reshape(-1).take(first)


def areas(segment_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts the pixels of each id of a map, as ``np.unique(..., return_counts=True)`` does."""
    flat = segment_map.reshape(1, -1)
    _, length, ids = runs_of(flat)
    found, number = np.unique(ids, return_inverse=True)
    return found, np.bincount(number, weights=length, minlength=found.size).astype(np.int64)


def distinct(ids: np.ndarray) -> np.ndarray:
    """Returns the sorted ids of a map, found from the few beginnings of runs of equal ids.

    Args:
        ids: an array of integers of any shape.
    """
    flat = ids.reshape(-1)
    begins = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return np.unique(np.append(flat[:1], flat.take(begins)))
