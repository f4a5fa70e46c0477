"""Of a partial download, images with labels are used and counted; the set is named partial."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from own_data import write_coco, write_own_data

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.cityscapes_labels import make_labels
from gbw_d2.toyworld.layouts import LAYOUTS, write_layout


def remove(folder: Path, pattern: str) -> None:
    paths = [*folder.rglob(pattern)]
    assert paths, pattern
    for path in paths:
        path.unlink()


def write(folder: Path, name: str, root: str) -> None:
    """Writes four images per split of a layout; three per city where there are four."""
    full, count = LAYOUTS.get(name), 12 if name == "crosscity" else 4
    settings = replace(
        full.settings,
        image_size=(64, 128),
        num_source=count,
        num_target_train=count,
        num_target_val=count,
    )
    write_layout(folder / root, replace(full, settings=settings), workers=1)


# Folder and layout; a dataset of it; files of a label; files of the image of another one; images
# that are left, and of the whole set: of the release, or as found where it has none.
CASES = [
    ("gta5", "gta5", "gta5_semantic_train", "labels/00001.png", "images/00002.png", 2, 3),
    (
        *("crosscity", "crosscity", "crosscity_rio_semantic_val"),
        *("Rio/Labels/*/*1_eval.png", "Rio/Images/Test/pano_00005.*", 1, 100),
    ),
    (
        *("mapillary_vistas", "mapillary_vistas", "vistas_panoptic_val"),
        *("validation/*/toy00000.png", "validation/*/toy00001.jpg", 2, 2000),
    ),
    (
        *("mapillary_vistas", "mapillary_vistas", "vistas_semantic_train"),
        *("training/*/toy00000.png", "training/*/toy00001.jpg", 2, 18000),
    ),
    (
        *("toy_mapillary_vistas", "mapillary_vistas", "toy_vistas_panoptic_val"),
        *("validation/*/toy00000.png", "validation/*/toy00001.jpg", 2, 3),
    ),
    (
        *("cityscapes", "foggy_cityscapes", "foggy_cityscapes_0.02_panoptic_val"),
        *("*_000000_000019_gtFine_*", "*_000001_*_beta_0.02.png", 2, 500),
    ),
    (
        *("toy_foggy_cityscapes", "foggy_cityscapes", "toy_foggy_cityscapes_0.01_semantic_val"),
        *("*_000000_000019_gtFine_*", "*_000001_*_beta_0.01.png", 2, 3),
    ),
]


@pytest.mark.parametrize(("folder", "layout", "name", "label", "image", "kept", "whole"), CASES)
def test_released_sets(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    folder: str,
    layout: str,
    name: str,
    label: str,
    image: str,
    kept: int,
    whole: int,
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write(tmp_path, layout, folder)
    spec = get_dataset(name)
    before = len(spec.load())
    assert not caplog.text
    remove(tmp_path / folder, label)
    remove(tmp_path / folder, image)
    assert spec.count_images is not None and spec.count_images() == whole
    assert len(spec.load()) == kept == before - 2
    assert "left out 1 without a label" in caplog.text and "1 without an image" in caplog.text
    assert f"; {kept} pairs are used" in caplog.text


def test_synthia(synthia_root: Path) -> None:
    spec = get_dataset("synthia_panoptic_train")
    (synthia_root / "GT" / "LABELS" / "0000001.png").unlink()
    assert spec.count_images is not None
    assert (len(spec.load()), spec.count_images()) == (2, 3)


@pytest.mark.parametrize("kind", ["semantic", "panoptic"])
def test_cityscapes(cityscapes_root: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    remove(cityscapes_root, "aachen_000000*_gtFine_*")
    remove(cityscapes_root / "leftImg8bit", "bochum*.png")  # its folder stays, without an image
    spec = get_dataset(f"cityscapes_{kind}_train")
    spec.look()
    assert [r["image_id"] for r in spec.load()] == ["aachen_000001_000019"]
    said = "left out 1 without a label (aachen_000000_000019) and 1 without an image (bochum_000002"
    assert said in caplog.text
    val = get_dataset(f"cityscapes_{kind}_val")
    assert val.count_images is not None
    assert (len(val.load()), val.count_images()) == (1, 500)


def test_cityscapes_labels_are_made_of_what_is_there(cityscapes_download: Path) -> None:
    remove(cityscapes_download, "bochum*_gtFine_instanceIds.png")
    remove(cityscapes_download, "aachen_000000*_gtFine_*")
    make_labels(cityscapes_download, "train", panoptic=True, workers=1)
    semantic, panoptic = (
        [r["image_id"][:13] for r in get_dataset(f"cityscapes_{kind}_train").load()]
        for kind in ("semantic", "panoptic")
    )
    assert semantic == ["aachen_000001", "bochum_000002"]
    assert panoptic == ["aachen_000001"]
    for kind in ("semantic", "panoptic"):
        get_dataset(f"cityscapes_{kind}_train").look()


@pytest.mark.parametrize("file", ["labels/1.png", "instances/1.png"])
def test_own_data(tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str) -> None:
    path = write_own_data(tmp_path, 6, images=3)
    (tmp_path / file).unlink()
    spec = get_dataset(f"{path}:val")
    assert [r["image_id"] for r in spec.load()] == ["0", "2"]
    assert "left out 1 without a label (1); 2 pairs are used" in caplog.text
    assert spec.count_images is not None and spec.count_images() == 3


@pytest.mark.parametrize("damage", ["png", "json"])
def test_coco_files_of_own_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    content = write_coco(tmp_path, 5)
    if damage == "png":
        remove(tmp_path / "png", "*1.png")
    else:
        content["annotations"].pop(1)
        (tmp_path / "panoptic.json").write_text(json.dumps(content))
    split = {"images": "images", "labels": "png", "annotations": "panoptic.json"}
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"label_space": "own", "splits": {"all": split}}))
    spec = get_dataset(f"{path}:all")
    assert [r["image_id"] for r in spec.load()] == ["photo_0", "photo_2"]
    assert "left out 1 without a label (photo_1); 2 pairs are used" in caplog.text
