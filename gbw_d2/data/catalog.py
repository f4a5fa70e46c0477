"""What a dataset is to this project, the registry of datasets, and their entry in Detectron2's catalogs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2.data.label_spaces import CLASSES, IGNORE_LABEL
from gbw_d2.registry import Registry

Record = dict[str, Any]


class DatasetError(ValueError):
    """A dataset is missing or broken; the message says what was found, expected, and how to mend it."""


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset: how its files are listed and how its labels are read.

    Args:
        name: its name in configs (``DATASETS.TRAIN`` and so on).
        load: lists the images as Detectron2 records: ``file_name``, ``image_id``, ``height``, ``width``
            (pixels) and whatever the readers below need. It raises :class:`DatasetError` when files are missing.
        read_semantic: record -> (H, W) uint8 train ids, 255 = ignore; None for an unlabelled dataset.
        read_panoptic: record -> ((H, W) int32 segment ids, 0 = void; COCO ``segments_info`` with ``id``,
            ``category_id`` (train id), ``iscrowd``); None where there are no instances to read.
        prepare: makes the files when they can be made (the toy world); called by one process before ``load``.
    """

    name: str
    load: Callable[[], list[Record]]
    read_semantic: Callable[[Record], np.ndarray] | None = None
    read_panoptic: Callable[[Record], tuple[np.ndarray, list[dict[str, Any]]]] | None = None
    prepare: Callable[[], None] | None = None

    @property
    def is_labelled(self) -> bool:
        """True where any label can be read."""
        return self.read_semantic is not None or self.read_panoptic is not None


DATASETS: Registry[DatasetSpec] = Registry("dataset")


def register_dataset(spec: DatasetSpec) -> DatasetSpec:
    """Files a dataset under its name; importing Detectron2 is put off until it is needed."""
    return DATASETS.register(spec.name)(spec)


def datasets_root() -> Path:
    """Returns the folder that holds all datasets: ``$DETECTRON2_DATASETS``, or ``./datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_with_detectron2() -> None:
    """Enters every dataset of ours into Detectron2's ``DatasetCatalog`` and ``MetadataCatalog``, once."""
    from gbw_d2 import compat  # noqa: F401, I001  (repairs must come before Detectron2)
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for name in DATASETS:
        if name in DatasetCatalog.list():
            continue
        spec = DATASETS.get(name)
        DatasetCatalog.register(name, spec.load)
        MetadataCatalog.get(name).set(
            ignore_label=IGNORE_LABEL,
            stuff_classes=[c.name for c in CLASSES],
            stuff_colors=[c.color for c in CLASSES],
            thing_classes=[c.name for c in CLASSES if c.is_thing],
            thing_colors=[c.color for c in CLASSES if c.is_thing],
            evaluator_type="gbw_d2",
        )
