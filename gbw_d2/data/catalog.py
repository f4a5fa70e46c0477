"""What a dataset is to this project, and the one table of datasets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2.class_tables import is_identity, translated_segments
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL, LABEL_SPACES, LabelSpace, training_table
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
        read_semantic: record -> (H, W) uint8 class ids of ``label_space``, 255 = ignore; None for
            an unlabelled dataset.
        read_panoptic: record -> ((H, W) int32 segment ids, 0 = void; COCO ``segments_info`` with
            ``id``, ``category_id`` (class id of ``label_space``), ``iscrowd``); None where no
            instances are read.
        prepare: makes the files that can be made (the toy world, Cityscapes' panoptic files) where
            they are missing; called by one process before ``load``.
        check: looks in seconds whether ``prepare`` will find what it needs, and raises
            :class:`DatasetError` where not; None where it needs nothing.
        label_key: whatever else than reader and files decides what the labels are; counted classes
            are counted anew when it changes.
        label_space: the classes that the readers speak of; None for an unlabelled dataset.
        ignore_rows: share of the rows at the top and at the bottom of each image that show no
            class, such as the own car's hood; 0..1.
    """

    name: str
    load: Callable[[], list[Record]]
    read_semantic: SemanticReader | None = None
    read_panoptic: PanopticReader | None = None
    prepare: Callable[[], None] | None = None
    check: Callable[[], None] | None = None
    label_key: str = ""
    label_space: LabelSpace | None = None
    ignore_rows: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.is_labelled and self.label_space is None:
            raise ValueError(f"dataset '{self.name}' has readers, but no label space they speak")

    def in_space(self, space: LabelSpace) -> DatasetSpec:
        """Returns this dataset with readers that speak the class ids of ``space``.

        Raises:
            UserError: a class of either has no partner in the other.
        """
        if self.label_space is None or self.label_space == space:
            return self
        return self.translated(training_table(self.label_space, space), space)

    def translated(self, table: np.ndarray, space: LabelSpace) -> DatasetSpec:
        """Returns this dataset with readers that speak another space's class ids.

        Args:
            table: (256,) uint8, class id of this dataset -> class id of ``space``, 255 = void.
            space: the other space.
        """
        own = self.classes
        if is_identity(table[: own.num_classes]):
            return replace(self, label_space=space)
        semantic, panoptic = self.read_semantic, self.read_panoptic
        things = (space.is_thing, own.is_thing)
        return replace(
            self,
            read_semantic=semantic and partial(_read_semantic, semantic, table),
            read_panoptic=panoptic and partial(_read_panoptic, panoptic, table, *things),
            label_space=space,
        )

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
    def classes(self) -> LabelSpace:
        """The label space of a labelled dataset."""
        if self.label_space is None:
            raise DatasetError(f"dataset '{self.name}' has no labels, so it has no classes")
        return self.label_space

    @property
    def is_labelled(self) -> bool:
        """True where any label can be read."""
        return self.read_semantic is not None or self.read_panoptic is not None


def _read_semantic(read: SemanticReader, table: np.ndarray, record: Record) -> np.ndarray:
    return table[read(record)]


def _read_panoptic(
    read: PanopticReader,
    table: np.ndarray,
    is_thing: np.ndarray,
    was_thing: np.ndarray,
    record: Record,
) -> tuple[np.ndarray, SegmentsInfo]:
    return translated_segments(*read(record), table, is_thing, was_thing)


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
    label_space: LabelSpace,
    prepare: Callable[[], None] | None = None,
    make_labels: LabelWork | None = None,
    check_labels: LabelWork | None = None,
    ignore_rows: tuple[float, float] = (0.0, 0.0),
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
        label_space: see :class:`DatasetSpec`.
        prepare: makes everything; see :class:`DatasetSpec`.
        make_labels: split, whether with instances -> makes the label files of a labelled dataset;
            instead of ``prepare``.
        check_labels: the same -> looks whether they are there or can be made.
        ignore_rows: see :class:`DatasetSpec`.
    """
    register_dataset(
        DatasetSpec(
            f"{prefix}_unlabelled_train",
            partial(images, "train"),
            prepare=prepare,
            ignore_rows=ignore_rows,
        )
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
                    name,
                    partial(load, split),
                    read_semantic,
                    reader,
                    prepare or make,
                    check,
                    label_space=label_space,
                    ignore_rows=ignore_rows,
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


def find_label_space(name: str) -> LabelSpace:
    """Returns the label space that a config names, and enters it into ``LABEL_SPACES``.

    Args:
        name: a built-in one, or the path of a data.yaml below the datasets' root.

    Raises:
        UnknownNameError: neither; the message lists the built-in ones.
        DatasetError: the file cannot be read.
    """
    from gbw_d2.data.formats.own import is_description, own_label_space

    return (
        LABEL_SPACES.adopt(own_label_space(name))
        if is_description(name)
        else LABEL_SPACES.get(name)
    )


def datasets_root() -> Path:
    """Returns the folder that holds all datasets: ``$DETECTRON2_DATASETS``, or ``./datasets``."""
    return Path(os.path.expandvars(os.environ.get("DETECTRON2_DATASETS", "datasets"))).expanduser()


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
        space = DATASETS.get(name).label_space
        classes = () if space is None else space.classes
        MetadataCatalog.get(name).set(
            ignore_label=IGNORE_LABEL,
            stuff_classes=[c.name for c in classes],
            stuff_colors=[c.color for c in classes],
            thing_classes=[c.name for c in classes if c.is_thing],
            thing_colors=[c.color for c in classes if c.is_thing],
            evaluator_type="gbw_d2",
        )
