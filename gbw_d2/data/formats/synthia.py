"""SYNTHIA-RAND-CITYSCAPES as downloaded: ``RGB/*.png`` and ``GT/LABELS/*.png``.

A label is a 16-bit PNG of three channels: red is the class, green is the instance id of dynamic
objects, unique in its image (0 = none). Pillow cannot read such files; OpenCV can, blue first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from gbw_d2 import keys
from gbw_d2.cityscapes_classes import CLASSES, SYNTHIA_VOID_IDS, raw_to_train_id
from gbw_d2.class_tables import look_up
from gbw_d2.data.formats.files import LABEL_FILE, check_size, few, list_names, read_array
from gbw_d2.data.formats.pairs import load_pairs
from gbw_d2.data.formats.segments import join_segments
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record, SegmentsInfo
from gbw_d2.label_spaces import CITYSCAPES_19
from gbw_d2.ops.segments import distinct

_HINT = (
    "Expected SYNTHIA-RAND-CITYSCAPES with RGB/*.png and GT/LABELS/*.png there; "
    "datasets/README.md shows where the files go (DETECTRON2_DATASETS moves the root), and "
    "`python datasets/prepare_synthia.py --check` checks them."
)
_SEQUENCE_NAME = re.compile(r"\d{6}")
_TRAIN_ID_OF = raw_to_train_id("synthia_id")
_KNOWN_IDS = np.zeros(1 << 16, dtype=bool)
_KNOWN_IDS[[*(c.synthia_id for c in CLASSES), *SYNTHIA_VOID_IDS]] = True


def load_synthia(root: Path) -> list[Record]:
    """Lists the images of a SYNTHIA folder, sorted by name.

    Args:
        root: the folder with ``RGB`` and ``GT/LABELS``.

    Returns:
        Records with ``file_name``, ``image_id``, ``height``, ``width`` and the label's file.

    Raises:
        DatasetError: a folder is missing, images and labels do not match, or the names are those of
            SYNTHIA-SEQS.
    """
    records = load_pairs(root / "RGB", root / "GT" / "LABELS", _HINT)
    sequence = [r[keys.IMAGE_ID] for r in records if _SEQUENCE_NAME.fullmatch(r[keys.IMAGE_ID])]
    if sequence:
        raise DatasetError(
            f"'{root}' holds names of six digits ({few(sequence)}), as SYNTHIA-SEQS has: its class "
            "ids differ (12 is lane marking there, motorcycle here). Unpack "
            "SYNTHIA-RAND-CITYSCAPES, whose names have seven digits, or describe the sequences "
            "with a data.yaml (docs/your_own_data.md)"
        )
    return records


def read_raw_label(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Reads and checks a label file.

    Args:
        record: a record of :func:`load_synthia`.

    Returns:
        Class (H, W) uint8 and instance (H, W) uint16, raw SYNTHIA ids.

    Raises:
        DatasetError: unreadable, not 16 bit, not three channels, another size than its image, or
            a class id that SYNTHIA does not have.
    """
    path = record[LABEL_FILE]
    label = read_array(path, cv2.IMREAD_UNCHANGED)
    if label.dtype != np.uint16 or label.ndim != 3 or label.shape[2] != 3:
        channels = 1 if label.ndim == 2 else label.shape[2]
        raise DatasetError(
            f"'{path}' has {8 * label.dtype.itemsize} bits and {channels} channel(s), expected 16 "
            "bits and 3 channels. GT/COLOR, or files re-saved by an image programme, cannot be "
            "used: unpack GT/LABELS again."
        )
    check_size(label, record[keys.HEIGHT], record[keys.WIDTH], path)
    classes, instances = cv2.extractChannel(label, 2), cv2.extractChannel(label, 1)
    found = distinct(classes)
    unknown = found[~_KNOWN_IDS[found]]
    if unknown.size:
        raise DatasetError(
            f"'{path}' holds class id(s) {few([str(i) for i in unknown])}, which SYNTHIA does not "
            "have (0..22 in the red channel). Is it really a file of GT/LABELS?"
        )
    return classes.astype(np.uint8), instances


def read_semantic(record: Record) -> np.ndarray:
    """Reads the semantic label: (H, W) uint8 train ids, 255 = ignore."""
    classes, _ = read_raw_label(record)
    return look_up(_TRAIN_ID_OF, classes)


def read_panoptic(record: Record) -> tuple[np.ndarray, SegmentsInfo]:
    """Reads the panoptic label; see :func:`gbw_d2.data.formats.segments.join_segments`."""
    classes, instances = read_raw_label(record)
    return join_segments(look_up(_TRAIN_ID_OF, classes), instances, CITYSCAPES_19)


def synthia_specs(
    prefix: str,
    root: Callable[[], Path],
    prepare: Callable[[], None] | None = None,
    split: str = "train",
) -> Iterator[DatasetSpec]:
    """Makes ``{prefix}_panoptic_{split}`` and ``{prefix}_semantic_{split}``.

    Args:
        prefix: ``"synthia"`` or the name of a twin in the same layout.
        root: returns the dataset's folder; only called when the dataset is loaded.
        prepare: makes the files, for datasets that can be generated.
        split: split in the names; a folder of SYNTHIA's layout is one split.
    """

    def load() -> list[Record]:
        return load_synthia(root())

    def count() -> int:
        return len(list_names(root() / "RGB", ".png", _HINT))

    for kind, reader in (("panoptic", read_panoptic), ("semantic", None)):
        yield DatasetSpec(
            f"{prefix}_{kind}_{split}",
            load,
            read_semantic,
            reader,
            prepare,
            label_space=CITYSCAPES_19,
            count_images=count,
        )
