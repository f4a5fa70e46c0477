"""Tiny hand-made files in the official layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

SIZE = (24, 40)  # rows, columns


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


@pytest.fixture
def write_png() -> Callable[[Path, np.ndarray], None]:
    """Writes an array as PNG, channels in OpenCV's order, and makes the folders."""
    return _write


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def synthia_label() -> np.ndarray:
    """Sky (raw id 1) above road (3); two cars (8), car pixels without identity, lane marking (22).

    Returns:
        (24, 40, 3) uint16 in OpenCV's order: [..., 2] is the class, [..., 1] the instance.
    """
    label = np.zeros((*SIZE, 3), dtype=np.uint16)
    label[:10, :, 2] = 1
    label[10:, :, 2] = 3
    label[5:15, 2:10] = (0, 7, 8)
    label[8:18, 20:30] = (0, 300, 8)  # more than 8 bits
    label[20:24, 0:4] = (0, 0, 8)
    label[20:24, 10:14] = (0, 0, 22)
    label[0:2, 0:2] = (0, 9, 1)  # an instance id on stuff, which must not matter
    return label


@pytest.fixture
def synthia_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SYNTHIA folder of three images under ``$DETECTRON2_DATASETS``."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "synthia"
    for number in range(3):
        _write(root / "RGB" / f"{number:07d}.png", _image(number))
        _write(root / "GT" / "LABELS" / f"{number:07d}.png", synthia_label())
    return root


def cityscapes_instances() -> np.ndarray:
    """Official instance ids: road 7, sky 23, two cars, a group of cars (26), ego vehicle (1)."""
    ids = np.full(SIZE, 7, dtype=np.uint16)
    ids[:10] = 23
    ids[5:15, 2:10] = 26000
    ids[8:18, 20:30] = 26001
    ids[18:20, 30:38] = 26
    ids[22:] = 1
    return ids


@pytest.fixture
def cityscapes_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is downloaded: images, ``labelIds`` and ``instanceIds``; two train cities, one val."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "cityscapes"
    instances = cityscapes_instances()
    labels = np.where(instances >= 1000, instances // 1000, instances).astype(np.uint8)
    for number, (split, city) in enumerate(
        [("train", "aachen"), ("train", "aachen"), ("train", "bochum"), ("val", "munster")]
    ):
        name = f"{city}_{number:06d}_000019"
        _write(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", _image(number))
        folder = root / "gtFine" / split / city
        _write(folder / f"{name}_gtFine_labelIds.png", labels)
        _write(folder / f"{name}_gtFine_instanceIds.png", instances)
    return root


@pytest.fixture
def cityscapes_expected() -> dict[str, np.ndarray]:
    """The train ids and the segment ids of every image above, derived by hand."""
    instances = cityscapes_instances().astype(np.int32)
    train_ids = np.full(SIZE, 0, dtype=np.uint8)
    train_ids[instances == 23] = 10
    train_ids[(instances == 26) | (instances >= 26000)] = 13
    train_ids[instances == 1] = 255
    return {"semantic": train_ids, "panoptic": np.where(instances == 1, 0, instances)}


@pytest.fixture
def cityscapes_root(cityscapes_download: Path, cityscapes_expected: dict[str, np.ndarray]) -> Path:
    """The download with the generated files, written here by hand and not by our converter."""
    root = cityscapes_download
    train_ids = cityscapes_expected["semantic"]
    painted = cityscapes_expected["panoptic"]
    png = np.stack([painted // 65536, painted // 256 % 256, painted % 256], axis=2)
    segments = [
        {"id": 7, "category_id": 0, "iscrowd": 0},
        {"id": 23, "category_id": 10, "iscrowd": 0},
        {"id": 26, "category_id": 13, "iscrowd": 1},
        {"id": 26000, "category_id": 13, "iscrowd": 0},
        {"id": 26001, "category_id": 13, "iscrowd": 0},
    ]
    for split in ("train", "val"):
        annotations = []
        for path in sorted((root / "leftImg8bit" / split).glob("*/*.png")):
            name = path.name.removesuffix("_leftImg8bit.png")
            folder = root / "gtFine" / split / path.parent.name
            _write(folder / f"{name}_gtFine_labelTrainIds.png", train_ids)
            file_name = f"{name}_gtFine_panoptic.png"
            target = root / "gtFine" / f"cityscapes_panoptic_{split}_trainId" / file_name
            _write(target, png.astype(np.uint8))
            annotations.append(
                {"image_id": name, "file_name": file_name, "segments_info": segments}
            )
        path = root / "gtFine" / f"cityscapes_panoptic_{split}_trainId.json"
        path.write_text(json.dumps({"annotations": annotations}))
    return root


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder ``own`` below the datasets' root, for own data."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "own").mkdir()
    return tmp_path / "own"
