"""What a dataset is to this project, and the one table of datasets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2.errors import UserError
from gbw_d2.label_spaces import CLASSES, IGNORE_LABEL
from gbw_d2.registry import Registry

Record = dict[str, Any]
SegmentsInfo = list[dict[str, Any]]
SemanticReader = Callable[[Record], np.ndarray]
PanopticReader = Callable[[Record], tuple[np.ndarray, SegmentsInfo]]
# (split, whether with instances)
LabelWork = Callable[[str, bool], None]


class DatasetError(UserError):
    """A dataset is missing or broken; the message says what was found and what to do."""


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset: how its files are listed and how its labels are read.

    Args:
        name: its name in configs (``DATASETS.TRAIN`` and so on).
        load: lists the images as Detectron2 records: ``file_name``, ``image_id``, ``height``,
            ``width`` (pixels) and whatever the readers below need. It raises
            :class:`DatasetError` when files are missing.
        read_semantic: record -> (H, W) uint8 train ids, 255 = ignore; None for an unlabelled
            dataset.
        read_panoptic: record -> ((H, W) int32 segment ids, 0 = void; COCO ``segments_info`` with
            ``id``, ``category_id`` (train id), ``iscrowd``); None where no instances are read.
        prepare: makes the files that can be made (the toy world, Cityscapes' panoptic files) where
            they are missing; called by one process before ``load``.
        check: looks in seconds whether ``prepare`` will find what it needs, and raises
            :class:`DatasetError` where not; None where it needs nothing.
        label_key: whatever else than reader and files decides what the labels are; counted classes
            are counted anew when it changes.
    """

    name: str
    load: Callable[[], list[Record]]
    read_semantic: SemanticReader | None = None
    read_panoptic: PanopticReader | None = None
    prepare: Callable[[], None] | None = None
    check: Callable[[], None] | None = None
    label_key: str = ""

    def look(self) -> None:
        """Looks for all files that nothing makes on the way, and makes none.

        Raises:
            DatasetError: files are missing.
        """
        if self.check is not None:
            self.check()
        elif self.prepare is None:
            self.load()

    @property
    def is_labelled(self) -> bool:
        """True where any label can be read."""
        return self.read_semantic is not None or self.read_panoptic is not None


DATASETS: Registry[DatasetSpec] = Registry("dataset")


def register_dataset(spec: DatasetSpec) -> DatasetSpec:
    """Files a dataset under its name; importing Detectron2 is put off until it is needed."""
    return DATASETS.register(spec.name)(spec)


def register_target(
    prefix: str,
    images: Callable[[str], list[Record]],
    semantic: Callable[[str], list[Record]],
    panoptic: Callable[[str], list[Record]],
    read_semantic: SemanticReader,
    read_panoptic: PanopticReader,
    prepare: Callable[[], None] | None = None,
    make_labels: LabelWork | None = None,
    check_labels: LabelWork | None = None,
) -> None:
    """Registers the unlabelled target, the labelled training set (oracle) and the test set.

    Names: ``{prefix}_unlabelled_train``, ``{prefix}_panoptic_train``, ``{prefix}_semantic_train``,
    ``{prefix}_panoptic_val``, ``{prefix}_semantic_val``. The unlabelled one has no reader at all.

    Args:
        prefix: of the names.
        images: split -> records without labels.
        semantic: split -> records for ``read_semantic``.
        panoptic: split -> records for both readers.
        read_semantic: see :class:`DatasetSpec`.
        read_panoptic: see :class:`DatasetSpec`.
        prepare: makes everything; see :class:`DatasetSpec`.
        make_labels: split, whether with instances -> makes the label files of a labelled dataset;
            instead of ``prepare``.
        check_labels: the same -> looks whether they are there or can be made.
    """
    register_dataset(
        DatasetSpec(f"{prefix}_unlabelled_train", partial(images, "train"), prepare=prepare)
    )
    for split in ("train", "val"):
        for kind, load, reader in (
            ("panoptic", panoptic, read_panoptic),
            ("semantic", semantic, None),
        ):
            make, check = (
                work and partial(work, split, reader is not None)
                for work in (make_labels, check_labels)
            )
            name = f"{prefix}_{kind}_{split}"
            register_dataset(
                DatasetSpec(
                    name, partial(load, split), read_semantic, reader, prepare or make, check
                )
            )


def get_dataset(name: str) -> DatasetSpec:
    """Returns the dataset called ``name``, with all of ours registered.

    Args:
        name: a registered name, or ``file.yaml:split``, a split of the data that a file describes
            (:mod:`gbw_d2.data.formats.own`); it is registered on the way.

    Raises:
        UnknownNameError: no such dataset; the message lists the known ones.
        DatasetError: the file cannot be read or has no such split.
    """
    # Importing them registers; they import this file.
    from gbw_d2.data import datasets  # noqa: F401
    from gbw_d2.data.formats.own import describes_own_data, own_dataset

    if not describes_own_data(name):
        return DATASETS.get(name)
    spec = own_dataset(name)
    return spec if name in DATASETS else register_dataset(spec)


def datasets_root() -> Path:
    """Returns the folder that holds all datasets: ``$DETECTRON2_DATASETS``, or ``./datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def _load(name: str) -> list[Record]:
    return get_dataset(name).load()


def register_with_detectron2() -> None:
    """Enters every dataset into Detectron2's ``DatasetCatalog`` and ``MetadataCatalog``, once."""
    from gbw_d2 import compat  # noqa: F401, I001  (repairs must come before Detectron2)
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from gbw_d2.data import datasets  # noqa: F401

    for name in DATASETS:
        if name in DatasetCatalog.list():
            continue
        DatasetCatalog.register(name, partial(_load, name))
        MetadataCatalog.get(name).set(
            ignore_label=IGNORE_LABEL,
            stuff_classes=[c.name for c in CLASSES],
            stuff_colors=[c.color for c in CLASSES],
            thing_classes=[c.name for c in CLASSES if c.is_thing],
            thing_colors=[c.color for c in CLASSES if c.is_thing],
            evaluator_type="gbw_d2",
        )
