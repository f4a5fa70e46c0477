"""Looks at all labels of a split: what is in them, and what a data.yaml has forgotten."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.coco_panoptic import SEGMENTS
from gbw_d2.data.formats.files import LABEL_FILE, check_size, few, read_image
from gbw_d2.data.formats.own.classes import UNLISTED
from gbw_d2.data.formats.own.dataset import CocoReader, SplitReader, split_reader
from gbw_d2.data.formats.own.description import OwnData
from gbw_d2.data.formats.own.instances import CodingEvidence, describe_pairs, instances_of
from gbw_d2.data.formats.own.labels import LABEL_CODINGS
from gbw_d2.data.formats.segments import join_segments
from gbw_d2.data.spec import DatasetError, Record
from gbw_d2.label_spaces import IGNORE_LABEL, VOID, LabelSpace

Bar = Callable[[Iterable["Look"]], Iterable["Look"]]


@dataclass
class Look:
    """What one image shows.

    Attributes:
        pixels: (256,) labelled pixels of each class id.
        instances: (256,) instances of each class id, without crowds.
        unknown: what its label file holds and the description does not list, as it is shown.
        problem: why it cannot be read, "" where it can.
    """

    file: str
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    instances: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    unknown: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Survey:
    """What all images of a split show.

    Attributes:
        space: its classes; None where it has no labels.
        pixels: (K,) labelled pixels.
        images: (K,) images that show the class.
        instances: (K,) instances, without crowds; None where no instances are read.
        void: void pixels.
        problems: in words, each with what to do.
    """

    space: LabelSpace | None
    pixels: np.ndarray
    images: np.ndarray
    instances: np.ndarray | None
    void: int
    problems: list[str]


def survey(
    data: OwnData, name: str, records: list[Record], workers: int | None, bar: Bar
) -> Survey:
    """Reads images, labels and instances of a split.

    Args:
        data: the description.
        name: of the split.
        records: its images.
        workers: threads; None = one per processor.
        bar: wraps what is gone through, to show progress.
    """
    split = data.splits[name]
    space, reader, evidence = None, None, None
    if split.labels is not None:
        assert data.classes is not None
        space = data.classes.space
        reader = split_reader(data.path, split, data.tables[name], space)
        if split.instances is not None and split.instance_coding is not None:
            evidence = CodingEvidence(split.instance_coding)

    def look(record: Record) -> Look:
        try:
            return _look(record, reader, evidence)
        except DatasetError as error:
            return Look(record[keys.FILE_NAME], problem=str(error))

    # Threads: decoding, the larger part of the work, runs outside Python's lock.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        looks = list(bar(pool.map(look, records)))
    problems = [each.problem for each in looks if each.problem]
    problems += _unknown(data, looks)
    line = None if evidence is None else evidence.suspicion()
    if evidence is not None and line is not None:
        problems.append(
            f"split '{name}' of '{data.path}': the instance files look like another coding than "
            f"'{evidence.stated.name}' (values such as {describe_pairs(evidence)}); write `{line}`"
        )
    count = 0 if space is None else space.num_classes
    pixels = np.array([each.pixels for each in looks])
    has_instances = split.instances is not None or split.annotations is not None
    return Survey(
        space,
        pixels.sum(axis=0)[:count],
        (pixels > 0).sum(axis=0)[:count],
        np.sum([e.instances for e in looks], axis=0)[:count] if has_instances else None,
        int(pixels[:, IGNORE_LABEL].sum()),
        problems,
    )


def _look(
    record: Record, reader: SplitReader | CocoReader | None, evidence: CodingEvidence | None
) -> Look:
    path = record[keys.FILE_NAME]
    check_size(read_image(path, "RGB"), record[keys.HEIGHT], record[keys.WIDTH], path)
    found = Look(path)
    if isinstance(reader, CocoReader):
        labels = reader.semantic(record)
        for segment, class_id in zip(record[SEGMENTS], reader.class_ids(record)[:-1], strict=True):
            found.instances[class_id] += not segment["iscrowd"]
    elif reader is not None:
        codes = reader.codes(record)
        labels = reader.table.look_up(codes)
        shown = LABEL_CODINGS[reader.label_coding].shown
        strange = codes[labels == UNLISTED]
        found.unknown = tuple(shown(code) for code in np.unique(strange).tolist())
        found.file = record[LABEL_FILE]
        labels[labels == UNLISTED] = IGNORE_LABEL
        if evidence is not None:
            values = reader.values(record)
            evidence.add(codes, values, reader.space.is_thing[labels])
            instances = instances_of(values, evidence.stated)
            for segment in join_segments(labels, instances, reader.space)[1]:
                found.instances[segment["category_id"]] += not segment["iscrowd"]
    else:
        return found
    found.pixels = np.bincount(labels.ravel(), minlength=256)
    return found


def _unknown(data: OwnData, looks: list[Look]) -> list[str]:
    """Names every unknown value with the first file that has it."""
    first: dict[str, str] = {}
    for each in looks:
        for shown in each.unknown:
            first.setdefault(shown, each.file)
    if not first:
        return []
    return [
        *(
            f"value {shown} is not listed; the first file with it is '{file}'"
            for shown, file in first.items()
        ),
        f"add to a class of '{data.path}', or to `{VOID}`: {', '.join(first)}",
    ]


def table(found: Survey) -> str:
    """Returns class shares, images and instances per class, as text."""
    if found.space is None:
        return ""
    total = max(1, int(found.pixels.sum()))
    names = found.space.class_names
    width = max(map(len, names), default=0)
    head = f"{'class':{width}} {'share of pixels':>15} {'images':>7}"
    lines = [head + ("" if found.instances is None else f" {'instances':>9}")]
    for i, name in enumerate(names):
        share = 100 * found.pixels[i] / total
        line = f"{name:{width}} {share:14.3f}% {found.images[i]:7d}"
        if found.instances is not None:
            number = found.instances[i] if found.space.is_thing[i] else "-"
            line += f" {number:>9}"
        lines.append(line)
    lines.append(f"void: {100 * found.void / max(1, found.void + total):.3f}% of all pixels")
    absent = [name for name, images in zip(names, found.images, strict=True) if not images]
    if absent:
        lines.append(f"never shown: {few(absent, 20)}")
    return "\n".join(lines)
