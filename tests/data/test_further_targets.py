"""Foggy Cityscapes, Cross-City and Mapillary Vistas: their layouts, readers, scripts and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from panopticapi.utils import rgb2id

from gbw_d2.catalog import get_dataset, toy
from gbw_d2.cityscapes_classes import TRAIN_IDS_13
from gbw_d2.class_tables import ids_of_colors
from gbw_d2.data.formats import vistas
from gbw_d2.data.spec import DatasetError
from gbw_d2.toyworld.layouts import LAYOUTS, Layout, check_layout, write_layout
from gbw_d2.toyworld.layouts.foggy import add_fog
from gbw_d2.toyworld.layouts.vistas import segment_ids
from gbw_d2.toyworld.render import render

ROOT = Path(__file__).resolve().parents[2]
WritePng = Callable[[Path, np.ndarray], None]
ROAD, SKY, PERSON, RIDER, CAR = 0, 10, 11, 12, 13


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Layout]:
    """Writes a few small images of a layout to a folder of ``$DETECTRON2_DATASETS``."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def call(name: str, folder: str, train: int, val: int) -> Layout:
        full = LAYOUTS.get(name)
        settings = replace(
            full.settings, image_size=(64, 128), num_target_train=train, num_target_val=val
        )
        layout = replace(full, settings=settings)
        write_layout(tmp_path / folder, layout, workers=1)
        check_layout(tmp_path / folder, layout)
        return layout

    return call


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "datasets" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_fog_by_hand() -> None:
    image = np.full((1, 2, 3), 15, np.uint8)
    depth = np.array([[0.0, np.log(2.0) / 0.02]])
    assert add_fog(image, depth, 0.02)[0, :, 0].tolist() == [15, 115]


def test_foggy_images_share_the_labels(make: Callable[..., Layout], tmp_path: Path) -> None:
    layout = make("foggy_cityscapes", "cityscapes", 2, 2)
    train = get_dataset("foggy_cityscapes_0.02_unlabelled_train")
    assert [r["image_id"] for r in train.load()] == [
        "toyburg_000000_000019",
        "toyfurt_000001_000019",
    ]
    assert not train.is_labelled
    sample = render(layout.settings, "target", "val", 1)
    distances = []  # from the colour of the fog
    for beta in ("0.005", "0.01", "0.02"):
        spec = get_dataset(f"foggy_cityscapes_{beta}_panoptic_val")
        record = spec.load()[1]
        assert record["file_name"].endswith(f"_leftImg8bit_foggy_beta_{beta}.png")
        assert spec.read_semantic is not None and spec.read_panoptic is not None
        np.testing.assert_array_equal(spec.read_semantic(record), sample.class_map)
        assert spec.read_panoptic(record)[1]
        distances.append(np.abs(cv2.imread(record["file_name"]) - 215.0).mean())
    assert distances == sorted(distances, reverse=True)
    found = run("prepare_foggy_cityscapes.py", "--betas", "0.02", "0.01")
    assert found.returncode == 0, found.stderr
    assert "foggy_cityscapes_0.02_panoptic_val: 2 images" in found.stdout
    for path in (tmp_path / "cityscapes/leftImg8bit_foggy/train").glob("*/*_0.01.png"):
        path.unlink()
    found = run("prepare_foggy_cityscapes.py", "--check", "--betas", "0.01", "0.02")
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "no file *_leftImg8bit_foggy_beta_0.01.png" in found.stderr


def test_crosscity(make: Callable[..., Layout], tmp_path: Path) -> None:
    layout = make("crosscity", "crosscity", 8, 8)
    train = get_dataset("crosscity_tokyo_unlabelled_train").load()
    assert [Path(r["file_name"]).name for r in train] == ["pano_00002.jpg", "pano_00006.png"]
    spec = get_dataset("crosscity_tokyo_semantic_val")
    assert spec.read_semantic is not None and spec.read_panoptic is None
    record = spec.load()[1]
    expected = render(layout.settings, "target", "val", 6).class_map
    assert not set(np.unique(expected)) <= {*TRAIN_IDS_13, 255}
    expected = np.where(np.isin(expected, TRAIN_IDS_13), expected, 255)
    np.testing.assert_array_equal(spec.read_semantic(record), expected)

    found = run("prepare_crosscity.py", "--cities", "Rio", "Tokyo")
    assert found.returncode == 0, found.stderr
    assert "Tokyo: 2 test images are training images too" in found.stdout
    (tmp_path / "crosscity/Rio/Labels/Test/pano_00001_eval.png").unlink()
    found = run("prepare_crosscity.py", "--check", "--cities", "Rio", "Rome")
    assert found.returncode == 0 and "Traceback" not in found.stderr
    assert "left out 1 without a label (pano_00001); 1 pairs are used" in found.stderr
    assert "1 images, the whole dataset has 100; scores of a part of it" in found.stdout
    for path in (tmp_path / "crosscity/Rio/Labels/Test").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"none of 2 .*_eval\.png.*prepare_crosscity"):
        get_dataset("crosscity_rio_semantic_val").load()


