"""The formats of own data: each reads what was written, and mistakes are reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_data import class_names, draw, things_of, write_coco, write_own_data, write_png
from own_formats import check, describe, same_segments, spec_of
from PIL import Image

from gbw_d2.catalog import find_label_space, get_dataset
from gbw_d2.data.formats.own.palette import distinct_colors
from gbw_d2.data.spec import DatasetError
from gbw_d2.data.statistics import image_class_counts
from gbw_d2.label_spaces import CITYSCAPES_19, LABEL_SPACES, scoring, training_table

ROOT = Path(__file__).resolve().parents[2]


# --- classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 40, 254])
def test_any_number_of_classes_of_any_names(root: Path, count: int) -> None:
    write_own_data(root, count, images=2)
    spec = spec_of("source")
    space = spec.classes
    assert space.class_names == tuple(class_names(count))
    assert [c.name for c in space.classes if c.is_thing] == things_of(count)
    assert space == find_label_space("own/data.yaml") == LABEL_SPACES.get("own/data.yaml")
    assert spec.ignore_rows == spec_of("target").ignore_rows == (0.05, 0.0)
    for seed, record in enumerate(spec.load()):
        assert spec.read_semantic is not None
        assert np.array_equal(spec.read_semantic(record), draw(count, seed)[1])
        same_segments(spec, record, count, seed)
    counts = image_class_counts(get_dataset("own/data.yaml:source"))
    assert counts.shape == (2, count) and counts.sum() == 2 * 46 * 64


def test_names_of_cityscapes_alone_are_cityscapes(root: Path) -> None:
    write_png(root / "images/0.png", np.zeros((4, 4, 3), np.uint8))
    write_png(root / "labels/0.png", np.array([[1, 2], [9, 9]], np.uint8).repeat(2, 0).repeat(2, 1))
    splits = {"all": {"images": "images", "labels": "labels"}}
    classes = {"car": 1, "road": 2, "void": 9}
    describe(root, classes=classes, splits=splits)
    spec = spec_of("all")
    assert spec.classes.classes == CITYSCAPES_19.classes
    assert spec.read_semantic is not None
    assert np.unique(spec.read_semantic(spec.load()[0])).tolist() == [0, 13, 255]
    # It meets the built-in spaces as Cityscapes does.
    assert training_table(spec.classes, LABEL_SPACES.get("cityscapes_16"))[13] == 12
    assert scoring(LABEL_SPACES.get("cityscapes_16"), spec.classes).space == spec.classes
    for more in ({"things": ["car"]}, {"label_space": "own"}, {"colors": {"car": [1, 2, 3]}}):
        describe(root, classes=classes, splits=splits, **more)
        assert spec_of("all").classes.class_names == ("car", "road")


def test_merge_joins_own_classes_and_those_of_others(root: Path) -> None:
    write_png(root / "images/0.png", np.zeros((2, 2, 3), np.uint8))
    write_png(root / "labels/0.png", np.array([[1, 2], [3, 4]], np.uint8))
    describe(
        root,
        label_space="own",
        classes={"car": 1, "bus": 2, "road": 3, "bench": 4},
        things=["car", "bus"],
        colors={"car": [1, 2, 3]},
        subsets={"heavy": ["bus"]},
        merge={"vehicle": ["car", "bus", "truck", "train"], "void": ["bench", "sky"]},
        splits={"all": {"images": "images", "labels": "labels"}},
    )
    space = spec_of("all").classes
    assert space.class_names == ("vehicle", "road") and space.thing_ids == (0,)
    assert space.classes[0].color == (1, 2, 3) and space.subsets == {"heavy": ("vehicle",)}
    assert space.aliases == {"truck": "vehicle", "train": "vehicle", "sky": "void"}
    spec = spec_of("all")
    assert spec.read_semantic is not None
    assert spec.read_semantic(spec.load()[0]).tolist() == [[0, 0], [1, 255]]


def test_a_class_table_per_split(root: Path) -> None:
    for name, value in (("a", 1), ("b", 7)):
        write_png(root / f"{name}/images/0.png", np.zeros((2, 2, 3), np.uint8))
        write_png(root / f"{name}/labels/0.png", np.full((2, 2), value, np.uint8))
    describe(
        root,
        label_space="own",
        classes={"road": 1, "car": 2},
        splits={
            "a": {"images": "a/images", "labels": "a/labels"},
            "b": {"images": "b/images", "labels": "b/labels", "classes": {"tram": 5, "road": 7}},
        },
    )
    assert spec_of("a").classes == spec_of("b").classes
    assert spec_of("a").classes.class_names == ("road", "car", "tram")
    for name in ("a", "b"):
        spec = spec_of(name)
        assert spec.read_semantic is not None
        assert (spec.read_semantic(spec.load()[0]) == 0).all()


def test_colors_differ() -> None:
    colors = np.array(distinct_colors(254), dtype=int)
    assert len({tuple(c) for c in colors.tolist()}) == 254
    apart = np.abs(colors[1:] - colors[:-1]).max(axis=1)
    assert apart.min() >= 32 and np.median(apart) >= 96
    # Not void's black, not the white of outlines, and not what somebody chose.
    assert colors.max(axis=1).min() > 0 and colors.min(axis=1).max() < 255
    assert (255, 0, 255) not in distinct_colors(254, [(255, 0, 255)])


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["colors", "palette as colors", "palette", "red", "red 16"])
def test_label_codings(root: Path, kind: str) -> None:
    count = 40
    image, classes, _ = draw(count, 0)
    write_png(root / "images/0.png", image)
    (root / "labels").mkdir()
    colors = np.array(distinct_colors(count), dtype=np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[:count] = colors
    drawn = palette[classes]
    values: dict[str, Any] = {n: colors[i].tolist() for i, n in enumerate(class_names(count))}
    values["void"] = "#000000"
    if kind == "colors":
        Image.fromarray(drawn).save(root / "labels/0.png")
    elif kind.startswith("palette"):
        picture = Image.fromarray(classes)
        picture.putpalette(palette.tobytes())
        picture.save(root / "labels/0.png")
    else:
        # As CARLA writes it: the class is red, the rest is of something else.
        depth = np.uint16 if kind == "red 16" else np.uint8
        write_png(
            root / "labels/0.png", np.dstack([classes * 0 + 9, classes // 2, classes]).astype(depth)
        )
    if kind in ("palette", "red", "red 16"):
        values = {n: i for i, n in enumerate(class_names(count))} | {"void": 255}
    coding = {"palette": "index", "red 16": "red"}.get(kind, "colors" if "colors" in kind else kind)
    split = {"images": "images", "labels": "labels", "label_coding": coding}
    describe(root, label_space="own", classes=values, splits={"all": split})
    spec = spec_of("all")
    assert spec.read_semantic is not None
    assert np.array_equal(spec.read_semantic(spec.load()[0]), classes)


def test_unknown_colors_are_named_with_the_first_file(root: Path) -> None:
    for name, color in (("a", (0, 0, 0)), ("b", (9, 8, 7)), ("c", (9, 8, 7))):
        write_png(root / f"images/{name}.png", np.zeros((2, 2, 3), np.uint8))
        write_png(root / f"labels/{name}.png", np.full((2, 2, 3), color[::-1], np.uint8))
    split = {"images": "images", "labels": "labels", "label_coding": "colors"}
    describe(root, label_space="own", classes={"road": "#000000"}, splits={"all": split})
    spec = spec_of("all")
    assert spec.read_semantic is not None
    with pytest.raises(DatasetError, match=r"b\.png' holds \[9, 8, 7\], which"):
        spec.read_semantic(spec.load()[1])
    found = check("--check")
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "[9, 8, 7]" in found.stderr and "b.png" in found.stderr
    assert "c.png" not in found.stderr


def test_a_coding_that_is_not_that_of_the_file(root: Path) -> None:
    image, classes, _ = draw(3, 0)
    write_png(root / "images/0.png", image)
    write_png(root / "labels/0.png", classes)
    for coding, message in (("colors", "mode L, expected colours"), ("red", "has one channel")):
        values: Any = {"x": [[1, 2, 3]] if coding == "colors" else 1}
        split = {"images": "images", "labels": "labels", "label_coding": coding}
        describe(root, label_space="own", classes=values, splits={"all": split})
        spec = spec_of("all")
        assert spec.read_semantic is not None
        with pytest.raises(DatasetError, match=message):
            spec.read_semantic(spec.load()[0])
    describe(root, classes={"x": 1}, splits={"all": {**split, "label_coding": "grey"}})
    with pytest.raises(DatasetError, match="label_coding is 'grey'; expected one of index, colors"):
        spec_of("all")


# --- COCO ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_ids", [False, True])
def test_coco_panoptic(root: Path, text_ids: bool) -> None:
    write_coco(root, 40, text_ids=text_ids)
    split = {"images": "images", "labels": "png", "annotations": "panoptic.json"}
    describe(root, splits={"all": split})
    spec = spec_of("all")
    # Names and things are the JSON file's own.
    assert spec.classes.class_names == tuple(class_names(40))
    assert [c.name for c in spec.classes.classes if c.is_thing] == things_of(40)
    for seed, record in enumerate(spec.load()):
        assert spec.read_semantic is not None
        assert np.array_equal(spec.read_semantic(record), draw(40, seed)[1])
        same_segments(spec, record, 40, seed, crowd=48)
    found = check("--check")
    assert found.returncode == 0, found.stderr
    assert "40 classes, 13 of them things" in found.stdout and "instances" in found.stdout


def test_coco_with_classes_of_ones_own(root: Path) -> None:
    content = write_coco(root, 6)
    split = {"images": "images", "labels": "png", "annotations": "panoptic.json"}
    names = class_names(6)
    classes = {"a": [3, 17], "b": [10, 31], "void": [24, 38]}
    describe(root, classes=classes, splits={"all": split})
    spec = spec_of("all")
    assert spec.classes.class_names == ("a", "b")
    # Categories 10 and 31 are things, 3 and 17 are not.
    assert spec.classes.thing_ids == (1,)
    assert spec.read_semantic is not None
    label, drawn = spec.read_semantic(spec.load()[0]), draw(6, 0)[1]
    expected = np.array([0, 1, 0, 255, 1, 255, *[255] * 250], np.uint8)[drawn]
    assert np.array_equal(label, expected)
    describe(root, classes={"a": 3, "void": [10, 17, 24, 31]}, splits={"all": split})
    with pytest.raises(DatasetError, match=rf"does not list categories 38 \({names[5]}\)"):
        spec_of("all")
    content["annotations"][0]["segments_info"][0]["category_id"] = 5
    (root / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="has category 5, which `categories` does not list"):
        spec_of("all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "not a COCO panoptic file: an entry 'categories' is miss"),
        (lambda c: c["annotations"][0].pop("segments_info"), "has no 'segments_info'.*polygons"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=0), "id 0, black.*is void"),
        (lambda c: c["annotations"].clear(), "none of 3 images .*panoptic.json: photo_0.png"),
        (lambda c: c["annotations"][0]["segments_info"].pop(), "does not list; write both anew"),
        (lambda c: c["annotations"].append({**c["annotations"][0]}), "two annotations"),
        (lambda c: c["categories"].append(c["categories"][0]), "two categories have one id"),
        (lambda c: c["categories"][0].update(id=True), "no whole number from 0 as id"),
        (lambda c: c["categories"][0].update(id=2**64), "no whole number from 0 as id"),
        (lambda c: c["categories"][0].update(name=None), "has no name"),
        (lambda c: c["categories"][0].update(isthing=7), "isthing 0 or 1"),
        (lambda c: c["categories"][0].update(color="red"), "three numbers 0..255"),
        (lambda c: c["annotations"][0].update(file_name=3), "is no text"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(iscrowd=2), "iscrowd 0 or 1"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=True), "no whole numbers"),
    ],
)
def test_mistakes_in_a_coco_file(root: Path, change: Callable[[dict], Any], message: str) -> None:
    content = write_coco(root, 5)
    change(content)
    (root / "panoptic.json").write_text(json.dumps(content))
    split = {"images": "images", "labels": "png", "annotations": "panoptic.json"}
    describe(root, splits={"all": split})
    with pytest.raises(DatasetError, match=message):
        spec = spec_of("all")
        assert spec.read_panoptic is not None
        for record in spec.load():
            spec.read_panoptic(record)
