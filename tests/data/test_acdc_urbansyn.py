"""ACDC's and UrbanSyn's layouts: what was written is read, and mistakes are reported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.acdc import CONDITIONS, load_acdc
from gbw_d2.data.formats.urbansyn import load_urbansyn, read_semantic
from gbw_d2.data.spec import DatasetError
from gbw_d2.label_spaces import CITYSCAPES_19
from gbw_d2.toyworld.layouts import LAYOUTS, Layout, write_layout
from gbw_d2.toyworld.render import render

ROOT = Path(__file__).resolve().parents[2]
WritePng = Callable[[Path, np.ndarray], None]


@pytest.fixture
def write_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Layout]:
    """Returns a function: name of a layout -> its small twin, written as the real data set."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def write(name: str) -> Layout:
        full = LAYOUTS.get(name)
        sizes = {"image_size": (64, 128), "num_target_train": 4, "num_target_val": 4}
        small = replace(full, settings=replace(full.settings, **sizes))
        monkeypatch.setitem(LAYOUTS._entries, name, small)
        write_layout(tmp_path / name, small, workers=1)
        return small

    return write


def check(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / f"datasets/prepare_{name}.py"), "--check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_acdc_holds_what_was_drawn(tmp_path: Path, write_small: Callable[[str], Layout]) -> None:
    layout = write_small("acdc")
    for index, condition in enumerate(CONDITIONS):
        spec = get_dataset(f"acdc_{condition}_semantic_val")
        (record,) = spec.load()
        assert record["image_id"].startswith(f"{condition}__GOPR0001_frame_")
        assert spec.read_semantic is not None
        drawn = render(layout.settings, "target", "val", index).class_map
        np.testing.assert_array_equal(spec.read_semantic(record), drawn)
    unlabelled = get_dataset("acdc_unlabelled_train")
    assert len(unlabelled.load()) == 4 and not unlabelled.is_labelled
    done = check("acdc", "--conditions", "fog")
    assert done.returncode == 0, done.stderr
    assert "acdc_fog_panoptic_val: 1 images" in done.stdout


def test_acdc_tells_what_is_missing_or_wrong(
    tmp_path: Path, write_small: Callable[[str], Layout], write_png: WritePng
) -> None:
    write_small("acdc")
    (record,) = load_acdc(tmp_path / "acdc", "val", ("snow",))
    spec = get_dataset("acdc_snow_semantic_val")
    assert spec.read_semantic is not None
    write_png(Path(record["label_file_name"]), np.full((64, 128), 33, np.uint8))
    with pytest.raises(DatasetError, match=r"holds id\(s\) 33; expected Cityscapes' train ids"):
        spec.read_semantic(record)
    Path(record["label_file_name"]).unlink()
    with pytest.raises(DatasetError, match=r"none of 1 images .* has its label"):
        load_acdc(tmp_path / "acdc", "val", ("snow",))
    with pytest.raises(DatasetError, match=r"no images .*rgb_anon/fog/train"):
        load_acdc(tmp_path, "train")


@pytest.mark.parametrize("condition", ["", "snow_"])
def test_acdc_panoptic_holds_what_was_drawn(
    condition: str, write_small: Callable[[str], Layout]
) -> None:
    layout = write_small("acdc")
    spec = get_dataset(f"acdc_{condition}panoptic_val")
    records = spec.load()
    assert len(records) == (1 if condition else 4)
    assert spec.read_panoptic is not None and spec.read_semantic is not None
    for index, record in zip((3,) if condition else range(4), records, strict=True):
        sample = render(layout.settings, "target", "val", index)
        segments, info = spec.read_panoptic(record)
        # Classes and instances by hand: pixels of one segment are those that share both.
        classes = np.full(segments.shape, 255, np.uint8)
        for segment in info:
            mask = segments == segment["id"]
            classes[mask] = segment["category_id"]
            assert mask.sum() == segment["area"]
            is_thing = CITYSCAPES_19.classes[segment["category_id"]].is_thing
            numbers = np.unique(sample.instance_map[mask])
            assert len(numbers) == 1 or not is_thing
            assert segment["iscrowd"] == int(is_thing and numbers[0] == 0)
        np.testing.assert_array_equal(classes, sample.class_map)
        np.testing.assert_array_equal(spec.read_semantic(record), sample.class_map)


