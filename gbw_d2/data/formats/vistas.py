"""Mapillary Vistas 1.2 with Cityscapes' classes: images and the panoptic annotation of 2018.

``{training,validation}/images/*.jpg`` and ``panoptic/panoptic_2018.json`` with its PNG files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2 import keys
from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.data.formats.coco_panoptic import (
    PANOPTIC_FILE,
    SEGMENTS,
    check_annotation,
    is_whole,
    read_numbers,
    read_segments,
)
from gbw_d2.data.formats.files import image_record, list_names
from gbw_d2.data.formats.pairs import keep_labelled
from gbw_d2.data.formats.target_specs import target_specs
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record, SegmentsInfo
from gbw_d2.label_spaces import CITYSCAPES_19, IGNORE_LABEL
from gbw_d2.plain_files import read_json

FOLDERS = {"train": "training", "val": "validation"}
NUM_CATEGORIES = 66
# Images of each split in the release.
NUM_IMAGES = {"train": 18000, "val": 2000}

# The class of each category id of panoptic_2018.json (from 1 on); all others are void. This is the
# table of CVRN and EDAPS, which count from 0.
CATEGORIES: dict[str, tuple[int, ...]] = {
    "road": (8, 9, 11, 14, 15, 24, 25),
    "sidewalk": (3, 10, 12, 16),
    "building": (18,),
    "wall": (7,),
    "fence": (4,),
    "pole": (46, 48),
    "traffic light": (49,),
    "traffic sign": (50, 51),
    "vegetation": (31,),
    "terrain": (30,),
    "sky": (28,),
    "person": (20,),
    "rider": (21, 22, 23),
    "car": (56,),
    "truck": (62,),
    "bus": (55,),
    "train": (59,),
    "motorcycle": (58,),
    "bicycle": (53,),
}
_TRAIN_ID_OF = np.full(NUM_CATEGORIES + 1, IGNORE_LABEL, dtype=np.uint8)
for _class in CLASSES:
    _TRAIN_ID_OF[list(CATEGORIES[_class.name])] = _class.train_id

_UNPACK = "unpack the archive again"
_HINT = (
    "Expected Mapillary Vistas 1.2 with training and validation there; datasets/README.md shows "
    "where the files go (DETECTRON2_DATASETS moves the root), and "
    "`python datasets/prepare_mapillary_vistas.py --check` checks them."
)


def load_images(root: Path, split: str) -> list[Record]:
    """Lists the images of a split without labels, sorted by name.

    Args:
        root: the folder with ``training`` and ``validation``.
        split: ``"train"`` or ``"val"``.

    Raises:
        DatasetError: no such folder, or no images in it.
    """
    folder = root / FOLDERS[split] / "images"
    names = list_names(folder, ".jpg", _HINT)
    return [image_record(folder / name, name.removesuffix(".jpg")) for name in names]


def panoptic_json(root: Path, split: str) -> Path:
    """Returns the path of the annotation file (in a folder ``v1.2`` of version 2.0's download)."""
    folders = [root / FOLDERS[split] / part for part in ("panoptic", "v1.2/panoptic")]
    paths = [folder / "panoptic_2018.json" for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def load_labelled(root: Path, split: str) -> list[Record]:
    """Lists the images of a split with their panoptic label files and ``segments_info``.

    Raises:
        DatasetError: files are missing, no image has its label, or the categories are not those
            of 2018.
    """
    records = load_images(root, split)
    path = panoptic_json(root, split)
    by_image = _read_annotations(path)
    present = set(list_names(path.parent, ".png", _HINT))
    lacking = {}
    for record in records:
        entry = by_image.get(record[keys.IMAGE_ID], {SEGMENTS: [], "file_name": ""})
        record[PANOPTIC_FILE] = str(path.parent / entry["file_name"])
        record[SEGMENTS] = entry[SEGMENTS]
        if entry["file_name"] not in present:
            lacking[record[keys.IMAGE_ID]] = record[PANOPTIC_FILE]
    lonely = sorted(set(by_image) - {record[keys.IMAGE_ID] for record in records})
    place = f"'{root / FOLDERS[split] / 'images'}'"
    return keep_labelled(records, lacking, lonely, place, "Unpack the archive again.")


def _read_annotations(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = read_json(path)
        numbers = [category["id"] for category in content["categories"]]
        if not numbers or not all(map(is_whole, numbers)):
            raise TypeError("categories without whole numbers as ids")
        highest = max(numbers)
        entries = {entry["image_id"]: entry for entry in content["annotations"]}
        if highest <= NUM_CATEGORIES:
            for entry in entries.values():
                _check_annotation(entry)
    except OSError as error:
        raise DatasetError(f"cannot read '{path}': {error.strerror}. {_HINT}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"'{path}' is not Vistas' panoptic annotation ({error!r}). Unpack the archive again."
        ) from error
    if highest > NUM_CATEGORIES:
        raise DatasetError(
            f"'{path}' has categories up to {highest}, expected 1..{NUM_CATEGORIES}: these are the "
            "classes of version 2.0; use the annotation of version 1.2"
        )
    return entries


def _check_annotation(annotation: dict[str, Any]) -> None:
    check_annotation(annotation)
    for segment in annotation[SEGMENTS]:
        if not 0 < segment["category_id"] <= NUM_CATEGORIES:
            raise ValueError(f"segment {segment}, expected a category 1..{NUM_CATEGORIES}")


def _train_ids(record: Record) -> np.ndarray:
    """Returns the train id of each segment of a record, then that of void."""
    return _TRAIN_ID_OF[[*(segment["category_id"] for segment in record[SEGMENTS]), 0]]


def read_panoptic(record: Record) -> tuple[np.ndarray, SegmentsInfo]:
    """Reads the panoptic label; Vistas' parts of a stuff class become one segment.

    Raises:
        DatasetError: unreadable, not colour, another size than its image, or a segment that the
            JSON file does not list.
    """
    return read_segments(record, _train_ids(record), CITYSCAPES_19, _UNPACK)


def read_semantic(record: Record) -> np.ndarray:
    """Reads the semantic label: (H, W) uint8 train ids, 255 = ignore.

    Raises:
        DatasetError: as :func:`read_panoptic`.
    """
    return _train_ids(record)[read_numbers(record, _UNPACK)]


def vistas_specs(
    prefix: str,
    root: Callable[[], Path],
    prepare: Callable[[], None] | None = None,
    released: Mapping[str, int] | None = None,
) -> Iterator[DatasetSpec]:
    """Makes the five datasets of :func:`gbw_d2.data.formats.target_specs.target_specs`.

    Args:
        prefix: ``"vistas"`` or the name of a twin in the same layout.
        root: returns the dataset's folder; only called when the dataset is loaded.
        prepare: makes the files, for datasets that can be generated.
        released: number of images of the release by split; None for the images found.
    """

    def labelled(split: str) -> list[Record]:
        return load_labelled(root(), split)

    def count(split: str) -> int:
        if released:
            return released[split]
        return len(list_names(root() / FOLDERS[split] / "images", ".jpg", _HINT))

    return target_specs(
        prefix,
        lambda split: load_images(root(), split),
        labelled,
        labelled,
        read_semantic,
        read_panoptic,
        CITYSCAPES_19,
        prepare,
        count_images=count,
    )
