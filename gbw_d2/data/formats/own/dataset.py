"""Datasets of a data.yaml's splits, and their readers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.coco_panoptic import SEGMENTS, read_numbers
from gbw_d2.data.formats.files import LABEL_FILE, check_size, few
from gbw_d2.data.formats.own.classes import UNLISTED, CodeTable
from gbw_d2.data.formats.own.description import OwnSplit, read_description
from gbw_d2.data.formats.own.instances import InstanceCoding, instances_of, read_values
from gbw_d2.data.formats.own.labels import LABEL_CODINGS
from gbw_d2.data.formats.own.listing import INSTANCE_FILE, count_images, load_split
from gbw_d2.data.formats.segments import join_segments, segment_ids, segments_info
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record, SegmentsInfo, datasets_root
from gbw_d2.label_spaces import VOID, LabelSpace


@dataclass(frozen=True)
class SplitReader:
    """Reads the labels of a split.

    Args:
        path: the description, for errors.
        table: the mapping from codes to classes.
        label_coding: a name of ``LABEL_CODINGS``.
        instance_coding: the meaning of an instance file's values.
        space: the classes.
    """

    path: Path
    table: CodeTable
    label_coding: str
    instance_coding: InstanceCoding | None
    space: LabelSpace

    def codes(self, record: Record) -> np.ndarray:
        """Reads the codes of a label file, (H, W)."""
        file = record[LABEL_FILE]
        codes = LABEL_CODINGS[self.label_coding].read(file)
        check_size(codes, record[keys.HEIGHT], record[keys.WIDTH], file)
        return codes

    def values(self, record: Record) -> np.ndarray:
        """Reads the values of an instance file, (H, W)."""
        assert self.instance_coding is not None
        file = record[INSTANCE_FILE]
        values = read_values(file, self.instance_coding)
        check_size(values, record[keys.HEIGHT], record[keys.WIDTH], file)
        return values

    def semantic(self, record: Record) -> np.ndarray:
        """Reads a label file: (H, W) uint8 class ids, 255 = ignore.

        Raises:
            DatasetError: unreadable, of another coding, another size than its image, or a value
                that the description does not list.
        """
        codes = self.codes(record)
        label = self.table.look_up(codes)
        if (label == UNLISTED).any():
            shown = LABEL_CODINGS[self.label_coding].shown
            wrong = [shown(int(code)) for code in np.unique(codes[label == UNLISTED])]
            raise DatasetError(
                f"'{record[LABEL_FILE]}' holds {few(wrong)}, which '{self.path}' does not list; "
                f"add the value(s) to a class, or to `{VOID}`"
            )
        return label

    def panoptic(self, record: Record) -> tuple[np.ndarray, SegmentsInfo]:
        """Reads label and instance file; see :func:`..segments.join_segments`.

        Raises:
            DatasetError: as :meth:`semantic`, or an instance file of another coding.
        """
        assert self.instance_coding is not None
        instances = instances_of(self.values(record), self.instance_coding)
        return join_segments(self.semantic(record), instances, self.space)


@dataclass(frozen=True)
class CocoReader:
    """Reads the labels of a COCO panoptic split.

    Args:
        table: the mapping from category ids to classes.
        space: the classes.
    """

    table: CodeTable
    space: LabelSpace

    def class_ids(self, record: Record) -> np.ndarray:
        """Returns the class id of each segment of a record, then that of void, uint8."""
        numbers = [segment["category_id"] for segment in record[SEGMENTS]]
        known = self.table.look_up(np.array(numbers, dtype=np.int64))
        return np.append(known, np.uint8(255))

    def semantic(self, record: Record) -> np.ndarray:
        """Reads (H, W) uint8 class ids, 255 = ignore."""
        return self.class_ids(record)[read_numbers(record)]

    def panoptic(self, record: Record) -> tuple[np.ndarray, SegmentsInfo]:
        """Reads the panoptic label; several segments of a stuff class become one."""
        crowds = [bool(segment["iscrowd"]) for segment in record[SEGMENTS]]
        instances = np.array([0 if crowd else i + 1 for i, crowd in enumerate(crowds)] + [0])
        of_number = segment_ids(self.class_ids(record), instances, self.space)
        segments = of_number[read_numbers(record)]
        return segments, segments_info(segments, self.space)


def own_label_space(name: str) -> LabelSpace:
    """Reads the label space of a description.

    Args:
        name: the file, relative to the datasets' root or absolute.

    Raises:
        DatasetError: the file cannot be read, or no split has labels.
    """
    data = read_description(datasets_root() / name)
    if data.classes is None:
        raise DatasetError(f"'{data.path}' has no labelled split, so it has no label space")
    return replace(data.classes.space, name=name)


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
    load = partial(load_split, data, split_name)
    if split.labels is None:
        return DatasetSpec(name, load, ignore_rows=split.ignore_rows)
    assert data.classes is not None
    table, space = data.tables[split_name], replace(data.classes.space, name=file)
    reader = split_reader(data.path, split, table, space)
    has_instances = split.instances is not None or split.annotations is not None
    return DatasetSpec(
        name,
        load,
        read_semantic=reader.semantic,
        read_panoptic=reader.panoptic if has_instances else None,
        label_key=f"{split.label_coding} {space.num_classes} {table.codes.tolist()} "
        f"{table.class_ids.tolist()}",
        label_space=space,
        ignore_rows=split.ignore_rows,
        count_images=partial(count_images, data, split_name),
    )


def split_reader(
    path: Path, split: OwnSplit, table: CodeTable, space: LabelSpace
) -> SplitReader | CocoReader:
    """Returns the reader of a split's labels."""
    if split.annotations is not None:
        return CocoReader(table, space)
    return SplitReader(path, table, split.label_coding, split.instance_coding, space)
