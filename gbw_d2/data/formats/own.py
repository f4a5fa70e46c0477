"""Own data: folders of images, labels and instances that one YAML or JSON file describes.

    classes:                       # class -> its value(s) in the label files
      road: 1
      car: [4, 5]
      void: [0, 255]
    splits:
      source: {images: synthetic/images, labels: synthetic/labels, instances: synthetic/instances}
      target: {images: real/images}                  # images are all that a target needs

Paths are relative to the file. In a config, a split is called ``file.yaml:split``, and the file's
path is relative to the datasets' root. docs/your_own_data.md walks through an example.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from gbw_d2 import keys
from gbw_d2.data.catalog import DatasetError, DatasetSpec, Record, SegmentsInfo, datasets_root
from gbw_d2.data.formats.files import (
    LABEL_FILE,
    check_size,
    check_unique,
    few,
    image_record,
    read_array,
    read_indices,
)
from gbw_d2.data.formats.segments import join_segments
from gbw_d2.label_spaces import CLASSES, IGNORE_LABEL

INSTANCE_FILE = "instance_file_name"
VOID = "void"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_FILE_SUFFIXES = (".yaml", ".yml", ".json")
_NAMES = {c.name: c.train_id for c in CLASSES} | {VOID: IGNORE_LABEL}
# What a value is before the file gives it a class; no train id and not void.
_UNLISTED = 254
_SPLIT_KEYS = ("images", "labels", "instances", "image_suffix", "label_suffix", "instance_suffix")


@dataclass(frozen=True)
class OwnSplit:
    """One split of a description.

    Args:
        images: folder of the images, searched with all folders below it.
        labels: folder of the labels; None for an unlabelled split.
        instances: folder of the instance numbers; None where there are none.
        image_suffix: what image files end with; "" = .png, .jpg or .jpeg.
        label_suffix: what takes its place in the name of the label.
        instance_suffix: the same in the name of the instance file.
    """

    images: Path
    labels: Path | None = None
    instances: Path | None = None
    image_suffix: str = ""
    label_suffix: str = ".png"
    instance_suffix: str = ".png"


@dataclass(frozen=True)
class OwnData:
    """A description that was read and checked.

    Args:
        path: the file it was read from.
        train_id_of: (256,) uint8, value in a label file -> train id, 255 = void, 254 = not listed.
        splits: name -> split.
    """

    path: Path
    train_id_of: np.ndarray
    splits: dict[str, OwnSplit]


def describes_own_data(name: str) -> bool:
    """True where a dataset's name is ``file.yaml:split`` and not a registered one."""
    return name.rpartition(":")[0].lower().endswith(_FILE_SUFFIXES)


def read_description(path: Path) -> OwnData:
    """Reads a description.

    Args:
        path: the YAML or JSON file.

    Raises:
        DatasetError: the file is missing, or an entry of it is not what it should be.
    """
    try:
        # Every JSON file is YAML too.
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(
            f"cannot read '{path}': {error.strerror}. The path is relative to the datasets' root "
            "(DETECTRON2_DATASETS moves it)."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"'{path}' is neither YAML nor JSON: {error}") from error
    _check_keys(path, "the file", content, ("classes", "splits"), required=("splits",))
    if not isinstance(content["splits"], Mapping) or not content["splits"]:
        raise DatasetError(f"'{path}': splits is empty; expected `name: {{images: folder}}`")
    splits = {str(name): _read_split(path, name, s) for name, s in content["splits"].items()}
    labelled = [name for name, split in splits.items() if split.labels is not None]
    if labelled and not content.get("classes"):
        raise DatasetError(
            f"'{path}': split '{labelled[0]}' has labels, but no classes say what their values "
            "mean; expected `classes: {road: 1, ..., void: 0}`"
        )
    return OwnData(path, _read_classes(path, content.get("classes") or {}), splits)


def _check_keys(
    path: Path, what: str, found: Any, known: tuple[str, ...], required: tuple[str, ...]
) -> None:
    if not isinstance(found, Mapping):
        raise DatasetError(f"'{path}': {what} is {found!r}; expected entries {', '.join(known)}")
    unknown = [str(key) for key in found if key not in known]
    missing = [key for key in required if key not in found]
    if unknown or missing:
        words = [f"has unknown entries {few(unknown)}"] if unknown else []
        words += [f"lacks {few(missing)}"] if missing else []
        raise DatasetError(f"'{path}': {what} {' and '.join(words)} (known: {', '.join(known)})")


def _read_split(path: Path, name: Any, entries: Any) -> OwnSplit:
    what = f"split '{name}'"
    _check_keys(path, what, entries, _SPLIT_KEYS, required=("images",))
    odd = [key for key, value in entries.items() if not isinstance(value, str) or not value]
    if odd:
        raise DatasetError(f"'{path}': {what}: {few(odd)} must be text, a folder or a name's end")
    if "instances" in entries and "labels" not in entries:
        raise DatasetError(f"'{path}': {what} has instances but no labels, which give the classes")
    folders = {k: path.parent / entries[k] for k in _SPLIT_KEYS[:3] if k in entries}
    return OwnSplit(**folders, **{k: entries[k] for k in _SPLIT_KEYS[3:] if k in entries})


