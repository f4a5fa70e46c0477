"""Statistics of labels: pixels, images and instances of each class, with warnings.

Every ``datasets/prepare_*.py --check`` prints this table and these warnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.files import few
from gbw_d2.data.spec import Record
from gbw_d2.label_spaces import IGNORE_LABEL, LabelSpace
from gbw_d2.ops.segments import segment_attributes

# Number of images from which on absent classes cause a warning.
ENOUGH_IMAGES = 10


@dataclass
class Look:
    """The statistics of one image.

    Attributes:
        file: the label file.
        pixels: (256,) labelled pixels of each class id.
        instances: (256,) instances of each class id, without crowds.
        unknown: values of its label file that the description does not list, as text.
        problem: why the file cannot be read, or "".
        saturated: whether all its things have the greatest number that its instance file can hold.
    """

    file: str
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    instances: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    unknown: tuple[str, ...] = ()
    problem: str = ""
    saturated: bool = False


@dataclass(frozen=True)
class Survey:
    """The statistics of all images of a split.

    Attributes:
        space: its label space; None if it has no labels.
        pixels: (K,) labelled pixels.
        images: (K,) number of images with the class.
        instances: (K,) number of instances, without crowds; None if no instances are read.
        void: number of void pixels.
        problems: messages, each with what to do.
        most: (K,) maximum number of instances of the class in one image; None if no instances are
            read.
        saturated: number of images whose instance file holds only the greatest number.
        number: number of images.
    """

    space: LabelSpace | None
    pixels: np.ndarray
    images: np.ndarray
    instances: np.ndarray | None
    void: int
    problems: list[str]
    most: np.ndarray | None = None
    saturated: int = 0
    number: int = 0


def look_at_label(file: str, label: Any) -> Look:
    """Returns the statistics of a class map (H, W), or of segments with their list."""
    found = Look(file)
    if not isinstance(label, tuple):
        found.pixels = np.bincount(label.ravel(), minlength=256)
        return found
    segment_map, segments = label
    numbers, categories, _ = segment_attributes(segment_map, segments)
    found.pixels = np.bincount(categories.astype(np.uint8)[numbers].ravel(), minlength=256)
    for segment in segments:
        found.instances[segment["category_id"]] += not segment["iscrowd"]
    return found


def is_saturated(values: np.ndarray, things: np.ndarray) -> bool:
    """Whether all things of an instance file have the greatest number of its bit depth.

    Args:
        values: (H, W), values of the file with its own bit depth.
        things: (H, W) bool, where the class is a thing.
    """
    found = set(np.unique(values[things]).tolist()) - {0}
    return values.dtype in (np.uint8, np.uint16) and found == {np.iinfo(values.dtype).max}


def summary(
    space: LabelSpace | None, looks: Sequence[Look], problems: list[str], has_instances: bool
) -> Survey:
    """Combines the statistics of images to those of a split."""
    count = 0 if space is None else space.num_classes
    pixels = np.array([each.pixels for each in looks]).reshape(-1, 256)
    instances = np.array([each.instances for each in looks]).reshape(-1, 256)
    return Survey(
        space,
        pixels.sum(axis=0)[:count],
        (pixels > 0).sum(axis=0)[:count],
        instances.sum(axis=0)[:count] if has_instances else None,
        int(pixels[:, IGNORE_LABEL].sum()),
        problems,
        instances.max(axis=0, initial=0)[:count] if has_instances else None,
        sum(each.saturated for each in looks),
        len(looks),
    )


def of_counts(space: LabelSpace, counts: np.ndarray, records: list[Record]) -> Survey:
    """Returns a split's statistics from counted pixels, without reading labels again.

    Args:
        space: the classes.
        counts: (images, K) labelled pixels, in the order of the records.
        records: the images.
    """
    pixels = sum(record[keys.HEIGHT] * record[keys.WIDTH] for record in records)
    return Survey(
        space,
        counts.sum(axis=0),
        (counts > 0).sum(axis=0),
        None,
        max(0, pixels - int(counts.sum())),
        [],
        number=len(records),
    )


def table(found: Survey) -> str:
    """Returns a text table of the share, images, instances and instances per image of each class.

    Instances per image are the mean over images with the class, and the maximum in one image.
    """
    if found.space is None:
        return ""
    total = max(1, int(found.pixels.sum()))
    names = found.space.class_names
    width = max(map(len, names), default=0)
    head = f"{'class':{width}} {'share of pixels':>15} {'images':>7}"
    counted = found.instances is not None
    lines = [head + (f" {'instances':>9} {'per image':>9} {'most':>5}" if counted else "")]
    for i, name in enumerate(names):
        line = f"{name:{width}} {100 * found.pixels[i] / total:14.3f}% {found.images[i]:7d}"
        lines.append(line + _instance_cells(found, i))
    lines.append(f"void: {100 * found.void / max(1, found.void + total):.3f}% of all pixels")
    absent = [name for name, images in zip(names, found.images, strict=True) if not images]
    if absent:
        lines.append(f"never shown: {few(absent, 20)}")
    return "\n".join(lines)


def _instance_cells(found: Survey, i: int) -> str:
    if found.instances is None or found.most is None or found.space is None:
        return ""
    if not found.space.is_thing[i]:
        return f" {'-':>9} {'-':>9} {'-':>5}"
    mean = found.instances[i] / max(1, found.images[i])
    return f" {found.instances[i]:9d} {mean:9.2f} {found.most[i]:5d}"


def suspicions(found: Survey) -> list[str]:
    """Returns warnings about labels with another coding, or values truncated by a tool."""
    space, total = found.space, int(found.pixels.sum())
    if space is None or not total:
        return []
    words = []
    share = found.void / (found.void + total)
    if share > 0.5:
        words.append(f"{share:.0%} of all pixels are void; do the labels use other numbers?")
    first = int(found.pixels.argmax())
    if space.num_classes > 1 and found.pixels[first] > 0.9 * total:
        words.append(f"{found.pixels[first] / total:.0%} is {space.class_names[first]} alone")
    absent = int((found.images == 0).sum())
    if found.number >= ENOUGH_IMAGES and 2 * absent > space.num_classes:
        words.append(f"{absent} of {space.num_classes} classes never occur")
    return words + _lost_objects(found, space)


def _lost_objects(found: Survey, space: LabelSpace) -> list[str]:
    if found.instances is None or found.most is None:
        return []
    words = []
    if found.saturated:
        words.append(
            f"{found.saturated} instance files number all things 255 (65535 in 16 bits): a tool "
            "(cv2.imwrite of int32, for one) cut larger numbers off; write them as 16-bit PNG"
        )
    things = [i for i in space.thing_ids if found.images[i]]
    bare = [space.class_names[i] for i in things if not found.instances[i]]
    if bare:
        words.append(f"pixels of {few(bare, 20)} but not one object; was the instance map lost?")
    if found.number >= ENOUGH_IMAGES and things and max(found.most[things]) == 1:
        words.append("no picture shows two objects of a class; are objects numbered one by one?")
    return words


def all_void(found: Survey) -> list[str]:
    """Returns the problem of labels that are entirely void, or nothing."""
    if found.space is None or not found.void or found.pixels.sum():
        return []
    return [
        f"all pixels of {found.number} labels are void, so nothing can be learned or evaluated; do "
        "the labels use other numbers than the classes?"
    ]
