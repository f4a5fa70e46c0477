"""The toy source for validation, the second toy target, and the toy world as it was before them."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gbw_d2.catalog import DATASETS, get_dataset
from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.data.spec import DatasetError
from gbw_d2.toyworld import ToyWorldSettings, render, sample_files, write_toy_world
from gbw_d2.toyworld.layouts import LAYOUTS, Layout, check_layout, write_layout

TRAIN_ID = {c.name: c.train_id for c in CLASSES}
NOT_IN_SOURCE = [TRAIN_ID[name] for name in ("terrain", "truck", "train")]
SOURCE_VAL, SECOND = LAYOUTS.get("synthia_val"), LAYOUTS.get("cityscapes2")
SOURCE_NAMES = ["toy_synthia_panoptic_val", "toy_synthia_semantic_val"]


def small(layout: Layout) -> Layout:
    settings = replace(
        layout.settings,
        image_size=(64, 128),
        num_source_val=3 * (layout.settings.num_source_val > 0),
        num_target_train=4,
        num_target_val=2,
    )
    return replace(layout, settings=settings)


@functools.cache
def shares(settings: ToyWorldSettings, domain: str, split: str) -> np.ndarray:
    tiny = replace(settings, image_size=(32, 64))
    maps = [render(tiny, domain, split, i).class_map for i in range(60)]
    counts = sum(np.bincount(m.ravel(), minlength=256)[:19] for m in maps)
    return counts / counts.sum()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_the_marker_of_the_toy_world_is_as_it_was() -> None:
    gap = ("palette_and_texture", "lighting_and_weather", "blur_and_noise")
    gap += ("class_prior", "layout_and_camera")
    expected = {
        "format_version": 3,
        "seed": 0,
        "image_size": [128, 256],
        "num_source": 600,
        "num_target_train": 600,
        "num_target_val": 100,
        **{f"gap.{knob}": 1.0 for knob in gap},
    }
    assert list(ToyWorldSettings().as_json().items()) == list(expected.items())
    for name in set(LAYOUTS.names()) - {"synthia_val", "cityscapes2", "large"}:
        assert set(LAYOUTS.get(name).marker()) == {"layout", "layout_version", *expected}


@pytest.mark.parametrize(
    ("key", "pixels", "mean_rgb", "instances"),
    [
        (
            ("source", "train", 0),
            [15401, 2573, 8972, 1699, 1582, 202, 803],
            [138.08, 117.94, 110.07],
            9,
        ),
        (
            ("target", "train", 0),
            [9603, 2454, 10488, 1303, 1933, 2401, 2524],
            [114.18, 111.15, 104.96],
            6,
        ),
        (
            ("target", "val", 1),
            [10931, 2076, 5455, 4975, 2200, 2317, 2347],
            [96.98, 99.75, 89.74],
            7,
        ),
    ],
)
def test_the_pictures_of_the_toy_world_are_as_they_were(
    key: tuple[str, str, int], pixels: list[int], mean_rgb: list[float], instances: int
) -> None:
    """Golden numbers of format version 3; the tolerance is for other versions of OpenCV."""
    sample = render(ToyWorldSettings(), *key)
    counts = np.bincount(sample.class_map.ravel(), minlength=256)
    # Road, sidewalk, building, vegetation, sky, car, void.
    np.testing.assert_allclose(counts[[0, 1, 2, 8, 10, 13, 255]], pixels, atol=20)
    np.testing.assert_allclose(sample.image.reshape(-1, 3).mean(axis=0), mean_rgb, atol=0.3)
    assert sample.instance_map.max() == instances


def test_factors_change_the_target_alone_and_stand_in_the_marker() -> None:
    plain = ToyWorldSettings(image_size=(64, 128))
    changed = replace(plain, target_factors=(("car", 0.0), ("exposure", 0.5)))
    np.testing.assert_array_equal(
        render(plain, "source", "train", 1).image, render(changed, "source", "train", 1).image
    )
    before, after = (
        np.stack([render(s, "target", "train", i).class_map for i in range(5)])
        for s in (plain, changed)
    )
    assert (before == TRAIN_ID["car"]).any() and not (after == TRAIN_ID["car"]).any()
    assert changed.as_json() == {**plain.as_json(), "factor.car": 0.0, "factor.exposure": 0.5}
    marker = SECOND.marker()
    assert json.loads(json.dumps(marker)) == marker


@pytest.mark.slow
def test_the_second_target_has_another_prior_and_look() -> None:
    first, second = (shares(s, "target", "val") for s in (ToyWorldSettings(), SECOND.settings))
    ratio = {name: second[i] / first[i] for name, i in TRAIN_ID.items()}
    for name in ("wall", "traffic light", "bus", "motorcycle", "bicycle"):
        assert ratio[name] > 1.2, (name, ratio[name])
    for name in ("fence", "traffic sign", "vegetation", "rider", "car"):
        assert ratio[name] < 0.85, (name, ratio[name])
    # Outside of the span between the source and the first target.
    source = shares(ToyWorldSettings(), "source", "train")
    for name in ("bus", "motorcycle"):
        assert second[TRAIN_ID[name]] > 1.3 * max(source[TRAIN_ID[name]], first[TRAIN_ID[name]])
    sign = TRAIN_ID["traffic sign"]
    assert second[sign] < 0.7 * min(source[sign], first[sign])

    colors = [
        np.mean([render(s, "target", "val", i).image.mean(axis=(0, 1)) for i in range(4)], axis=0)
        for s in (ToyWorldSettings(), SECOND.settings)
    ]
    # An evening's light: red above blue.
    assert colors[1][0] - colors[1][2] > 15 + colors[0][0] - colors[0][2]


def test_the_source_validation_set_holds_new_draws_of_the_source() -> None:
    settings = SOURCE_VAL.settings
    assert settings.seed != ToyWorldSettings().seed
    train, val = shares(ToyWorldSettings(), "source", "train"), shares(settings, "source", "val")
    assert not val[NOT_IN_SOURCE].any()
    # No crowded and no empty picture among its 100: they are members of the training sets.
    assert max(render(settings, "source", "val", i).instance_map.max() for i in (3, 7)) < 60
    assert np.abs(train - val).sum() < 0.08
    for split, seed in (("train", settings.seed), ("val", 0)):
        other = render(replace(settings, seed=seed), "source", split, 0)
        assert (other.image != render(settings, "source", "val", 0).image).any()


def test_source_images_for_validation_are_read_as_they_were_drawn(root: Path) -> None:
    layout = small(SOURCE_VAL)
    write_layout(root / "toy_synthia_val", layout, workers=1)
    check_layout(root / "toy_synthia_val", layout)
    for name in SOURCE_NAMES:
        spec = get_dataset(name)
        records = spec.load()
        assert len(records) == 3
        for index, record in enumerate(records):
            sample = render(layout.settings, "source", "val", index)
            np.testing.assert_array_equal(spec.read_semantic(record), sample.class_map)
    segments, info = get_dataset(SOURCE_NAMES[0]).read_panoptic(records[0])
    assert {s["id"] for s in info} == set(np.unique(segments).tolist()) - {0}


def test_the_second_target_is_read_as_it_was_drawn(root: Path) -> None:
    layout = small(SECOND)
    write_layout(root / "toy_cityscapes2", layout, workers=1)
    check_layout(root / "toy_cityscapes2", layout)
    assert len(get_dataset("toy_cityscapes2_unlabelled_train").load()) == 4
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("panoptic", "semantic"):
            spec = get_dataset(f"toy_cityscapes2_{kind}_{split}")
            records = spec.load()
            assert len(records) == count
            for record in records:
                index = int(record["image_id"].split("_")[1])
                sample = render(layout.settings, "target", split, index)
                np.testing.assert_array_equal(spec.read_semantic(record), sample.class_map)
    with pytest.raises(DatasetError, match=r"factor\.car is 0.45, not None"):
        plain = replace(layout, settings=replace(layout.settings, target_factors=()))
        check_layout(root / "toy_cityscapes2", plain)


def test_both_are_made_at_first_use() -> None:
    names = [n for n in DATASETS if n.startswith("toy_cityscapes2_")]
    assert len(names) == 5
    assert all(get_dataset(name).prepare is not None for name in [*names, *SOURCE_NAMES])


def test_a_world_may_hold_source_images_for_validation_too(tmp_path: Path) -> None:
    settings = ToyWorldSettings(
        image_size=(32, 64), num_source=2, num_target_train=1, num_target_val=1, num_source_val=2
    )
    write_toy_world(tmp_path / "world", settings, workers=1)
    train, val = (sample_files(tmp_path / "world", "source", s, 0) for s in ("train", "val"))
    assert train["image"].read_bytes() != val["image"].read_bytes()
    assert json.loads((tmp_path / "world/toyworld.json").read_text())["num_source_val"] == 2
