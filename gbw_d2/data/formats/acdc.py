"""ACDC (Sakaridis et al., ICCV 2021): Cityscapes' classes in fog, at night, in rain and in snow.

Files as downloaded: ``rgb_anon/<condition>/<split>/<drive>/*_rgb_anon.png`` and
``gt/<condition>/<split>/<drive>/*_gt_labelTrainIds.png`` (Cityscapes' train ids, 255 = ignore);
``gt_panoptic`` holds the panoptic labels (:mod:`gbw_d2.data.formats.acdc_panoptic`). The labels of
the official test split are not public.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.acdc_panoptic import read_panoptic, with_segments
from gbw_d2.data.formats.files import (
    LABEL_FILE,
    check_size,
    check_unique,
    few,
    image_record,
    is_clutter,
    read_indices,
)
from gbw_d2.data.formats.pairs import with_labels
from gbw_d2.data.formats.target_specs import target_specs
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record
from gbw_d2.label_spaces import CITYSCAPES_19, IGNORE_LABEL

CONDITIONS = ("fog", "night", "rain", "snow")
# Images of the release, by split and condition.
NUM_IMAGES = {
    "train": dict.fromkeys(CONDITIONS, 400),
    "val": {"fog": 100, "night": 106, "rain": 100, "snow": 100},
}
_IMAGE, _LABEL = "_rgb_anon.png", "_gt_labelTrainIds.png"
_HINT = (
    "Expected ACDC with rgb_anon/<condition>/<split>/*/*_rgb_anon.png and "
    "gt/<condition>/<split>/*/*_gt_labelTrainIds.png there; datasets/README.md shows where the "
    "files go (DETECTRON2_DATASETS moves the root), and `python datasets/prepare_acdc.py --check` "
    "checks them."
)


def load_acdc(
    root: Path, split: str, conditions: Sequence[str] = CONDITIONS, labelled: bool = True
) -> list[Record]:
    """Lists the images of a split, by condition and name.

    Args:
        root: the folder with ``rgb_anon`` and ``gt``.
        split: ``train`` or ``val``.
        conditions: of :data:`CONDITIONS`.
        labelled: whether the records include the labels.

    Raises:
        DatasetError: no images, or none with its label.
    """
    records = [
        image_record(path, f"{condition}__{path.name.removesuffix(_IMAGE)}")
        for condition in conditions
        for path in _images(root, split, condition)
    ]
    check_unique(root, records)
    if not labelled:
        return records

    def label_of(image: Path) -> Path:
        below = image.relative_to(root / "rgb_anon").parent
        return root / "gt" / below / f"{image.name.removesuffix(_IMAGE)}{_LABEL}"

    return with_labels(records, label_of, f"'{root / 'rgb_anon'}'", _HINT)


def _images(root: Path, split: str, condition: str) -> list[Path]:
    folder = root / "rgb_anon" / condition / split
    found = sorted(p for p in folder.glob(f"*/*{_IMAGE}") if not is_clutter(p.name))
    if not found:
        raise DatasetError(f"no images (*/*{_IMAGE}) in '{folder}'. {_HINT}")
    return found


def read_semantic(record: Record) -> np.ndarray:
    """Reads the semantic label: (H, W) uint8 train ids, 255 = ignore.

    Raises:
        DatasetError: unreadable, of another size than its image, or an id that is no train id.
    """
    path = record[LABEL_FILE]
    label = read_indices(path)
    check_size(label, record[keys.HEIGHT], record[keys.WIDTH], path)
    strange = np.unique(label[(label >= CITYSCAPES_19.num_classes) & (label != IGNORE_LABEL)])
    if strange.size:
        raise DatasetError(
            f"'{path}' holds id(s) {few([str(i) for i in strange])}; expected Cityscapes' train "
            f"ids 0..18 and 255. {_HINT}"
        )
    return label


def load_panoptic(root: Path, split: str, conditions: Sequence[str] = CONDITIONS) -> list[Record]:
    """Lists the images of a split that have both a semantic and a panoptic label.

    Args:
        root: the folder with ``rgb_anon``, ``gt`` and ``gt_panoptic``.
        split: ``train`` or ``val``.
        conditions: of :data:`CONDITIONS`.

    Raises:
        DatasetError: no images, none with its labels, or a JSON file that cannot be used.
    """
    return [
        record
        for condition in conditions
        for record in with_segments(
            load_acdc(root, split, (condition,)), root / "gt_panoptic", split, condition
        )
    ]


def acdc_specs(
    prefix: str, root: Callable[[], Path], prepare: Callable[[], None] | None = None
) -> Iterator[DatasetSpec]:
    """Makes the datasets of all conditions together, and of each condition.

    Names: the five of :func:`gbw_d2.data.formats.target_specs.target_specs` and the same with the
    condition, ``{prefix}_night_panoptic_val``.

    Args:
        prefix: ``"acdc"`` or the name of a twin in the same layout.
        root: returns the dataset's folder; only called when the dataset is loaded.
        prepare: makes the files, for datasets that can be generated.
    """

    def images(conditions: Sequence[str], split: str) -> list[Record]:
        return load_acdc(root(), split, conditions, labelled=False)

    def semantic(conditions: Sequence[str], split: str) -> list[Record]:
        return load_acdc(root(), split, conditions)

    def panoptic(conditions: Sequence[str], split: str) -> list[Record]:
        return load_panoptic(root(), split, conditions)

    def count(conditions: Sequence[str], split: str) -> int:
        return sum(len(_images(root(), split, condition)) for condition in conditions)

    for name, conditions in (
        (prefix, CONDITIONS),
        *((f"{prefix}_{condition}", (condition,)) for condition in CONDITIONS),
    ):
        yield from target_specs(
            name,
            partial(images, conditions),
            partial(semantic, conditions),
            partial(panoptic, conditions),
            read_semantic,
            read_panoptic,
            CITYSCAPES_19,
            prepare,
            count_images=partial(count, conditions),
        )
