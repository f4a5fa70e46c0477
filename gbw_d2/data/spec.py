"""The definition of a dataset: its records, its label readers and its root folder."""

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
from gbw_d2.label_spaces import LabelSpace, training_table

Record = dict[str, Any]
SegmentsInfo = list[dict[str, Any]]
SemanticReader = Callable[[Record], np.ndarray]
PanopticReader = Callable[[Record], tuple[np.ndarray, SegmentsInfo]]
# Called with the split and whether with instances.
LabelWork = Callable[[str, bool], None]


class DatasetError(UserError):
    """A dataset is missing or damaged; the message says what was found and what to do."""


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset: lists its files and reads its labels.

    Args:
        name: its name in configs (``DATASETS.TRAIN`` and so on).
        load: lists the images as Detectron2 records: ``file_name``, ``image_id``, ``height``,
            ``width`` (pixels) and further entries that the readers below need. It raises
            :class:`DatasetError` if files are missing.
        read_semantic: reads a record's class ids of ``label_space``, (H, W) uint8, 255 = ignore;
            None for an unlabelled dataset.
        read_panoptic: reads a record's segments: ((H, W) int32 segment ids, 0 = void; COCO
            ``segments_info`` with ``id``, ``category_id`` (class id of ``label_space``),
            ``iscrowd``); None if the dataset has no instances.
        prepare: makes missing files that can be made (the toy world, Cityscapes' panoptic files);
            called by one process before ``load``.
        check: quickly checks that ``prepare`` will find its input, and raises :class:`DatasetError`
            if not; None if it needs no input.
        label_key: further settings that the labels depend on, beside reader and files; when it
            changes, classes are counted anew.
        label_space: the classes of the readers' class ids; None for an unlabelled dataset.
        ignore_rows: share of the rows at the top and at the bottom of each image that show no
            class, such as the ego vehicle's hood; 0..1.
        count_images: returns the number of images of the whole set: that of the release if there is
            one, else that of the images found, with or without a label. Metrics on fewer images are
            called partial. None for the number that ``load`` lists.
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
    count_images: Callable[[], int] | None = None

    def __post_init__(self) -> None:
        if self.is_labelled and self.label_space is None:
            raise ValueError(f"dataset '{self.name}' has readers, but no label space they speak")

    def in_space(self, space: LabelSpace) -> DatasetSpec:
        """Returns this dataset with readers that return class ids of ``space``.

        Raises:
            UserError: a class of either label space has no counterpart in the other.
        """
        if self.label_space is None or self.label_space == space:
            return self
        return self.translated(training_table(self.label_space, space), space)

    def translated(self, table: np.ndarray, space: LabelSpace) -> DatasetSpec:
        """Returns this dataset with readers that return another label space's class ids.

        Args:
            table: (256,) uint8, class id of ``space`` for each class id of this dataset, 255 =
                void.
            space: the other label space.
        """
        own = self.classes
        # Segments also change where the same class is a thing in one space and stuff in the other.
        same_things = np.array_equal(*(s.is_thing[: own.num_classes] for s in (own, space)))
        if is_identity(table[: own.num_classes]) and same_things:
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
        """Checks that all files exist that cannot be made, and makes none.

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
        """Whether the dataset has labels."""
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


def datasets_root() -> Path:
    """Returns the folder that holds all datasets: ``$DETECTRON2_DATASETS``, or ``./datasets``."""
    return Path(os.path.expandvars(os.environ.get("DETECTRON2_DATASETS", "datasets"))).expanduser()
