"""Cityscapes' official layout, with the label files that :mod:`.cityscapes_labels` makes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbw_d2 import keys
from gbw_d2.cityscapes_classes import TRAIN_IDS_19
from gbw_d2.data.formats.coco_panoptic import check_annotation
from gbw_d2.data.formats.files import (
    check_size,
    few,
    image_record,
    is_clutter,
    read_array,
    read_ids,
)
from gbw_d2.data.formats.pairs import keep_labelled
from gbw_d2.data.formats.target_specs import target_specs
from gbw_d2.data.spec import DatasetError, DatasetSpec, LabelWork, Record, SegmentsInfo
from gbw_d2.label_spaces import CITYSCAPES_19, IGNORE_LABEL
from gbw_d2.ops.segments import distinct
from gbw_d2.plain_files import read_json

SEMANTIC_FILE = "sem_seg_file_name"
PANOPTIC_FILE = "pan_seg_file_name"
SEGMENTS = "segments_info"
IMAGE_SUFFIX = "_leftImg8bit.png"
# Share of the rows at the top and at the bottom of the images that show the border of the rectified
# image and the ego vehicle's hood, as in DAFormer and HRDA.
HOOD_AND_RIM = (0.03, 0.234)
TRAIN_ID_SUFFIX = "_gtFine_labelTrainIds.png"
# Suffixes of downloaded labels.
LABEL_SUFFIX = "_gtFine_labelIds.png"
INSTANCE_SUFFIX = "_gtFine_instanceIds.png"

# Images of each city in the release.
CITY_IMAGES = {
    "train": {
        "aachen": 174,
        "bochum": 96,
        "bremen": 316,
        "cologne": 154,
        "darmstadt": 85,
        "dusseldorf": 221,
        "erfurt": 109,
        "hamburg": 248,
        "hanover": 196,
        "jena": 119,
        "krefeld": 99,
        "monchengladbach": 94,
        "strasbourg": 365,
        "stuttgart": 196,
        "tubingen": 144,
        "ulm": 95,
        "weimar": 142,
        "zurich": 122,
    },
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
}
NUM_IMAGES = {split: sum(cities.values()) for split, cities in CITY_IMAGES.items()}

_IMAGE_HINT = (
    "Expected Cityscapes' leftImg8bit and gtFine there; datasets/README.md shows where the files "
    "go (DETECTRON2_DATASETS moves the root), and `python datasets/prepare_cityscapes.py --check` "
    "checks them."
)
_UNPACK_HINT = "Unpack gtFine_trainvaltest.zip beside the images."


@dataclass(frozen=True)
class ImageFiles:
    """The location of one version of the images; all versions share the labels.

    Args:
        folder: the folder beside ``gtFine``.
        suffix: the part of a file's name after the image's id.
        hint: what to do when there are none.
    """

    folder: str = "leftImg8bit"
    suffix: str = IMAGE_SUFFIX
    hint: str = _IMAGE_HINT


CLEAR = ImageFiles()
LabelFileWork = Callable[[Path, str, bool, ImageFiles], None]

_PREPARE_HINT = "Run `python datasets/prepare_cityscapes.py`, which makes the missing files."


def panoptic_json(root: Path, split: str) -> Path:
    """Returns the path of a split's panoptic JSON file, as in Cityscapes' own converter."""
    return root / "gtFine" / f"cityscapes_panoptic_{split}_trainId.json"


def list_images(root: Path, split: str, images: ImageFiles = CLEAR) -> list[Path]:
    """Lists the image files of a split, sorted by city and name, without opening them.

    Args:
        root: the folder with ``leftImg8bit`` and ``gtFine``.
        split: ``"train"`` or ``"val"``.
        images: which version of the images.

    Raises:
        DatasetError: no such folder, or no images in it.
    """
    folder = root / images.folder / split
    if not folder.is_dir():
        raise DatasetError(f"no folder '{folder}'. {images.hint}")
    cities = sorted(p for p in folder.iterdir() if p.is_dir() and not is_clutter(p.name))
    if not cities:
        raise DatasetError(f"no cities in '{folder}'. {images.hint}")
    # The folder of a city whose images were not downloaded may be empty.
    paths = sorted(p for c in cities for p in c.glob(f"*{images.suffix}") if not is_clutter(p.name))
    if not paths:
        raise DatasetError(f"no file *{images.suffix} in a folder of '{folder}'. {images.hint}")
    return paths


def load_images(root: Path, split: str, images: ImageFiles = CLEAR) -> list[Record]:
    """Makes the records of the images of a split, without labels; see :func:`list_images`."""
    paths = list_images(root, split, images)
    return [image_record(path, path.name.removesuffix(images.suffix)) for path in paths]


def load_semantic(root: Path, split: str, images: ImageFiles = CLEAR) -> list[Record]:
    """Lists the images of a split with their semantic label files.

    Images that have neither a downloaded nor a made label are left out.

    Raises:
        DatasetError: no image has a label, or label files that can be made are missing.
    """
    records = load_images(root, split, images)
    folder = root / "gtFine" / split
    present = label_files(root, split)
    lacking = {}
    for record in records:
        stem = folder / Path(record[keys.FILE_NAME]).parent.name / record[keys.IMAGE_ID]
        record[SEMANTIC_FILE] = f"{stem}{TRAIN_ID_SUFFIX}"
        if not {f"{stem}{LABEL_SUFFIX}", record[SEMANTIC_FILE]} & present:
            lacking[record[keys.IMAGE_ID]] = record[SEMANTIC_FILE]
    lonely = _lonely_labels(present, records)
    records = keep_labelled(records, lacking, lonely, _place(root, split, images), _UNPACK_HINT)
    missing = [r[SEMANTIC_FILE] for r in records if r[SEMANTIC_FILE] not in present]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(records)} files *{TRAIN_ID_SUFFIX} are missing in '{folder}', "
            f"the first is '{missing[0]}'. {_PREPARE_HINT}"
        )
    return records


def label_files(root: Path, split: str) -> set[str]:
    """Lists the label files of a split, downloaded and made, as paths."""
    return {str(path) for path in (root / "gtFine" / split).glob("*/*.png")}


def _lonely_labels(files: set[str], records: list[Record]) -> list[str]:
    """Returns the ids of labels without an image."""
    names = {os.path.basename(path) for path in files}
    ends = (LABEL_SUFFIX, TRAIN_ID_SUFFIX)
    labelled = {name.removesuffix(end) for end in ends for name in names if name.endswith(end)}
    return sorted(labelled - {record[keys.IMAGE_ID] for record in records})


def load_panoptic(root: Path, split: str, images: ImageFiles = CLEAR) -> list[Record]:
    """Lists the images of a split with semantic and panoptic label files and ``segments_info``.

    Images without labels, downloaded or made, are left out.

    Raises:
        DatasetError: no image has its labels, or files that can be made are missing.
    """
    path = panoptic_json(root, split)
    folder = path.with_suffix("")
    if not path.is_file() or not folder.is_dir():
        raise DatasetError(f"no '{path}' with its folder of PNG files. {_PREPARE_HINT}")
    annotations = _read_annotations(path)
    by_image = {annotation["image_id"]: annotation for annotation in annotations}
    if len(by_image) < len(annotations):
        raise DatasetError(f"'{path}' lists an image twice. Delete it. {_PREPARE_HINT}")
    records = load_semantic(root, split, images)
    unlisted = {
        record[keys.IMAGE_ID]: record[SEMANTIC_FILE].replace(TRAIN_ID_SUFFIX, INSTANCE_SUFFIX)
        for record in records
        if record[keys.IMAGE_ID] not in by_image
    }
    stale = sorted(name for name, file in unlisted.items() if os.path.isfile(file))
    if stale:
        raise DatasetError(
            f"{len(records)} images of split '{split}' but {len(by_image)} entries in '{path}'; "
            f"without a partner: {few(stale)}. Delete the JSON file. {_PREPARE_HINT}"
        )
    records = keep_labelled(records, unlisted, (), _place(root, split, images), _UNPACK_HINT)
    needed = {by_image[record[keys.IMAGE_ID]]["file_name"] for record in records}
    missing = sorted(needed - set(os.listdir(folder)))
    if missing:
        raise DatasetError(
            f"{len(missing)} PNG files are missing in '{folder}': {few(missing)}. {_PREPARE_HINT}"
        )
    for record in records:
        annotation = by_image[record[keys.IMAGE_ID]]
        record[PANOPTIC_FILE] = str(folder / annotation["file_name"])
        record[SEGMENTS] = annotation[SEGMENTS]
    return records


def _place(root: Path, split: str, images: ImageFiles) -> str:
    return f"'{root / images.folder / split}'"


def _read_annotations(path: Path) -> list[dict[str, Any]]:
    """Reads and checks the entries of a COCO panoptic file."""
    try:
        annotations = read_json(path)["annotations"]
        for annotation in annotations:
            _check_annotation(annotation)
    except OSError as error:
        raise DatasetError(f"cannot read '{path}': {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"'{path}' is not a COCO panoptic file with train ids ({error!r}). Delete it. "
            f"{_PREPARE_HINT}"
        ) from error
    return annotations


def _check_annotation(annotation: dict[str, Any]) -> None:
    if not isinstance(annotation["image_id"], str):
        raise TypeError(f"image_id {annotation['image_id']!r} is no text")
    check_annotation(annotation)
    for segment in annotation[SEGMENTS]:
        if segment["category_id"] not in TRAIN_IDS_19:
            raise ValueError(
                f"category_id {segment['category_id']} of {annotation['image_id']}, expected train "
                "ids 0..18"
            )


def read_semantic(record: Record) -> np.ndarray:
    """Reads the semantic label: (H, W) uint8 train ids, 255 = ignore.

    Raises:
        DatasetError: unreadable, not 8-bit grey, another size than its image, or not train ids.
    """
    path = record[SEMANTIC_FILE]
    label = read_array(path, cv2.IMREAD_UNCHANGED, f"delete it. {_PREPARE_HINT}")
    if label.ndim != 2 or label.dtype != np.uint8:
        raise DatasetError(f"'{path}' is not an 8-bit grey PNG file. Delete it. {_PREPARE_HINT}")
    check_size(label, record[keys.HEIGHT], record[keys.WIDTH], path)
    found = set(distinct(label).tolist())
    wrong = sorted(found - {*TRAIN_IDS_19, IGNORE_LABEL})
    if wrong:
        raise DatasetError(
            f"'{path}' holds {wrong[:5]}, expected train ids 0..18 and 255: are these label ids? "
            f"Delete it. {_PREPARE_HINT}"
        )
    return label


def read_panoptic(record: Record) -> tuple[np.ndarray, SegmentsInfo]:
    """Reads the panoptic label.

    Returns:
        Segment ids (H, W) int32, 0 = void, and their ``segments_info``; ids are Cityscapes'
        instance ids (``label id`` of stuff and crowds, ``label id * 1000 + n`` of instances).

    Raises:
        DatasetError: unreadable, not colour, another size than its image, or PNG and JSON file
            do not hold the same segments.
    """
    path = record[PANOPTIC_FILE]
    segments = read_ids(path, f"delete it. {_PREPARE_HINT}")
    check_size(segments, record[keys.HEIGHT], record[keys.WIDTH], path)
    found = set(distinct(segments).tolist()) - {0}
    listed = {segment["id"] for segment in record[SEGMENTS]}
    if found != listed:
        raise DatasetError(
            f"'{path}' and its JSON entry disagree: segments only in the JSON file "
            f"{sorted(listed - found)[:5]}, only in the PNG file {sorted(found - listed)[:5]}. "
            f"Delete both. {_PREPARE_HINT}"
        )
    return segments, record[SEGMENTS]


def cityscapes_specs(
    prefix: str,
    root: Callable[[], Path],
    prepare: Callable[[], None] | None = None,
    images: ImageFiles = CLEAR,
    make_labels: LabelFileWork | None = None,
    check_labels: LabelFileWork | None = None,
    ignore_rows: tuple[float, float] = (0.0, 0.0),
    released: Mapping[str, int] | None = None,
) -> Iterator[DatasetSpec]:
    """Makes the five datasets of :func:`gbw_d2.data.formats.target_specs.target_specs`.

    Args:
        prefix: ``"cityscapes"`` or the name of a twin in the same layout.
        root: returns the dataset's folder; only called when the dataset is loaded.
        prepare: makes the files, for datasets that can be generated.
        images: which version of the images.
        make_labels: makes the label files that the download lacks, in place of ``prepare``; called
            with root, split, whether with instances, and images.
        check_labels: checks that these files exist or can be made; called likewise.
        ignore_rows: see :class:`gbw_d2.data.spec.DatasetSpec`.
        released: number of images of the release by split; None for the images found.
    """

    def count(split: str) -> int:
        return released[split] if released else len(list_images(root(), split, images))

    def of_root(work: LabelFileWork | None) -> LabelWork | None:
        return work and (lambda split, panoptic: work(root(), split, panoptic, images))

    return target_specs(
        prefix,
        lambda split: load_images(root(), split, images),
        lambda split: load_semantic(root(), split, images),
        lambda split: load_panoptic(root(), split, images),
        read_semantic,
        read_panoptic,
        CITYSCAPES_19,
        prepare,
        of_root(make_labels),
        of_root(check_labels),
        ignore_rows,
        count,
    )
