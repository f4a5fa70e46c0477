"""Cityscapes' official layout, with the files that :mod:`.cityscapes_labels` adds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbw_d2 import keys
from gbw_d2.cityscapes_classes import TRAIN_IDS_19
from gbw_d2.data.formats.files import (
    check_size,
    few,
    image_record,
    is_clutter,
    list_names,
    read_array,
    read_ids,
    warn_once,
)
from gbw_d2.data.formats.target_specs import target_specs
from gbw_d2.data.spec import DatasetError, DatasetSpec, LabelWork, Record, SegmentsInfo
from gbw_d2.label_spaces import CITYSCAPES_19, IGNORE_LABEL
from gbw_d2.ops.segments import distinct

SEMANTIC_FILE = "sem_seg_file_name"
PANOPTIC_FILE = "pan_seg_file_name"
SEGMENTS = "segments_info"
IMAGE_SUFFIX = "_leftImg8bit.png"
# Share of the rows at the top and at the bottom of the release's images that show the rim of the
# rectified picture and the own car's hood; DAFormer's and HRDA's numbers.
HOOD_AND_RIM = (0.03, 0.234)
TRAIN_ID_SUFFIX = "_gtFine_labelTrainIds.png"

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

_IMAGE_HINT = (
    "Expected Cityscapes' leftImg8bit and gtFine there; datasets/README.md shows where the files "
    "go (DETECTRON2_DATASETS moves the root), and `python datasets/prepare_cityscapes.py --check` "
    "looks them over."
)


@dataclass(frozen=True)
class ImageFiles:
    """Where one version of the images lies; the labels are the same for all.

    Args:
        folder: beside ``gtFine``.
        suffix: what follows the image's id in a file's name.
        hint: what to do when there are none.
    """

    folder: str = "leftImg8bit"
    suffix: str = IMAGE_SUFFIX
    hint: str = _IMAGE_HINT


CLEAR = ImageFiles()
LabelFileWork = Callable[[Path, str, bool, ImageFiles], None]

_PREPARE_HINT = "Run `python datasets/prepare_cityscapes.py`, which makes the missing files."


def panoptic_json(root: Path, split: str) -> Path:
    """Returns the panoptic JSON file of a split, as Cityscapes' own converter names it."""
    return root / "gtFine" / f"cityscapes_panoptic_{split}_trainId.json"


