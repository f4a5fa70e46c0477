"""The toy world: determinism, official formats, promised contents, resuming, refusing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import Image

from gbw_d2.cityscapes_classes import CLASSES, raw_to_train_id
from gbw_d2.data.spec import DatasetError
from gbw_d2.toyworld import (
    CROWDED_INDEX,
    EMPTY_INDEX,
    DomainGap,
    ToyWorldSettings,
    check_toy_world,
    ensure_toy_world,
    render,
    sample_files,
    write_toy_world,
)

SETTINGS = ToyWorldSettings(seed=5, num_source=9, num_target_train=9, num_target_val=3)
TRAIN_ID = {c.name: c.train_id for c in CLASSES}
THINGS = [c.train_id for c in CLASSES if c.is_thing]
NOT_IN_SOURCE = [TRAIN_ID[name] for name in ("terrain", "truck", "train")]


def maps_of(sample):
    return (
        sample.image,
        sample.class_map,
        sample.raw_map,
        sample.instance_map,
        sample.crowd_map,
    )


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "world"
    write_toy_world(root, SETTINGS, workers=1)
    return root


@pytest.fixture(scope="module")
def many() -> dict[str, list]:
    settings = ToyWorldSettings()
    return {d: [render(settings, d, "train", i) for i in range(60)] for d in ("source", "target")}


def class_counts(samples) -> np.ndarray:
    return sum(np.bincount(s.class_map.ravel(), minlength=256) for s in samples)


def test_an_image_depends_on_nothing_but_its_key():
    alone = render(SETTINGS, "target", "train", 5)
    for domain, split in (("source", "train"), ("target", "train"), ("target", "val")):
        render(SETTINGS, domain, split, 4)
    again = render(SETTINGS, "target", "train", 5)
    for a, b in zip(maps_of(alone), maps_of(again), strict=True):
        np.testing.assert_array_equal(a, b)
    # Sizes of the splits are no part of the key.
    larger = render(replace(SETTINGS, num_target_train=999), "target", "train", 5)
    np.testing.assert_array_equal(alone.image, larger.image)


def test_seed_domain_split_and_index_each_give_another_image():
    images = [
        render(SETTINGS, "target", "train", 5).image,
        render(SETTINGS, "source", "train", 5).image,
        render(SETTINGS, "target", "val", 5).image,
        render(SETTINGS, "target", "train", 6).image,
        render(replace(SETTINGS, seed=6), "target", "train", 5).image,
    ]
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize("size", [(64, 128), (96, 256), (256, 512)])
def test_any_size_can_be_rendered(size):
    sample = render(replace(SETTINGS, image_size=size), "target", "val", 1)
    assert sample.image.shape == (*size, 3) and sample.image.dtype == np.uint8
    assert sample.class_map.shape == sample.instance_map.shape == size
    assert sample.class_map.dtype == sample.raw_map.dtype == np.uint8
    assert sample.instance_map.dtype == np.int32 and sample.crowd_map.dtype == bool


@pytest.mark.parametrize("domain", ["source", "target"])
def test_maps_agree_with_each_other(many, domain):
    table = raw_to_train_id({"source": "synthia_id", "target": "cityscapes_id"}[domain])
    for sample in many[domain]:
        np.testing.assert_array_equal(table[sample.raw_map], sample.class_map)
        counted = sample.instance_map > 0
        np.testing.assert_array_equal(np.isin(sample.class_map, THINGS), counted | sample.crowd_map)
        assert not (counted & sample.crowd_map).any()
        ids = np.unique(sample.instance_map[counted])
        np.testing.assert_array_equal(ids, np.arange(1, len(ids) + 1))
        pairs = np.unique(
            np.stack((sample.instance_map[counted], sample.class_map[counted])), axis=1
        )
        assert pairs.shape[1] == len(ids), "an instance has pixels of two classes"


def test_classes_of_the_two_domains(many):
    source, target = class_counts(many["source"]), class_counts(many["target"])
    assert not source[NOT_IN_SOURCE].any()
    expected = [t for t in range(19) if t not in NOT_IN_SOURCE]
    assert (source[expected] > 0).all() and (target[:19] > 0).all()
    assert source[19:255].sum() == target[19:255].sum() == 0
    assert source[255] > 0 and target[255] > 0


def test_target_class_shares_are_near_those_of_cityscapes(many):
    usual = [s for i, s in enumerate(many["target"]) if i != CROWDED_INDEX]
    counts = class_counts(usual)[:19]
    shares = counts / counts.sum()
    bounds = {
        "road": (0.27, 0.47),
        "sidewalk": (0.03, 0.10),
        "building": (0.15, 0.32),
        "wall": (0.003, 0.016),
        "fence": (0.004, 0.02),
        "pole": (0.007, 0.025),
        "traffic light": (0.0015, 0.007),
        "traffic sign": (0.003, 0.012),
        "vegetation": (0.09, 0.22),
        "terrain": (0.003, 0.03),
        "sky": (0.02, 0.09),
        "person": (0.006, 0.025),
        "rider": (0.0008, 0.006),
        "car": (0.04, 0.11),
        "truck": (0.0008, 0.012),
        "bus": (0.0008, 0.012),
        "train": (0.0008, 0.012),
        "motorcycle": (0.0005, 0.005),
        "bicycle": (0.002, 0.012),
    }
    wrong = {
        n: float(shares[TRAIN_ID[n]])
        for n, (a, b) in bounds.items()
        if not a < shares[TRAIN_ID[n]] < b
    }
    assert not wrong


def test_special_images(many):
    for samples in many.values():
        assert samples[CROWDED_INDEX].instance_map.max() > 255
        assert not np.isin(samples[EMPTY_INDEX].class_map, THINGS).any()
        assert samples[EMPTY_INDEX].instance_map.max() == 0
    assert any(s.crowd_map.any() for s in many["target"])
    assert not any(s.crowd_map.any() for s in many["source"])
    assert render(ToyWorldSettings(), "target", "val", CROWDED_INDEX).instance_map.max() < 100


def test_void_kinds(many):
    source = np.unique(np.concatenate([np.unique(s.raw_map) for s in many["source"]]))
    target = np.unique(np.concatenate([np.unique(s.raw_map) for s in many["target"]]))
    assert {0, 13, 14, 22} <= set(source.tolist())
    assert {1, 3, 4} <= set(target.tolist())


def test_knobs_at_zero_give_the_look_of_the_source(many):
    def statistics(samples):
        usual = [s for i, s in enumerate(samples) if i != CROWDED_INDEX]
        shares = class_counts(usual)[:19]
        road = np.concatenate([s.image[s.class_map == 0] for s in usual]).mean(axis=0)
        sky = np.concatenate([s.image[s.class_map == 10] for s in usual]).mean(axis=0)
        return shares / shares.sum(), np.concatenate((road, sky))

    def distance(a, b):
        return np.abs(a[0] - b[0]).sum(), np.abs(a[1] - b[1]).mean()

    closed = ToyWorldSettings(gap=DomainGap(0, 0, 0, 0, 0))
    source, target = statistics(many["source"]), statistics(many["target"])
    near = statistics([render(closed, "target", "train", i) for i in range(60)])
    share_gap, color_gap = distance(source, target)
    share_rest, color_rest = distance(source, near)
    # The same distribution, 60 other draws.
    assert share_rest < 0.6 * share_gap and color_rest < 0.25 * color_gap
    assert not near[0][NOT_IN_SOURCE].any()


@pytest.mark.parametrize(
    "knob",
    [
        "palette_and_texture",
        "lighting_and_weather",
        "blur_and_noise",
        "class_prior",
        "layout_and_camera",
    ],
)
def test_each_knob_changes_the_target_and_only_the_target(knob):
    turned = replace(SETTINGS, gap=replace(DomainGap(), **{knob: 0.3}))
    before, after = (render(s, "target", "train", 8) for s in (SETTINGS, turned))
    assert (before.image != after.image).any()
    if knob in ("palette_and_texture", "lighting_and_weather", "blur_and_noise"):
        np.testing.assert_array_equal(before.instance_map, after.instance_map)
        np.testing.assert_array_equal(before.raw_map, after.raw_map)
    source = [render(s, "source", "train", 8).image for s in (SETTINGS, turned)]
    np.testing.assert_array_equal(*source)


def test_layout_is_the_official_one(world):
    names = {str(p.relative_to(world)) for p in world.rglob("*.*")}
    assert "synthia/RGB/0000000.png" in names and "synthia/GT/LABELS/0000008.png" in names
    for kind in ("labelIds", "instanceIds", "labelTrainIds"):
        assert f"cityscapes/gtFine/val/toystadt/toystadt_000002_000019_gtFine_{kind}.png" in names
    assert "cityscapes/leftImg8bit/train/toyburg/toyburg_000000_000019_leftImg8bit.png" in names
    for split in ("train", "val"):
        assert f"cityscapes/gtFine/cityscapes_panoptic_{split}_trainId.json" in names
    files = [n for n in names if n.endswith(".png")]
    assert len(files) == 9 * 2 + 12 * 5
    assert not [n for n in names if ".part" in n or ".tmp" in n or "in_progress" in n]
    assert json.loads((world / "toyworld.json").read_text())["seed"] == 5


@pytest.mark.parametrize("index", [0, CROWDED_INDEX])
def test_synthia_labels_are_16_bit_class_and_instance(world, index):
    sample = render(SETTINGS, "source", "train", index)
    files = sample_files(world, "source", "train", index)
    label = cv2.imread(str(files["labels"]), cv2.IMREAD_UNCHANGED)
    assert label.dtype == np.uint16 and label.shape == (128, 256, 3)
    # OpenCV turns the file's RGB into BGR.
    np.testing.assert_array_equal(label[..., 2], sample.raw_map)
    np.testing.assert_array_equal(label[..., 1], sample.instance_map)
    assert not label[..., 0].any()
    # Bytes 24 and 25 of a PNG: bit depth, and colour type 2 = RGB.
    assert tuple(files["labels"].read_bytes()[24:26]) == (16, 2)
    np.testing.assert_array_equal(np.asarray(Image.open(files["image"])), sample.image)


@pytest.mark.parametrize("index", range(9))
def test_cityscapes_labels_agree(world, index):
    sample = render(SETTINGS, "target", "train", index)
    files = sample_files(world, "target", "train", index)
    labels, instances, train_ids = (
        cv2.imread(str(files[k]), cv2.IMREAD_UNCHANGED)
        for k in ("labelIds", "instanceIds", "labelTrainIds")
    )
    assert (labels.dtype, instances.dtype, train_ids.dtype) == (np.uint8, np.uint16, np.uint8)
    np.testing.assert_array_equal(labels, sample.raw_map)
    np.testing.assert_array_equal(train_ids, sample.class_map)
    np.testing.assert_array_equal(raw_to_train_id("cityscapes_id")[labels], train_ids)
    np.testing.assert_array_equal(np.where(instances >= 1000, instances // 1000, instances), labels)
    np.testing.assert_array_equal(instances >= 1000, sample.instance_map > 0)
    for mine in range(1, sample.instance_map.max() + 1):
        theirs = np.unique(instances[sample.instance_map == mine])
        assert len(theirs) == 1
        np.testing.assert_array_equal(instances == theirs[0], sample.instance_map == mine)


@pytest.mark.parametrize("split", ["train", "val"])
def test_panoptic_png_and_json_agree(world, split):
    folder = world / "cityscapes" / "gtFine" / f"cityscapes_panoptic_{split}_trainId"
    table = json.loads(folder.with_suffix(".json").read_text())
    assert sorted(c["id"] for c in table["categories"]) == list(range(19))
    number = SETTINGS.num_images("target", split)
    assert len(table["images"]) == len(table["annotations"]) == number
    for index in range(number):
        sample = render(SETTINGS, "target", split, index)
        stem = sample_files(world, "target", split, index)["image"].name[: -len("_leftImg8bit.png")]
        (entry,) = (a for a in table["annotations"] if a["image_id"] == stem)
        ids = rgb2id(np.asarray(Image.open(folder / entry["file_name"])))
        assert set(np.unique(ids).tolist()) - {0} == {s["id"] for s in entry["segments_info"]}
        np.testing.assert_array_equal(ids == 0, sample.class_map == 255)
        for segment in entry["segments_info"]:
            mask = ids == segment["id"]
            assert segment["area"] == mask.sum()
            assert set(sample.class_map[mask].tolist()) == {segment["category_id"]}
            assert segment["iscrowd"] == int(sample.crowd_map[mask].all())


def test_an_interrupted_run_goes_on_where_it_stopped(world, tmp_path):
    root = tmp_path / "world"
    shutil.copytree(world, root)
    (root / "toyworld.json").rename(root / "toyworld.in_progress.json")
    gone = [
        sample_files(root, "source", "train", 2)["image"],
        sample_files(root, "target", "train", 4)["instanceIds"],
        sample_files(root, "target", "val", 0)["labelIds"],
        root / "cityscapes" / "gtFine" / "cityscapes_panoptic_val_trainId.json",
    ]
    for path in gone:
        path.unlink()
    gone[0].with_name(f".{gone[0].name}.tmp").write_bytes(b"half a file")
    kept = sample_files(root, "source", "train", 3)["image"]
    age = kept.stat().st_mtime_ns
    with pytest.raises(DatasetError, match="no finished toy world"):
        check_toy_world(root, SETTINGS)
    ensure_toy_world(root, SETTINGS)
    assert contents(root) == contents(world)
    assert kept.stat().st_mtime_ns == age
    check_toy_world(root, SETTINGS)


def test_a_finished_world_is_left_alone_until_it_is_asked_to_be_mended(world, tmp_path):
    root = tmp_path / "world"
    shutil.copytree(world, root)
    lost = sample_files(root, "source", "train", 1)["labels"]
    lost.unlink()
    ensure_toy_world(root, SETTINGS)
    assert not lost.exists()
    with pytest.raises(DatasetError, match="1 images lack files"):
        check_toy_world(root, SETTINGS)
    write_toy_world(root, SETTINGS, workers=1)
    assert contents(root) == contents(world)


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(tmp_path):
    settings = ToyWorldSettings(
        image_size=(32, 64), num_source=16, num_target_train=10, num_target_val=2
    )
    for workers in (1, 2):
        write_toy_world(tmp_path / str(workers), settings, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_foreign_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for act in (write_toy_world, ensure_toy_world):
        with pytest.raises(DatasetError, match="not empty and no toy world"):
            act(tmp_path, SETTINGS)
    assert contents(tmp_path) == {"thesis.tex": b"precious"}


def test_a_world_of_other_settings_is_refused(world):
    before = contents(world)
    other = replace(SETTINGS, seed=6, gap=DomainGap(class_prior=0.5))
    for act in (write_toy_world, ensure_toy_world, check_toy_world):
        with pytest.raises(
            DatasetError, match=r"seed is 5, not 6.*gap.class_prior is 1.0, not 0.5"
        ):
            act(world, other)
    assert contents(world) == before


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"gap.class_prior is 1.5"):
        DomainGap(class_prior=1.5)
    with pytest.raises(ValueError, match="image_size"):
        ToyWorldSettings(image_size=(16, 256))
    with pytest.raises(ValueError, match="no split 'test' of domain 'source'"):
        render(SETTINGS, "source", "test", 0)
    with pytest.raises(ValueError, match="num_source_val"):
        ToyWorldSettings(num_source_val=-1)
    with pytest.raises(ValueError, match="factor of 'bus' is -1"):
        ToyWorldSettings(target_factors=(("bus", -1.0),))
    with pytest.raises(ValueError, match=r"target_factors names \['tram'\]"):
        render(replace(SETTINGS, target_factors=(("tram", 2.0),)), "target", "val", 0)


@pytest.mark.slow
def test_sigterm_twice_shows_no_traceback(tmp_path):
    # As where a whole process group gets it, and training passes it on too.
    process = subprocess.Popen(
        [sys.executable, "-m", "gbw_d2.toyworld", str(tmp_path / "toy")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not any(tmp_path.rglob("*.png")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    process.terminate()
    _, shown = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in shown
