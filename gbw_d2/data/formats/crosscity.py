"""Cross-City (NTHU) as downloaded: ``<City>/Images/{Train,Test}`` and ``<City>/Labels/Test``.

Labels are PNG files ``<image>_eval.png`` of Cityscapes' label ids, for the test images only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from gbw_d2 import keys
from gbw_d2.cityscapes_classes import TRAIN_IDS_13, TRAIN_IDS_19
from gbw_d2.data.formats.files import LABEL_FILE, check_size, check_unique, image_record, is_clutter
from gbw_d2.data.formats.label_ids import read_label_ids
from gbw_d2.data.formats.pairs import with_labels
from gbw_d2.data.formats.target_specs import semantic_specs
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record
from gbw_d2.label_spaces import CITYSCAPES_19, IGNORE_LABEL

CITIES = ("Rome", "Rio", "Tokyo", "Taipei")
# Images of each city in the release.
NUM_TRAIN, NUM_TEST = 3200, 100
_SUFFIXES = (".jpg", ".png")
_HINT = (
    "Expected Cross-City with <City>/Images/{Train,Test} and <City>/Labels/Test there; "
    "datasets/README.md shows where the files go (DETECTRON2_DATASETS moves the root), and "
    "`python datasets/prepare_crosscity.py --check` checks them."
)
# The benchmark has 13 classes; all other labels are ignored, as in published codes.
_ONLY_13 = np.full(256, IGNORE_LABEL, dtype=np.uint8)
_ONLY_13[list(TRAIN_IDS_19)] = [t if t in TRAIN_IDS_13 else IGNORE_LABEL for t in TRAIN_IDS_19]


def load_crosscity_images(root: Path, city: str, folder: str) -> list[Record]:
    """Lists the images of a city without labels, sorted by name.

    Args:
        root: the folder with the cities.
        city: one of :data:`CITIES`.
        folder: ``"Train"`` or ``"Test"``.

    Raises:
        DatasetError: no such folder, no images in it, or one in two formats.
    """
    path = root / city / "Images" / folder
    if not path.is_dir():
        raise DatasetError(f"no folder '{path}'. {_HINT}")
    names = sorted(
        e.name for e in os.scandir(path) if e.name.endswith(_SUFFIXES) and not is_clutter(e.name)
    )
    if not names:
        raise DatasetError(f"no images (*{', *'.join(_SUFFIXES)}) in '{path}'. {_HINT}")
    records = [image_record(path / name, Path(name).stem) for name in names]
    check_unique(path, records)
    return records


def load_crosscity_labelled(root: Path, city: str) -> list[Record]:
    """Lists the test images of a city with their labels.

    Raises:
        DatasetError: images are missing, or there is no label.
    """
    records = load_crosscity_images(root, city, "Test")
    folder = root / city / "Labels" / "Test"
    return with_labels(
        records,
        lambda image: folder / f"{image.stem}_eval.png",
        f"'{root / city / 'Images' / 'Test'}'",
        _HINT,
        (path.name for path in folder.glob("*_eval.png")),
    )


def read_semantic(record: Record) -> np.ndarray:
    """Reads the semantic label: (H, W) uint8, the train ids of the 13 classes, 255 = ignore.

    Raises:
        DatasetError: unreadable, not one channel, another size than its image, or unknown ids.
    """
    path = record[LABEL_FILE]
    label = read_label_ids(path, "Cross-City's labels are the files *_eval.png.")
    check_size(label, record[keys.HEIGHT], record[keys.WIDTH], path)
    return _ONLY_13[label]


def crosscity_specs(
    prefix: str,
    root: Callable[[], Path],
    prepare: Callable[[], None] | None = None,
    released: int | None = None,
) -> Iterator[DatasetSpec]:
    """Makes ``{prefix}_{city}_unlabelled_train`` and ``{prefix}_{city}_semantic_val``.

    Args:
        prefix: ``"crosscity"`` or the name of a twin in the same layout.
        root: returns the dataset's folder; only called when the dataset is loaded.
        prepare: makes the files, for datasets that can be generated.
        released: number of test images of each city in the release; None for the images found.
    """

    def load(city: str, split: str, labelled: bool) -> list[Record]:
        if labelled:
            return load_crosscity_labelled(root(), city)
        return load_crosscity_images(root(), city, "Train")

    def count(city: str, split: str) -> int:
        return released or len(load_crosscity_images(root(), city, "Test"))

    for city in CITIES:
        yield from semantic_specs(
            f"{prefix}_{city.lower()}",
            partial(load, city),
            ("val",),
            read_semantic,
            CITYSCAPES_19,
            partial(count, city),
            prepare,
        )