def test_acdc_panoptic_goes_by_the_names_of_categories(
    tmp_path: Path, write_small: Callable[[str], Layout]
) -> None:
    write_small("acdc")
    folder, spec = tmp_path / "acdc/gt_panoptic", get_dataset("acdc_fog_panoptic_val")
    path = folder / "fog/fog_val_gt_panoptic.json"
    content = json.loads(path.read_text())
    assert spec.read_panoptic is not None
    before = spec.read_panoptic(*spec.load())
    # Train ids in place of label ids, and label files by their bare names.
    ids = {c["id"]: i for i, c in enumerate(content["categories"])}
    for category in content["categories"]:
        category["id"] = ids[category["id"]]
    for entry in content["annotations"]:
        entry["file_name"] = entry["file_name"].rsplit("/", 1)[1]
        for segment in entry["segments_info"]:
            segment["category_id"] = ids[segment["category_id"]]
    path.write_text(json.dumps(content))
    after = spec.read_panoptic(*spec.load())
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1] == after[1]


def test_acdc_panoptic_tells_what_is_missing_or_wrong(
    tmp_path: Path, write_small: Callable[[str], Layout]
) -> None:
    write_small("acdc")
    folder, spec = tmp_path / "acdc/gt_panoptic", get_dataset("acdc_fog_panoptic_val")
    path = folder / "fog/fog_val_gt_panoptic.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "categories": whole["categories"][2:]}))
    with pytest.raises(DatasetError, match=r"is not a COCO panoptic file.*KeyError"):
        spec.load()
    renamed = [{**c, "name": c["name"].title()} for c in whole["categories"]]
    path.write_text(json.dumps({**whole, "categories": renamed}))
    with pytest.raises(DatasetError, match=r"has no category bicycle, .*Cityscapes' 19 classes"):
        spec.load()
    path.write_text(json.dumps(whole))
    next(folder.glob("fog/val/*/*.png")).unlink()
    with pytest.raises(DatasetError, match=r"none of 1 images .*gt_panoptic_trainval\.zip"):
        spec.load()
    path.unlink()
    with pytest.raises(DatasetError, match=r"cannot read .*fog_val_gt_panoptic\.json"):
        spec.load()


def test_urbansyn_holds_what_was_drawn(write_small: Callable[[str], Layout]) -> None:
    layout = write_small("urbansyn")
    spec = get_dataset("urbansyn_panoptic_train")
    records = spec.load()
    assert [r["image_id"] for r in records] == ["0001", "0002", "0003", "0004"]
    assert spec.read_panoptic is not None and spec.read_semantic is not None
    for index, record in enumerate(records):
        sample = render(layout.settings, "target", "train", index)
        np.testing.assert_array_equal(spec.read_semantic(record), sample.class_map)
        segments, info = spec.read_panoptic(record)
        things = CITYSCAPES_19.is_thing[sample.class_map] & (sample.instance_map > 0)
        expected = {
            (
                int(sample.class_map[sample.instance_map == n][0]),
                int((things & (sample.instance_map == n)).sum()),
            )
            for n in np.unique(sample.instance_map[things])
        }
        found = {
            (s["category_id"], s["area"])
            for s in info
            if CITYSCAPES_19.classes[s["category_id"]].is_thing and not s["iscrowd"]
        }
        assert found == expected
        assert set(np.unique(segments)) - {0} == {s["id"] for s in info}
    done = check("urbansyn")
    assert done.returncode == 0, done.stderr
    assert "warning: 4 images, the whole dataset has 7482" in done.stdout


def test_urbansyn_leaves_wrong_labels_out(tmp_path: Path, write_png: WritePng) -> None:
    for number in (6972, 6973, 7029, 7030):
        for folder, shape in (("rgb", (4, 6, 3)), ("ss", (4, 6)), ("panoptic", (4, 6, 3))):
            write_png(tmp_path / folder / f"{folder}_{number:04d}.png", np.zeros(shape, np.uint8))
    assert [r["image_id"] for r in load_urbansyn(tmp_path)] == ["6972", "7030"]
    write_png(tmp_path / "ss/ss_6972.png", np.full((4, 6), 26, np.uint8))
    with pytest.raises(DatasetError, match=r"holds id\(s\) 26; UrbanSyn's are train ids"):
        read_semantic(load_urbansyn(tmp_path)[0])
    (tmp_path / "rgb/rgb_x.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"holds rgb_x\.png; expected rgb_0001\.png"):
        load_urbansyn(tmp_path)
