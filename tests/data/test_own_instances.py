"""The instance codings of own data; another coding than stated stops the check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_data import class_names, draw, things_of, write_png
from own_formats import check, describe, same_segments, spec_of

ROOT = Path(__file__).resolve().parents[2]


def instance_values(kind: str, classes: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Codes instances; number 5 is a crowd."""
    raw = np.where(classes == 255, 0, classes.astype(np.int64) + 20)
    crowd = instances == 5
    if kind == "cityscapes":
        return np.where(crowd, raw, raw * 1000 + instances)
    if kind == "divisor":
        return np.where(crowd, raw * 256, raw * 256 + instances)
    if kind == "rgb":
        return np.where(crowd, 0, 1_000_000 + 70_001 * instances.astype(np.int64))
    return np.where(crowd, 0, instances)


CODINGS: dict[str, Any] = {
    "plain": "plain",
    "cityscapes": "cityscapes",
    "divisor": {"divisor": 256},
    "rgb": "rgb",
}


def write_instances(root: Path, kind: str, stated: Any, count: int = 12, **more: Any) -> None:
    from gbw_d2.class_tables import colors_of_ids

    for seed in range(2):
        image, classes, instances = draw(count, seed)
        values = instance_values(kind, classes, instances)
        write_png(root / f"images/{seed}.png", image)
        write_png(
            root / f"labels/{seed}.png", np.where(classes == 255, 0, classes + 20).astype("u1")
        )
        file = colors_of_ids(values) if kind == "rgb" else values.astype(np.uint16)
        write_png(root / f"instances/{seed}.png", file)
    split = {"images": "images", "labels": "labels", "instances": "instances", **more}
    describe(
        root,
        label_space="own",
        classes={n: 20 + i for i, n in enumerate(class_names(count))} | {"void": 0},
        things=things_of(count),
        splits={"all": {**split, "instance_coding": stated}},
    )


@pytest.mark.parametrize("kind", CODINGS)
def test_instance_codings(root: Path, kind: str) -> None:
    write_instances(root, kind, CODINGS[kind])
    spec = spec_of("all")
    for seed, record in enumerate(spec.load()):
        same_segments(spec, record, 12, seed, crowd=5)
    found = check("--check")
    assert found.returncode == 0, found.stderr


def test_crowd_values_are_listed(root: Path) -> None:
    write_instances(root, "plain", "plain", crowd=[7])
    spec = spec_of("all")
    assert spec.read_panoptic is not None
    _, classes, instances = draw(12, 0)
    segments, info = spec.read_panoptic(spec.load()[0])
    by_id = {s["id"]: s for s in info}
    for number in np.unique(instances[np.isin(classes, [1, 4, 7, 10])]):
        here = (instances == number) & np.isin(classes, [1, 4, 7, 10])
        (segment,) = np.unique(segments[here])
        assert by_id[int(segment)]["iscrowd"] == (number in (5, 7))


@pytest.mark.parametrize(
    ("kind", "stated", "line"),
    [
        ("cityscapes", "plain", "instance_coding: cityscapes"),
        ("divisor", "plain", "instance_coding: {divisor: 256}"),
        ("plain", "cityscapes", "instance_coding: plain"),
        ("divisor", "cityscapes", "instance_coding: {divisor: 256}"),
        ("cityscapes", {"divisor": 256}, "instance_coding: cityscapes"),
        ("plain", {"divisor": 256}, "instance_coding: plain"),
        ("rgb", "plain", "or say `instance_coding: rgb`"),
    ],
)
def test_another_coding_than_stated_stops_the_check(
    root: Path, kind: str, stated: Any, line: str
) -> None:
    write_instances(root, kind, stated)
    found = check("--check")
    assert found.returncode == 2 and line in found.stderr, found.stderr


def test_cityscapes_layout_with_classes_of_ones_own(root: Path) -> None:
    image, classes, instances = draw(12, 0)
    values = instance_values("cityscapes", classes, instances)
    for folder, end, array in (
        ("leftImg8bit", "leftImg8bit", image),
        ("gtFine", "gtFine_labelIds", np.where(classes == 255, 0, classes + 20).astype(np.uint8)),
        ("gtFine", "gtFine_instanceIds", values.astype(np.uint16)),
    ):
        write_png(root / f"mine/{folder}/val/ulm/ulm_0_{end}.png", array)
    describe(
        root,
        label_space="own",
        classes={n: 20 + i for i, n in enumerate(class_names(12))} | {"void": 0},
        things=things_of(12),
        splits={"val": {"layout": "cityscapes", "root": "mine", "split": "val"}},
    )
    spec = spec_of("val")
    (record,) = spec.load()
    assert record["image_id"] == "ulm__ulm_0"
    same_segments(spec, record, 12, 0, crowd=5)