def test_crosscity_mistakes(
    make: Callable[..., Layout], tmp_path: Path, write_png: WritePng
) -> None:
    make("crosscity", "crosscity", 4, 4)
    rome = tmp_path / "crosscity/Rome"
    spec = get_dataset("crosscity_rome_semantic_val")
    assert spec.read_semantic is not None
    record = spec.load()[0]
    write_png(rome / "Labels/Test/pano_00000_eval.png", np.full((64, 127), 7, np.uint8))
    with pytest.raises(DatasetError, match=r"64x127 pixels .* has 64x128"):
        spec.read_semantic(record)
    write_png(rome / "Images/Test/pano_00000.png", np.zeros((64, 128, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"several images .* have one name: pano_00000"):
        spec.load()
    for path in (rome / "Images/Train").iterdir():
        path.unlink()
    train = get_dataset("crosscity_rome_unlabelled_train")
    with pytest.raises(DatasetError, match=r"no images \(\*\.jpg, \*\.png\)"):
        train.load()
    (rome / "Images/Train").rmdir()
    with pytest.raises(DatasetError, match=r"no folder .*Rome.*prepare_crosscity"):
        train.load()


def test_vistas_table_is_that_of_the_references() -> None:
    # The table of CVRN and EDAPS, counted from 0.
    expected = {
        "road": {7, 8, 10, 13, 14, 23, 24},
        "sidewalk": {2, 9, 11, 15},
        "pole": {45, 47},
        "traffic sign": {49, 50},
        "rider": {20, 21, 22},
        "train": {58},
    }
    for name, categories in expected.items():
        assert {c - 1 for c in vistas.CATEGORIES[name]} == categories
    every = [c for categories in vistas.CATEGORIES.values() for c in categories]
    assert len(every) == len(set(every)) == 32


@pytest.fixture
def vistas_root(make: Callable[..., Layout], tmp_path: Path) -> Path:
    make("mapillary_vistas", "mapillary_vistas", 2, 2)
    return tmp_path / "mapillary_vistas"


def test_vistas_labels(vistas_root: Path) -> None:
    settings = replace(LAYOUTS.get("mapillary_vistas").settings, image_size=(64, 128))
    spec = get_dataset("vistas_panoptic_train")
    assert spec.read_semantic is not None and spec.read_panoptic is not None
    largest = 0
    for index, record in enumerate(spec.load()):
        sample = render(settings, "target", "train", index)
        png = cv2.imread(record["pan_seg_file_name"])[:, :, ::-1]
        np.testing.assert_array_equal(rgb2id(png), segment_ids(sample))
        largest = max(largest, int(rgb2id(png).max()))
        np.testing.assert_array_equal(spec.read_semantic(record), sample.class_map)
        segments, info = spec.read_panoptic(record)
        things = [s for s in info if s["category_id"] >= PERSON and not s["iscrowd"]]
        assert len(things) == len(np.unique(sample.instance_map)) - 1
        stuff = [s["category_id"] for s in info if s["category_id"] < PERSON]
        assert len(stuff) == len(set(stuff))  # parts of the road are one segment
        assert sum(s["area"] for s in info) == (sample.class_map != 255).sum()
        assert {s["id"] for s in info} == set(np.unique(segments[segments > 0]).tolist())
    assert largest > 65535
    unlabelled = get_dataset("vistas_unlabelled_train")
    assert not unlabelled.is_labelled and len(unlabelled.load()) == 2


def test_vistas_by_hand(vistas_root: Path, write_png: WritePng) -> None:
    spec = get_dataset("vistas_panoptic_val")
    record = spec.load()[0]
    ids = np.full((64, 128), 70_000)
    ids[:, :10] = 5
    ids[:, 10:20] = 9_000_000
    ids[:, 20:30] = 80
    ids[:, 30:40] = 81
    ids[:, 40:50] = 0
    ids[:, 50:60] = 300
    names = {70_000: (14, 0), 5: (25, 0), 9_000_000: (56, 0), 80: (56, 1), 81: (23, 0), 300: (6, 0)}
    record["segments_info"] = [
        {"id": i, "category_id": c, "iscrowd": crowd} for i, (c, crowd) in names.items()
    ]
    png = np.stack([ids // 65536, ids // 256 % 256, ids % 256], axis=2).astype(np.uint8)
    write_png(Path(record["pan_seg_file_name"]), png)
    assert spec.read_semantic is not None and spec.read_panoptic is not None
    semantic = spec.read_semantic(record)
    assert semantic[0, [0, 10, 20, 30, 40, 50, 60]].tolist() == [0, CAR, CAR, RIDER, 255, 255, 0]
    _, info = spec.read_panoptic(record)
    assert {(s["category_id"], s["iscrowd"], s["area"]) for s in info} == {
        (ROAD, 0, 64 * (10 + 68)),
        (CAR, 0, 640),
        (CAR, 1, 640),
        (RIDER, 0, 640),
    }
    record["segments_info"].pop()
    with pytest.raises(DatasetError, match=r"segment\(s\) 300 that the JSON file does not list"):
        spec.read_panoptic(record)
    write_png(Path(record["pan_seg_file_name"]), png[:, :, 0])
    with pytest.raises(DatasetError, match="not an 8-bit RGB PNG"):
        spec.read_panoptic(record)


def _new_classes(content: dict) -> None:
    content["categories"].append({"id": 124})


def _category(content: dict) -> None:
    content["annotations"][0]["segments_info"][0]["category_id"] = 0


def _segment(content: dict) -> None:
    content["annotations"][0]["segments_info"][0]["id"] = 2**24


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_new_classes, r"categories up to 124, expected 1\.\.66: .* version 2\.0"),
        (_category, r"not Vistas' panoptic annotation .*category 1\.\.66"),
        (_segment, "not Vistas' panoptic annotation"),
        (lambda content: content.pop("categories"), "KeyError.*categories"),
        (lambda content: content["annotations"].clear(), "none of 2 .*Unpack the archive again"),
    ],
)
def test_vistas_annotations_that_are_wrong(
    vistas_root: Path, damage: Callable[[dict], None], message: str
) -> None:
    path = vistas_root / "validation/panoptic/panoptic_2018.json"
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message):
        get_dataset("vistas_panoptic_val").load()


