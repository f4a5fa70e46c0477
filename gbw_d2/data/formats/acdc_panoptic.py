"""ACDC's panoptic labels, COCO's format, as the data set's own README describes them.

``gt_panoptic/<condition>/<condition>_<split>_gt_panoptic.json`` lists the segments, and
``gt_panoptic/<condition>/<split>/<drive>/*_gt_panoptic.png`` shows them. Categories go by the names
that the JSON file gives them, so that it does not matter whether their ids are Cityscapes' label
ids or train ids; what is none of Cityscapes' 19 classes is void.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.coco_panoptic import (
    PANOPTIC_FILE,
    SEGMENTS,
    check_annotation,
    is_whole,
    read_segments,
)
from gbw_d2.data.formats.files import few
from gbw_d2.data.formats.pairs import keep_labelled
from gbw_d2.data.spec import DatasetError, Record, SegmentsInfo
from gbw_d2.label_spaces import CITYSCAPES_19, IGNORE_LABEL
from gbw_d2.plain_files import read_json

_IMAGE, _LABEL = "_rgb_anon.png", "_gt_panoptic.png"
_UNPACK = "unpack gt_panoptic_trainval.zip again"
_HINT = (
    "Expected ACDC's gt_panoptic_trainval.zip unpacked beside rgb_anon and gt; datasets/README.md "
    "shows where the files go."
)


def with_segments(records: list[Record], folder: Path, split: str, condition: str) -> list[Record]:
    """Adds the panoptic label of each image; those that lack theirs are left out.

    Args:
        records: images of one condition and split.
        folder: ``gt_panoptic``.
        split: ``train`` or ``val``.
        condition: fog, night, rain or snow.

    Raises:
        DatasetError: the JSON file is missing or cannot be used, or no image has its label.
    """
    entries = _read_annotations(folder / condition / f"{condition}_{split}_gt_panoptic.json")
    lacking = {}
    for record in records:
        image = Path(record[keys.FILE_NAME])
        name = f"{image.name.removesuffix(_IMAGE)}{_LABEL}"
        path = folder / condition / split / image.parent.name / name
        record[PANOPTIC_FILE], record[SEGMENTS] = str(path), entries.get(name, [])
        if name not in entries or not path.is_file():
            lacking[record[keys.IMAGE_ID]] = str(path)
    known = {PurePosixPath(record[PANOPTIC_FILE]).name for record in records}
    return keep_labelled(records, lacking, sorted(set(entries) - known), f"'{folder}'", _HINT)


def _read_annotations(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the segments of each label file, by its name, with classes as categories."""
    try:
        content = read_json(path)
        class_of = {
            category["id"]: _CLASS_OF.get(category["name"], IGNORE_LABEL)
            for category in content["categories"]
            if is_whole(category["id"])
        }
        entries = {}
        for entry in content["annotations"]:
            check_annotation(entry)
            # Some writers of COCO's format give a path here, and others the name alone.
            entries[PurePosixPath(entry["file_name"]).name] = [
                {**segment, "category_id": class_of[segment["category_id"]]}
                for segment in entry[SEGMENTS]
            ]
    except OSError as error:
        raise DatasetError(f"cannot read '{path}': {error.strerror}. {_HINT}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"'{path}' is not a COCO panoptic file with categories ({error!r}); {_UNPACK}"
        ) from error
    lacking = sorted(set(_CLASS_OF) - {category["name"] for category in content["categories"]})
    if lacking:
        raise DatasetError(
            f"'{path}' has no category {few(lacking)}; expected the names of Cityscapes' 19 classes"
        )
    return entries


def read_panoptic(record: Record) -> tuple[np.ndarray, SegmentsInfo]:
    """Reads the panoptic label.

    Raises:
        DatasetError: unreadable, not colour, another size than its image, or a segment that the
            JSON file does not list.
    """
    classes = [*(segment["category_id"] for segment in record[SEGMENTS]), IGNORE_LABEL]
    return read_segments(record, np.array(classes, dtype=np.uint8), CITYSCAPES_19, _UNPACK)


_CLASS_OF = {c.name: i for i, c in enumerate(CITYSCAPES_19.classes)}
