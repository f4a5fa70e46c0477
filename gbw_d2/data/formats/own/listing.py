"""Lists the images of a split with their label files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gbw_d2 import keys
from gbw_d2.data.formats.coco_panoptic import PANOPTIC_FILE, SEGMENTS
from gbw_d2.data.formats.files import LABEL_FILE, check_unique, image_record, is_clutter
from gbw_d2.data.formats.own.description import OwnData, OwnSplit, annotations_of
from gbw_d2.data.formats.pairs import keep_labelled
from gbw_d2.data.spec import DatasetError, Record

INSTANCE_FILE = "instance_file_name"
# The file that all records of a COCO split share; class statistics depend on its size.
ANNOTATION_FILE = "annotation_file_name"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_LABEL_KEYS = (LABEL_FILE, INSTANCE_FILE, PANOPTIC_FILE)


def load_split(data: OwnData, name: str) -> list[Record]:
    """Lists the images of a split, sorted by path.

    Args:
        data: the description.
        name: name of the split.

    Returns:
        Records with ``file_name``, ``image_id`` (path below the folder, without suffix and with
        ``__`` for ``/``), ``height``, ``width``, and the files of labels and instances where the
        split has them.

    Raises:
        DatasetError: there are no images, or none has its labels and instances.
    """
    split = data.splits[name]
    if not split.images.is_dir():
        raise DatasetError(f"no folder '{split.images}', which '{data.path}' names for '{name}'")
    found = _find_images(split)
    if not found:
        kinds = split.image_suffix or ", *".join(IMAGE_SUFFIXES)
        raise DatasetError(
            f"no images (*{kinds}) in '{split.images}', which '{data.path}' names for '{name}'"
        )
    records: list[Record] = []
    for path in found:
        relative = path.relative_to(split.images).as_posix()
        stem = relative.removesuffix(split.image_suffix or path.suffix)
        # Predictions are saved under the id, so it must be a valid file name.
        record = image_record(path, stem.replace("/", "__"))
        if split.labels is not None and split.annotations is None:
            other = _replaced(stem, split.label_replace)
            record[LABEL_FILE] = str(split.labels / f"{other}{split.label_suffix}")
        if split.instances is not None:
            other = _replaced(stem, split.instance_replace)
            record[INSTANCE_FILE] = str(split.instances / f"{other}{split.instance_suffix}")
        records.append(record)
    check_unique(split.images, records)
    lacking = {} if split.annotations is None else _add_annotations(split, records)
    for record in records:
        files = [record[key] for key in _LABEL_KEYS if key in record]
        missing = [file for file in files if not Path(file).is_file()]
        if missing:
            lacking[record[keys.IMAGE_ID]] = missing[0]
    hint = (
        f"Names must be equal up to the suffixes and what is replaced, which '{data.path}' may "
        "give (label_suffix, label_replace)."
    )
    return keep_labelled(records, lacking, (), f"split '{name}' of '{data.path}'", hint)


def _replaced(stem: str, replacements: Sequence[tuple[str, str]]) -> str:
    for old, new in replacements:
        stem = stem.replace(old, new)
    return stem


def count_images(data: OwnData, name: str) -> int:
    """Counts the images of a split, with or without a label."""
    return len(_find_images(data.splits[name]))


def _add_annotations(split: OwnSplit, records: list[Record]) -> dict[str, str]:
    """Adds a JSON file's annotations to records; returns what is missing by image id."""
    annotations = annotations_of(split)
    assert split.labels is not None
    lacking = {}
    for record in records:
        path = Path(record[keys.FILE_NAME])
        stem = path.name.removesuffix(split.image_suffix or path.suffix)
        entry = annotations.by_image.get(path.stem) or annotations.by_image.get(stem)
        if entry is None:
            lacking[record[keys.IMAGE_ID]] = f"{annotations.path}: {path.name}"
            continue
        record[PANOPTIC_FILE] = str(split.labels / entry["file_name"])
        record[SEGMENTS] = entry[SEGMENTS]
        record[ANNOTATION_FILE] = str(annotations.path)
    return lacking


def _find_images(split: OwnSplit) -> list[Path]:
    # Path.rglob would skip folders that are symbolic links.
    paths = []
    for folder, below, names in os.walk(split.images, followlinks=True):
        # Changed in place, so that these folders are not visited.
        below[:] = [name for name in below if not is_clutter(name)]
        paths += [Path(folder, name) for name in names if not is_clutter(name)]
    if split.image_suffix:
        return sorted(path for path in paths if path.name.endswith(split.image_suffix))
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
