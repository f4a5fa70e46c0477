"""The readers of Cityscapes, and each of their errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from panopticapi.utils import rgb2id

from gbw_d2.catalog import get_dataset
from gbw_d2.data.spec import DatasetError

WritePng = Callable[[Path, np.ndarray], None]
ROAD, SKY, CAR = 0, 10, 13


def test_cityscapes_splits(cityscapes_root: Path) -> None:
    for kind in ("panoptic", "semantic"):
        assert len(get_dataset(f"cityscapes_{kind}_train").load()) == 3
        records = get_dataset(f"cityscapes_{kind}_val").load()
        assert [r["image_id"] for r in records] == ["munster_000003_000019"]
        assert (records[0]["height"], records[0]["width"]) == (24, 40)


def test_the_target_needs_no_label_file_and_has_no_reader(cityscapes_download: Path) -> None:
    (cityscapes_download / "gtFine").rename(cityscapes_download / "away")
    spec = get_dataset("cityscapes_unlabelled_train")
    records = spec.load()
    assert len(records) == 3
    assert not spec.is_labelled
    assert all(set(r) == {"file_name", "image_id", "height", "width"} for r in records)


def test_cityscapes_labels(cityscapes_root: Path) -> None:
    spec = get_dataset("cityscapes_panoptic_val")
    assert spec.read_semantic is not None and spec.read_panoptic is not None
    record = spec.load()[0]
    semantic = spec.read_semantic(record)
    segments, info = spec.read_panoptic(record)
    assert segments.dtype == np.int32
    assert set(np.unique(segments)) == {0, 7, 23, 26, 26000, 26001}
    assert (segments[8:18, 20:30] == 26001).all()
    assert ((segments == 0) == (semantic == 255)).all()
    assert {s["id"] for s in info if s["iscrowd"]} == {26}


def test_segment_ids_are_those_of_panopticapi(cityscapes_root: Path) -> None:
    spec = get_dataset("cityscapes_panoptic_val")
    assert spec.read_panoptic is not None
    record = spec.load()[0]
    segments, _ = spec.read_panoptic(record)
    rgb = cv2.cvtColor(cv2.imread(record["pan_seg_file_name"]), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(segments, rgb2id(rgb))


def test_generated_cityscapes_files_that_are_missing(cityscapes_download: Path) -> None:
    for name in ("cityscapes_panoptic_train", "cityscapes_semantic_val"):
        with pytest.raises(DatasetError, match=r"python datasets/prepare_cityscapes\.py"):
            get_dataset(name).load()


def test_one_train_id_file_is_missing(cityscapes_root: Path) -> None:
    next((cityscapes_root / "gtFine" / "train" / "bochum").glob("*labelTrainIds.png")).unlink()
    for name in ("cityscapes_panoptic_train", "cityscapes_semantic_train"):
        with pytest.raises(DatasetError, match=r"1 of 3 .*bochum"):
            get_dataset(name).load()


def test_one_panoptic_file_is_missing(cityscapes_root: Path) -> None:
    folder = cityscapes_root / "gtFine" / "cityscapes_panoptic_train_trainId"
    (folder / "bochum_000002_000019_gtFine_panoptic.png").unlink()
    with pytest.raises(DatasetError, match=r"1 PNG files are missing.*bochum_000002"):
        get_dataset("cityscapes_panoptic_train").load()


def test_cityscapes_images_are_missing(cityscapes_root: Path) -> None:
    spec = get_dataset("cityscapes_panoptic_train")
    (cityscapes_root / "leftImg8bit" / "train").rename(cityscapes_root / "away")
    with pytest.raises(DatasetError, match="no folder"):
        spec.load()
    (cityscapes_root / "leftImg8bit" / "train" / "aachen").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"no file \*_leftImg8bit\.png"):
        spec.load()


def _edit_json(root: Path, edit: Callable[[dict], None]) -> None:
    path = root / "gtFine" / "cityscapes_panoptic_val_trainId.json"
    content = json.loads(path.read_text())
    edit(content["annotations"][0])
    path.write_text(json.dumps(content))


def test_segments_of_json_and_png_differ(cityscapes_root: Path) -> None:
    spec = get_dataset("cityscapes_panoptic_val")
    assert spec.read_panoptic is not None
    extra = {"id": 26002, "category_id": 13, "iscrowd": 0}
    _edit_json(cityscapes_root, lambda a: a["segments_info"].append(extra))
    with pytest.raises(DatasetError, match=r"only in the JSON file \[26002\]"):
        spec.read_panoptic(spec.load()[0])
    _edit_json(cityscapes_root, lambda a: a.update(segments_info=a["segments_info"][1:-1]))
    with pytest.raises(DatasetError, match=r"only in the PNG file \[7\]"):
        spec.read_panoptic(spec.load()[0])


def test_a_json_file_with_label_ids_or_of_another_kind(cityscapes_root: Path) -> None:
    spec = get_dataset("cityscapes_panoptic_val")
    _edit_json(cityscapes_root, lambda a: a["segments_info"][0].update(category_id=26))
    with pytest.raises(DatasetError, match=r"category_id 26 of munster_.*expected train ids"):
        spec.load()
    (cityscapes_root / "gtFine" / "cityscapes_panoptic_val_trainId.json").write_text('{"a": 1')
    with pytest.raises(DatasetError, match="not a COCO panoptic file"):
        spec.load()


def _twice(content: dict) -> None:
    content["annotations"] *= 2


def _segment_twice(content: dict) -> None:
    content["annotations"][0]["segments_info"] *= 2


def _image_number(content: dict) -> None:
    content["annotations"][0]["image_id"] = 3


def _no_crowd_flag(content: dict) -> None:
    del content["annotations"][0]["segments_info"][0]["iscrowd"]


def _fractional_id(content: dict) -> None:
    content["annotations"][0]["segments_info"][0]["id"] = 7.5


def _no_segments(content: dict) -> None:
    content["annotations"][0]["segments_info"] = None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_twice, "lists an image twice"),
        (_segment_twice, "munster_000003_000019.*lists a segment twice"),
        (_image_number, "image_id 3 is no text"),
        (_no_crowd_flag, "KeyError.*iscrowd"),
        (_fractional_id, "has no whole numbers"),
        (_no_segments, "not a COCO panoptic file"),
        (lambda content: content.update(annotations=[3]), "not a COCO panoptic file"),
        (lambda content: content.update(annotations={"a": 3}), "not a COCO panoptic file"),
    ],
)
def test_a_json_file_with_odd_entries(
    cityscapes_root: Path, damage: Callable[[dict], None], message: str
) -> None:
    path = cityscapes_root / "gtFine" / "cityscapes_panoptic_val_trainId.json"
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message) as error:
        get_dataset("cityscapes_panoptic_val").load()
    assert str(path) in str(error.value) and "prepare_cityscapes" in str(error.value)


@pytest.mark.parametrize("data", [b"[]", b"3", b"", b"\xff\xfe{}", b'{"annotations": null}'])
def test_a_json_file_that_is_none(cityscapes_root: Path, data: bytes) -> None:
    path = cityscapes_root / "gtFine" / "cityscapes_panoptic_val_trainId.json"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="not a COCO panoptic file"):
        get_dataset("cityscapes_panoptic_val").load()


def test_a_folder_without_cities(cityscapes_root: Path) -> None:
    shutil.rmtree(cityscapes_root / "leftImg8bit" / "val")
    (cityscapes_root / "leftImg8bit" / "val").mkdir()
    with pytest.raises(DatasetError, match="no cities in"):
        get_dataset("cityscapes_semantic_val").load()


def test_label_ids_instead_of_train_ids(cityscapes_root: Path, write_png: WritePng) -> None:
    spec = get_dataset("cityscapes_semantic_val")
    record = spec.load()[0]
    write_png(Path(record["sem_seg_file_name"]), np.full((24, 40), 26, np.uint8))
    assert spec.read_semantic is not None
    with pytest.raises(DatasetError, match=r"\[26\], expected train ids"):
        spec.read_semantic(record)
