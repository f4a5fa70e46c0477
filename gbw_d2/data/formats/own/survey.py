"""Examines all labels of a split: their content, and values that the data.yaml lacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.files import LABEL_FILE, check_size, read_image
from gbw_d2.data.formats.own.classes import UNLISTED
from gbw_d2.data.formats.own.dataset import CocoReader, SplitReader, split_reader
from gbw_d2.data.formats.own.description import OwnData
from gbw_d2.data.formats.own.instances import CodingEvidence, describe_pairs, instances_of
from gbw_d2.data.formats.own.labels import LABEL_CODINGS
from gbw_d2.data.formats.segments import join_segments
from gbw_d2.data.spec import DatasetError, Record
from gbw_d2.data.survey import Look, Survey, is_saturated, look_at_label, summary
from gbw_d2.label_spaces import IGNORE_LABEL, VOID

Bar = Callable[[Iterable[Look]], Iterable[Look]]


def survey(
    data: OwnData, name: str, records: list[Record], workers: int | None, bar: Bar
) -> Survey:
    """Reads images, labels and instances of a split.

    Args:
        data: the description.
        name: name of the split.
        records: its images.
        workers: threads; None = one per processor.
        bar: wraps an iterable to show progress.
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

    # Threads suffice, because decoding, the larger part of the work, releases Python's global lock.
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
    has_instances = split.instances is not None or split.annotations is not None
    return summary(space, looks, problems, has_instances)


def _look(
    record: Record, reader: SplitReader | CocoReader | None, evidence: CodingEvidence | None
) -> Look:
    path = record[keys.FILE_NAME]
    check_size(read_image(path, "RGB"), record[keys.HEIGHT], record[keys.WIDTH], path)
    if reader is None:
        return Look(path)
    if isinstance(reader, CocoReader):
        return look_at_label(path, reader.panoptic(record))
    codes = reader.codes(record)
    labels = reader.table.look_up(codes)
    strange = labels == UNLISTED
    labels[strange] = IGNORE_LABEL
    if evidence is None:
        found = look_at_label(record[LABEL_FILE], labels)
    else:
        values = reader.values(record)
        things = reader.space.is_thing[labels]
        evidence.add(codes, values, things)
        segments = join_segments(labels, instances_of(values, evidence.stated), reader.space)
        found = look_at_label(record[LABEL_FILE], segments)
        found.saturated = is_saturated(values, things)
    shown = LABEL_CODINGS[reader.label_coding].shown
    found.unknown = tuple(shown(code) for code in np.unique(codes[strange]).tolist())
    return found


def _unknown(data: OwnData, looks: list[Look]) -> list[str]:
    """Returns problems that name every unknown value and the first file with it."""
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
