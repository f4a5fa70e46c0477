"""GTA5 ("Playing for Data") as downloaded: ``images/*.png`` and ``labels/*.png``.

A label is a PNG with a palette whose indices are Cityscapes' label ids. There are no instances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.files import LABEL_FILE, few, list_names, png_size, warn_once
from gbw_d2.data.formats.label_ids import read_label_ids
from gbw_d2.data.formats.pairs import load_pairs
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record
from gbw_d2.label_spaces import CITYSCAPES_19

# Some labels of the release are a few pixels larger or smaller than their images. Published codes
# resize both to one size and so stretch such a label; a larger difference is an error.
MAX_SIZE_DIFFERENCE = 0.05

_HINT = (
    "Expected GTA5 with images/*.png and labels/*.png there; datasets/README.md shows where the "
    "files go (DETECTRON2_DATASETS moves the root), and `python datasets/prepare_gta5.py --check` "
    "checks them."
)


def load_gta5(root: Path) -> list[Record]:
    """Lists the images of a GTA5 folder, sorted by name.

    Args:
        root: the folder with ``images`` and ``labels``.

    Pairs of different sizes are left out. Three public codes leave out 15188 and 17705: two of them
    by name and without a reason, RobustNet because it drops every image whose label has another
    size.

    Raises:
        DatasetError: a folder is missing, or images and labels do not pair up.
    """
    records = load_pairs(root / "images", root / "labels", _HINT)
    fitting = [record for record in records if _may_fit(record)]
    if len(fitting) < len(records):
        kept = {record[keys.IMAGE_ID] for record in fitting}
        names = [r[keys.IMAGE_ID] for r in records if r[keys.IMAGE_ID] not in kept]
        warn_once(
            f"'{root}': left out {len(names)} whose label is more than "
            f"{100 * MAX_SIZE_DIFFERENCE:.0f} % larger or smaller than the image ({few(names)}); "
            f"{len(fitting)} pairs are used"
        )
    return fitting


def _may_fit(record: Record) -> bool:
    """Whether image and label may have the same size, judged by their headers."""
    try:
        size = png_size(record[LABEL_FILE])
    except DatasetError:
        return True  # reading it says what is wrong with it
    return _difference(size, record) <= MAX_SIZE_DIFFERENCE


def _difference(size: tuple[int, ...], record: Record) -> float:
    """Returns the larger relative difference between a label's and the image's rows or columns."""
    image = (record[keys.HEIGHT], record[keys.WIDTH])
    return max(abs(a - b) / b for a, b in zip(size, image, strict=True))


def read_semantic(record: Record) -> np.ndarray:
    """Reads the semantic label: (H, W) uint8 train ids, 255 = ignore, at the size of the image.

    Raises:
        DatasetError: unreadable, colours instead of indices, ids that Cityscapes does not have, or
            a size that differs from the image's by more than 5 %.
    """
    path = record[LABEL_FILE]
    label = read_label_ids(path, "GTA5's own labels have a palette: unpack them again.")
    size = (record[keys.HEIGHT], record[keys.WIDTH])
    if label.shape == size:
        return label
    if _difference(label.shape, record) > MAX_SIZE_DIFFERENCE:
        raise DatasetError(
            f"'{path}' has {label.shape[0]}x{label.shape[1]} pixels (rows x columns) but its image "
            f"has {size[0]}x{size[1]}; GTA5's own exceptions are within "
            f"{100 * MAX_SIZE_DIFFERENCE:.0f} %. Unpack both again."
        )
    return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def gta5_specs(
    prefix: str, root: Callable[[], Path], prepare: Callable[[], None] | None = None
) -> Iterator[DatasetSpec]:
    """Makes ``{prefix}_semantic_train``: all images, since the release has no split lists.

    Args:
        prefix: ``"gta5"`` or the name of a twin in the same layout.
        root: returns the dataset's folder; only called when the dataset is loaded.
        prepare: makes the files, for datasets that can be generated.
    """

    def load() -> list[Record]:
        return load_gta5(root())

    def count() -> int:
        return len(list_names(root() / "images", ".png", _HINT))

    yield DatasetSpec(
        f"{prefix}_semantic_train",
        load,
        read_semantic,
        prepare=prepare,
        label_space=CITYSCAPES_19,
        count_images=count,
    )