def _read_classes(path: Path, entries: Any) -> np.ndarray:
    _check_keys(path, "classes", entries, tuple(_NAMES), required=())
    table = np.full(256, _UNLISTED, dtype=np.uint8)
    for name, values in entries.items():
        for value in values if isinstance(values, list) else [values]:
            if type(value) is not int or not 0 <= value <= 255:
                raise DatasetError(
                    f"'{path}': class '{name}' has value {value!r}; expected whole numbers 0..255"
                )
            if table[value] != _UNLISTED:
                raise DatasetError(f"'{path}': two classes have the value {value}")
            table[value] = _NAMES[name]
    return table


def load_split(data: OwnData, name: str) -> list[Record]:
    """Lists the images of a split, sorted by path.

    Args:
        data: the description.
        name: of the split.

    Returns:
        Records with ``file_name``, ``image_id`` (path below the folder, without suffix and with
        ``__`` for ``/``), ``height``, ``width``, and the files of labels and instances where the
        split has them.

    Raises:
        DatasetError: no images, or labels or instances are missing.
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
        # Predictions are saved under the id, so it must be a file's name.
        record = image_record(path, stem.replace("/", "__"))
        if split.labels is not None:
            record[LABEL_FILE] = str(split.labels / f"{stem}{split.label_suffix}")
        if split.instances is not None:
            record[INSTANCE_FILE] = str(split.instances / f"{stem}{split.instance_suffix}")
        records.append(record)
    check_unique(split.images, records)
    for key in (LABEL_FILE, INSTANCE_FILE):
        missing = [r[key] for r in records if key in r and not Path(r[key]).is_file()]
        if missing:
            raise DatasetError(
                f"{len(missing)} of {len(records)} images of '{name}' lack their "
                f"{'label' if key == LABEL_FILE else 'instance'} file: {few(missing)}. Names must "
                f"be equal up to the suffixes, which '{data.path}' may give."
            )
    return records


def _find_images(split: OwnSplit) -> list[Path]:
    # Path.rglob would leave out folders that are links.
    paths = [
        Path(folder, name)
        for folder, _, names in os.walk(split.images, followlinks=True)
        for name in names
    ]
    if split.image_suffix:
        return sorted(path for path in paths if path.name.endswith(split.image_suffix))
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)


def read_semantic(train_id_of: np.ndarray, path: Path, record: Record) -> np.ndarray:
    """Reads a label file: (H, W) uint8 train ids, 255 = ignore.

    Args:
        train_id_of: of :class:`OwnData`.
        path: the description, for errors.
        record: one of :func:`load_split`.

    Raises:
        DatasetError: unreadable, colours, another size than its image, or a value that the
            description does not list.
    """
    file = record[LABEL_FILE]
    values = read_indices(file)
    check_size(values, record[keys.HEIGHT], record[keys.WIDTH], file)
    label = train_id_of[values]
    if (label == _UNLISTED).any():
        wrong = [str(value) for value in np.unique(values[label == _UNLISTED])]
        raise DatasetError(
            f"'{file}' holds {few(wrong)}, which '{path}' does not list; add the value(s) to a "
            f"class, or to `{VOID}`"
        )
    return label


def read_panoptic(
    train_id_of: np.ndarray, path: Path, record: Record
) -> tuple[np.ndarray, SegmentsInfo]:
    """Reads label and instance file; see :func:`gbw_d2.data.formats.segments.join_segments`.

    Raises:
        DatasetError: as in :func:`read_semantic`, or an instance file that is not grey.
    """
    file = record[INSTANCE_FILE]
    instances = read_array(file, cv2.IMREAD_UNCHANGED)
    if instances.ndim != 2 or instances.dtype not in (np.uint8, np.uint16):
        raise DatasetError(
            f"'{file}' is not a grey PNG file of 8 or 16 bits: it must hold one number per pixel, "
            "0 where there is no instance"
        )
    check_size(instances, record[keys.HEIGHT], record[keys.WIDTH], file)
    return join_segments(read_semantic(train_id_of, path, record), instances)


def own_dataset(name: str) -> DatasetSpec:
    """Makes the dataset of ``file.yaml:split``.

    Args:
        name: file, relative to the datasets' root or absolute, and split.

    Raises:
        DatasetError: the file cannot be read or has no such split.
    """
    file, _, split_name = name.rpartition(":")
    data = read_description(datasets_root() / file)
    if split_name not in data.splits:
        raise DatasetError(
            f"'{data.path}' has no split '{split_name}' (it has {', '.join(sorted(data.splits))})"
        )
    split = data.splits[split_name]
    table = data.train_id_of
    return DatasetSpec(
        name,
        load=partial(load_split, data, split_name),
        read_semantic=partial(read_semantic, table, data.path) if split.labels else None,
        read_panoptic=partial(read_panoptic, table, data.path) if split.instances else None,
        label_key=table.tobytes().hex(),
    )
