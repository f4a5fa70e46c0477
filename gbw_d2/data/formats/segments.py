"""Panoptic segments from maps of classes and instances."""

from __future__ import annotations

import numpy as np

from gbw_d2.class_tables import look_up
from gbw_d2.data.spec import SegmentsInfo
from gbw_d2.label_spaces import IGNORE_LABEL, LabelSpace
from gbw_d2.ops.segments import areas

# Maximum instance number, so that it fits into a segment id of 24 bits beside a class.
MAX_INSTANCE = (1 << 16) - 1


def class_slots(space: LabelSpace) -> int:
    """Returns the factor of the instance number in a segment id: 32 for Cityscapes' classes.

    The class is the low part of the id: instance numbers are mostly small, so segment ids, and
    tables indexed by them, stay small.
    """
    return 1 << space.num_classes.bit_length()


def join_segments(
    class_ids: np.ndarray, instances: np.ndarray, space: LabelSpace
) -> tuple[np.ndarray, SegmentsInfo]:
    """Joins classes and instances to a panoptic label.

    The segment id is ``instance * slots + class id + 1``, with instance 0 for stuff, which is
    reproducible, above 0 and below 2 ** 24. Thing pixels without an instance number form one crowd
    segment per class.

    Args:
        class_ids: (H, W) uint8, 255 = void.
        instances: (H, W) integers 0..65535, unique within the image; 0 = none. Values on stuff and
            void are ignored.
        space: the classes.

    Returns:
        Segment ids (H, W) int32, 0 = void, and their ``segments_info`` (``id``, ``category_id`` =
        class id, ``iscrowd``, ``area`` in pixels).
    """
    segments = segment_ids(class_ids, instances, space)
    return segments, segments_info(segments, space)


def segment_ids(class_ids: np.ndarray, instances: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Joins classes and instances of any shape to segment ids; see :func:`join_segments`."""
    number = np.arange(IGNORE_LABEL + 1, dtype=np.int32) + 1
    number[IGNORE_LABEL] = 0
    slots = np.where(space.is_thing, class_slots(space), 0).astype(np.int32)
    slots[IGNORE_LABEL] = 0
    segments = look_up(slots, class_ids)
    segments *= instances
    segments += look_up(number, class_ids)
    return segments


def segments_info(segments: np.ndarray, space: LabelSpace) -> SegmentsInfo:
    """Lists the segments of a map of segment ids; see :func:`join_segments`."""
    slots = class_slots(space)
    info = []
    for segment, area in zip(*(part.tolist() for part in areas(segments)), strict=True):
        if segment == 0:
            continue
        instance, class_id = segment // slots, segment % slots - 1
        info.append(
            {
                "id": segment,
                "category_id": class_id,
                "iscrowd": int(space.classes[class_id].is_thing and instance == 0),
                "area": area,
            }
        )
    return info