def test_vistas_of_the_newer_download_and_its_script(vistas_root: Path) -> None:
    assert run("prepare_mapillary_vistas.py", "--check").returncode == 0
    # Version 2.0's archive has the older annotation one folder deeper.
    (vistas_root / "validation/v1.2").mkdir()
    folder = vistas_root / "validation/v1.2/panoptic"
    (vistas_root / "validation/panoptic").rename(folder)
    assert len(get_dataset("vistas_semantic_val").load()) == 2
    (folder / "toy00000.png").unlink()
    found = run("prepare_mapillary_vistas.py", "--splits", "train", "val")
    assert found.returncode == 0 and "Traceback" not in found.stderr
    assert "left out 1 without a label (toy00000); 1 pairs are used" in found.stderr
    (folder / "panoptic_2018.json").unlink()
    with pytest.raises(DatasetError, match=r"cannot read '.*prepare_mapillary_vistas"):
        get_dataset("vistas_panoptic_val").load()


def test_colours_are_ids_as_in_panopticapi() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    for picture in (colors, colors[::-1, ::2]):
        np.testing.assert_array_equal(ids_of_colors(picture), rgb2id(picture[:, :, ::-1]))
        assert ids_of_colors(picture).dtype == np.int32


def test_a_toy_twin_is_made_once_and_an_old_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    made = []

    def write(root: Path, *layout: str) -> None:
        made.append(layout)
        root.mkdir()
        (root / "toyworld.json").write_text(json.dumps(LAYOUTS.get(layout[0]).marker()))

    monkeypatch.setattr(toy, "_write", write)
    spec = get_dataset("toy_vistas_panoptic_val")
    assert spec.prepare is not None
    spec.prepare()
    spec.prepare()
    assert made == [("mapillary_vistas",)]
    marker = tmp_path / "toy_mapillary_vistas/toyworld.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "layout_version": 0}))
    with pytest.raises(DatasetError, match=r"toy_mapillary_vistas holds .* version 0"):
        spec.prepare()


def test_the_command_for_toy_layouts(tmp_path: Path) -> None:
    found = run("prepare_toy.py", "--root", str(tmp_path / "x"), "--layout", "own", "--check")
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert f"{tmp_path / 'x_own'} holds no finished toy dataset" in found.stderr


@pytest.mark.parametrize("option", ["--seed", "--images"])
def test_a_toy_layout_has_its_own_seed_and_number(tmp_path: Path, option: str) -> None:
    place = ("--root", str(tmp_path / "x"), "--layout", "gta5")
    found = run("prepare_toy.py", *place, option, "3")
    assert found.returncode == 2 and f"{option} is for the toy world alone" in found.stderr
    assert not list(tmp_path.iterdir())
