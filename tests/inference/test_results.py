"""Files of a prediction: readable by panopticapi, in train ids, never half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from panopticapi.utils import rgb2id
from PIL import Image

from gbw_d2 import keys
from gbw_d2.errors import UserError
from gbw_d2.inference.results import ResultWriter
from gbw_d2.label_spaces import LABEL_SPACES

SPACE = LABEL_SPACES.get("cityscapes_16")
CAR = SPACE.class_names.index("car")  # class id 11, train id 13


@pytest.fixture
def image() -> np.ndarray:
    return np.full((10, 12, 3), 100, np.uint8)


@pytest.fixture
def result() -> dict[str, Any]:
    logits = torch.zeros(16, 10, 12)
    logits[0] = 1
    logits[CAR, :, 6:] = 2
    segment_map = torch.ones(10, 12, dtype=torch.int32)
    segment_map[:, 6:] = 70_000
    segment_map[0] = 0
    segments = [
        {"id": 1, "category_id": 0, "isthing": False, "area": 54, "score": 0.5},
        {"id": 70_000, "category_id": CAR, "isthing": True, "area": 54, "score": 0.25},
    ]
    return {keys.SEM_SEG: logits, keys.PANOPTIC_SEG: (segment_map, segments)}


def test_panoptic_files(tmp_path: Path, image: np.ndarray, result: dict[str, Any]) -> None:
    writer = ResultWriter(tmp_path, SPACE)
    writer.add("day/x", image, result, {"file_name": "x.jpg"})
    assert writer.write_json() == [tmp_path / "panoptic.json"]
    semantic = cv2.imread(str(tmp_path / "semantic/day/x.png"), cv2.IMREAD_UNCHANGED)
    assert semantic.dtype == np.uint8 and semantic.shape == (10, 12)
    assert (semantic[:, :6] == 0).all() and (semantic[:, 6:] == 13).all()
    with Image.open(tmp_path / "panoptic/day/x.png") as picture:
        ids = rgb2id(np.asarray(picture))
    assert np.array_equal(ids, result[keys.PANOPTIC_SEG][0].numpy())
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert content["images"] == [{"id": 1, "height": 10, "width": 12, "file_name": "x.jpg"}]
    (entry,) = content["annotations"]
    assert entry["image_id"] == 1 and entry["file_name"] == "day/x.png"
    assert [(s["id"], s["category_id"]) for s in entry["segments_info"]] == [(1, 0), (70_000, 13)]
    names = {c["id"]: (c["name"], c["isthing"]) for c in content["categories"]}
    assert len(names) == 16 and names[0] == ("road", 0) and names[13] == ("car", 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["panoptic", "panoptic.json", "semantic"]


def test_semantic_files(tmp_path: Path, image: np.ndarray, result: dict[str, Any]) -> None:
    del result[keys.PANOPTIC_SEG]
    writer = ResultWriter(tmp_path, SPACE, opacity=1.0)
    drawn = writer.add("x", image, result, {"file_name": "x.png", "frame": 3})
    # A narrow picture is enlarged by a whole factor, and a legend follows below it.
    factor = drawn.shape[1] // 12
    assert drawn.shape[1] == 12 * factor >= 600 and drawn.shape[0] > 10 * factor
    assert drawn[factor, factor].tolist() == [128, 64, 128]
    assert writer.write_json() == [tmp_path / "semantic.json"]
    (entry,) = json.loads((tmp_path / "semantic.json").read_text())["annotations"]
    assert entry["segments_info"] == [
        {"id": 0, "category_id": 0, "area": 60},
        {"id": 13, "category_id": 13, "area": 60},
    ]
    assert not (tmp_path / "panoptic").exists()


def test_full_disk_leaves_the_old_file(
    tmp_path: Path, image: np.ndarray, result: dict[str, Any], small_disk: Any
) -> None:
    writer = ResultWriter(tmp_path, SPACE)
    writer.add("x", image, result, {"file_name": "x.png"})
    (tmp_path / "panoptic.json").write_text("old")
    with small_disk(64), pytest.raises(OSError):
        writer.write_json()
    assert (tmp_path / "panoptic.json").read_text() == "old"
    assert not list(tmp_path.glob("*.tmp"))


def test_overlay_video(tmp_path: Path) -> None:
    frame = np.full((33, 47, 3), (200, 30, 30), np.uint8)
    with ResultWriter(tmp_path, SPACE).overlay_video("a/clip", 5.0) as video:
        for _ in range(4):
            video.add(frame)
        video.add(frame[:20, :20])
        assert not (tmp_path / "overlays/a/clip.mp4").exists()
    capture = cv2.VideoCapture(str(tmp_path / "overlays/a/clip.mp4"))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    assert len(frames) == 5 and all(f.shape == (32, 46, 3) for f in frames)
    assert np.abs(frames[-1].mean((0, 1)) - [200, 30, 30]).max() < 8


def test_a_video_that_is_cut_short_is_not_left_behind(tmp_path: Path, small_disk: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    with (
        small_disk(5000),
        pytest.raises(UserError, match=r"of 8 frames could be written"),
        ResultWriter(tmp_path, SPACE).overlay_video("clip", 5.0) as video,
    ):
        for frame in frames:
            video.add(frame)
    assert not list((tmp_path / "overlays").iterdir())


def test_a_video_that_fails_is_not_left_behind(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        ResultWriter(tmp_path, SPACE).overlay_video("clip", 5.0) as video,
    ):
        video.add(np.zeros((16, 16, 3), np.uint8))
        raise ZeroDivisionError
    assert not list((tmp_path / "overlays").iterdir())


def test_opacity_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="opacity"):
        ResultWriter(tmp_path, SPACE, 1.5)