def list_images(root: Path, split: str, images: ImageFiles = CLEAR) -> list[Path]:
    """Lists the image files of a split, sorted by city and name; none is opened.

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
    return [c / name for c in cities for name in list_names(c, images.suffix, images.hint)]


def load_images(root: Path, split: str, images: ImageFiles = CLEAR) -> list[Record]:
    """Makes the records of the images of a split, without labels; see :func:`list_images`."""
    paths = list_images(root, split, images)
    return [image_record(path, path.name.removesuffix(images.suffix)) for path in paths]


def load_semantic(root: Path, split: str, images: ImageFiles = CLEAR) -> list[Record]:
    """Lists the images of a split with their semantic label files.

    Raises:
        DatasetError: images or label files are missing.
    """
    records = load_images(root, split, images)
    folder = root / "gtFine" / split
    present = {str(path) for path in folder.glob(f"*/*{TRAIN_ID_SUFFIX}")}
    missing = []
    for record in records:
        city = Path(record[keys.FILE_NAME]).parent.name
        path = str(folder / city / f"{record[keys.IMAGE_ID]}{TRAIN_ID_SUFFIX}")
        record[SEMANTIC_FILE] = path
        if path not in present:
            missing.append(path)
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(records)} files *{TRAIN_ID_SUFFIX} are missing in '{folder}', "
            f"the first is '{missing[0]}'. {_PREPARE_HINT}"
        )
    return records


def load_panoptic(root: Path, split: str, images: ImageFiles = CLEAR) -> list[Record]:
    """Lists the images of a split with semantic and panoptic label files and ``segments_info``.

    Raises:
        DatasetError: files are missing, or images and JSON entries do not pair up.
    """
    path = panoptic_json(root, split)
    folder = path.with_suffix("")
    if not path.is_file() or not folder.is_dir():
        raise DatasetError(f"no '{path}' with its folder of PNG files. {_PREPARE_HINT}")
    annotations = _read_annotations(path)
    by_image = {annotation["image_id"]: annotation for annotation in annotations}
    records = load_semantic(root, split, images)
    if len(by_image) < len(annotations):
        raise DatasetError(f"'{path}' lists an image twice. Delete it. {_PREPARE_HINT}")
    present = {record[keys.IMAGE_ID] for record in records}
    lonely = sorted(present ^ set(by_image))
    if lonely and present < set(by_image) and split == "train":
        warn_once(
            f"'{path}' has {len(by_image)} entries; {len(lonely)} without an image in "
            f"'{root / images.folder}' are left out, {len(present)} are used"
        )
        annotations = [by_image[name] for name in sorted(present)]
        lonely = []
    if lonely and present < set(by_image):
        raise _incomplete(root, split, images, lonely, len(by_image))
    if lonely:
        raise DatasetError(
            f"{len(records)} images of split '{split}' but {len(by_image)} entries in '{path}'; "
            f"without a partner: {few(lonely)}. Delete the JSON file. {_PREPARE_HINT}"
        )
    missing = sorted({a["file_name"] for a in annotations} - set(os.listdir(folder)))
    if missing:
        raise DatasetError(
            f"{len(missing)} PNG files are missing in '{folder}': {few(missing)}. {_PREPARE_HINT}"
        )
    for record in records:
        annotation = by_image[record[keys.IMAGE_ID]]
        record[PANOPTIC_FILE] = str(folder / annotation["file_name"])
        record[SEGMENTS] = annotation[SEGMENTS]
    return records


def check_complete(root: Path, split: str, images: ImageFiles = CLEAR) -> None:
    """Looks whether every entry of the panoptic JSON file of a test set has its image.

    Raises:
        DatasetError: images are missing, so that scores would be of another test set.
    """
    listed = {a["image_id"] for a in _read_annotations(panoptic_json(root, split))}
    found = list_images(root, split, images)
    lonely = sorted(listed - {path.name.removesuffix(images.suffix) for path in found})
    if lonely:
        raise _incomplete(root, split, images, lonely, len(listed))


def _incomplete(
    root: Path, split: str, images: ImageFiles, lonely: list[str], listed: int
) -> DatasetError:
    return DatasetError(
        f"{len(lonely)} of the {listed} images of split '{split}' in '{panoptic_json(root, split)}'"
        f" are missing in '{root / images.folder}', without a partner: {few(lonely)}. Unpack the "
        "images again."
    )


def _read_annotations(path: Path) -> list[dict[str, Any]]:
    """Reads the entries of a COCO panoptic file and checks all that later code relies on."""
    try:
        annotations = json.loads(path.read_text())["annotations"]
        for annotation in annotations:
            _check_annotation(annotation)
    except OSError as error:
        raise DatasetError(f"cannot read '{path}': {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"'{path}' is not a COCO panoptic file with train ids ({error!r}). Delete it. "
            f"{_PREPARE_HINT}"
        ) from error
    return annotations


def _check_annotation(annotation: dict[str, Any]) -> None:
    for key in ("image_id", "file_name"):
        if not isinstance(annotation[key], str):
            raise TypeError(f"{key} {annotation[key]!r} is no text")
    ids = [segment["id"] for segment in annotation[SEGMENTS]]
    for segment in annotation[SEGMENTS]:
        if not all(isinstance(segment[k], int) for k in ("id", "category_id", "iscrowd")):
            raise TypeError(f"segment {segment} of {annotation['image_id']} has no whole numbers")
        if segment["category_id"] not in TRAIN_IDS_19:
            raise ValueError(
                f"category_id {segment['category_id']} of {annotation['image_id']}, expected train "
                "ids 0..18"
            )
    if len(set(ids)) < len(ids):
        raise ValueError(f"{annotation['image_id']} lists a segment twice")


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
) -> Iterator[DatasetSpec]:
    """Makes the five datasets of :func:`gbw_d2.data.formats.target_specs.target_specs`.

    Args:
        prefix: ``"cityscapes"`` or the name of a twin in the same layout.
        root: gives the dataset's folder; called when the dataset is loaded, not before.
        prepare: makes the files where they can be made.
        images: which version of the images.
        make_labels: (root, split, whether with instances, images) -> makes the label files that
            the download lacks; instead of ``prepare``.
        check_labels: the same -> looks whether they are there or can be made.
        ignore_rows: see :class:`gbw_d2.data.spec.DatasetSpec`.
    """

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
    )
