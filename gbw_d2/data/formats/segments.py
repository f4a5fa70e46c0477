"""Panoptic segments from maps of classes and instances, or from the colours of COCO's PNG files."""

from __future__ import annotations

import cv2
import numpy as np

from gbw_d2.data.catalog import SegmentsInfo
from gbw_d2.label_spaces import CLASSES, IGNORE_LABEL

# A segment id holds instance and class. The class comes last: instance ids are mostly small, and
# so are then the segment ids and every table that is indexed by them.
CLASS_SLOTS = 32
_IS_THING = np.zeros(256, dtype=bool)
_IS_THING[[c.train_id for c in CLASSES if c.is_thing]] = True


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


def join_segments(train_ids: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, SegmentsInfo]:
    """Makes a panoptic label of classes and instances.

    The segment id is ``instance * 32 + train_id + 1``, with instance 0 for stuff, so it is the
    same in every run, above 0 and below 2 ** 24. Thing pixels without an instance number carry no
    identity and form one crowd segment per class.

    Args:
        train_ids: (H, W) uint8, 255 = void.
        instances: (H, W) integers 0..65535, unique within the image; 0 = none. Values on stuff and
            void do not matter.

    Returns:
        Segment ids (H, W) int32, 0 = void, and their ``segments_info`` (``id``, ``category_id`` =
        train id, ``iscrowd``, ``area`` in pixels).
    """
    segments = segment_ids(train_ids, instances)
    return segments, segments_info(segments)


def segment_ids(train_ids: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Joins classes and instances of any shape to segment ids; see :func:`join_segments`."""
    segments = np.where(_IS_THING[train_ids], instances, 0).astype(np.int32) * CLASS_SLOTS
    segments += train_ids.astype(np.int32) + 1
    segments[train_ids == IGNORE_LABEL] = 0
    return segments


def segments_info(segments: np.ndarray) -> SegmentsInfo:
    """Lists the segments of a map of such ids; see :func:`join_segments`."""
    areas = np.bincount(segments.ravel())
    info = []
    for segment in np.flatnonzero(areas).tolist():
        if segment == 0:
            continue
        instance, train_id = segment // CLASS_SLOTS, segment % CLASS_SLOTS - 1
        info.append(
            {
                "id": segment,
                "category_id": train_id,
                "iscrowd": int(CLASSES[train_id].is_thing and instance == 0),
                "area": int(areas[segment]),
            }
        )
    return info
