"""CamVid: names give split and light, both forms have the same labels, mistakes are reported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.camvid import (
    COLOURS,
    SEGNET_CLASSES,
    VOID_COLOUR,
    load_camvid,
    place_of,
    read_colours,
    read_segnet,
)
from gbw_d2.data.spec import DatasetError
from gbw_d2.label_spaces import CAMVID_11, CITYSCAPES_19, training_table
from gbw_d2.toyworld.layouts import LAYOUTS, camvid, write_layout
from gbw_d2.toyworld.render import render

ROOT = Path(__file__).resolve().parents[2]
WritePng = Callable[[Path, np.ndarray], None]
NAMES = ("0001TP_008520", "0001TP_008550", "0006R0_f00930", "0016E5_07959", "Seq05VD_f00000")


@pytest.mark.parametrize(
    ("stem", "place"),
    [
        ("0001TP_006690", ("train", "dusk")),
        ("0001TP_008520", ("train", "dusk")),
        ("0001TP_008550", ("test", "dusk")),
        ("0006R0_f03930", ("train", "day")),
        ("0016E5_07920", ("train", "day")),
        ("0016E5_07959", ("val", "day")),
        ("0016E5_08159", ("val", "day")),
        ("0016E5_08190", ("train", "day")),
        ("Seq05VD_f05100", ("test", "day")),
    ],
)
def test_names_tell_the_place(stem: str, place: tuple[str, str]) -> None:
    assert place_of(stem) == place


def test_other_names_are_refused() -> None:
    for stem in ("aachen_000000", "0001TP_x", "0001TP", "frame_0001"):
        with pytest.raises(DatasetError, match="no image of CamVid"):
            place_of(stem)


def test_every_class_has_its_colours() -> None:
    colours = [colour for group in COLOURS.values() for colour in group]
    assert len({*colours, VOID_COLOUR}) == 32
    assert set(COLOURS) == set(SEGNET_CLASSES) == set(CAMVID_11.class_names)


def test_classes_of_cityscapes_that_camvid_joins() -> None:
    table = training_table(CITYSCAPES_19, CAMVID_11)
    joined = {
        name: CAMVID_11.class_names[table[i]] for i, name in enumerate(CITYSCAPES_19.class_names)
    }
    assert joined["bus"] == joined["truck"] == joined["train"] == "car"
    assert joined["bicycle"] == joined["motorcycle"] == "rider"
    assert (joined["wall"], joined["terrain"]) == ("building", "vegetation")
    assert joined["traffic light"] == "traffic sign"
    assert all(joined[name] == name for name in CAMVID_11.class_names)


def write_forms(root: Path, write_png: WritePng) -> np.ndarray:
    """Writes one label in both forms below ``segnet`` and ``original``; returns its indices."""
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4).repeat(2, 0)
    colours = np.array([COLOURS[name][-1] for name in SEGNET_CLASSES] + [VOID_COLOUR], np.uint8)
    image = np.full((*indices.shape, 3), 90, np.uint8)
    for stem in NAMES:
        split, _ = place_of(stem)
        write_png(root / "segnet" / split / f"{stem}.png", image)
        write_png(root / "segnet" / f"{split}annot" / f"{stem}.png", indices)
        write_png(root / "original/701_StillsRaw_full" / f"{stem}.png", image)
        label = root / "original/LabeledApproved_full" / f"{stem}_L.png"
        write_png(label, colours[indices][:, :, ::-1])
    return indices


def test_both_forms_are_read_alike(tmp_path: Path, write_png: WritePng) -> None:
    indices = write_forms(tmp_path, write_png)
    found = {}
    for form in ("segnet", "original"):
        for split in ("train", "val", "test"):
            records = load_camvid(tmp_path / form, split)
            found[form, split] = [r["image_id"] for r in records]
    assert found["segnet", "train"] == found["original", "train"] == [NAMES[0], NAMES[2]]
    assert found["segnet", "val"] == found["original", "val"] == [NAMES[3]]
    assert found["segnet", "test"] == found["original", "test"] == [NAMES[1], NAMES[4]]
    expected = np.array([*(CAMVID_11.id_of[name] for name in SEGNET_CLASSES), 255])[indices]
    stem = NAMES[0]
    segnet = read_segnet(tmp_path / f"segnet/trainannot/{stem}.png")
    np.testing.assert_array_equal(segnet, expected)
    original = read_colours(tmp_path / f"original/LabeledApproved_full/{stem}_L.png")
    np.testing.assert_array_equal(original, expected)
    assert [r["image_id"] for r in load_camvid(tmp_path / "segnet", "test", ("dusk",))] == [
        NAMES[1]
    ]


def test_other_codings_are_refused(tmp_path: Path, write_png: WritePng) -> None:
    write_png(tmp_path / "index.png", np.full((4, 4), 12, np.uint8))
    with pytest.raises(DatasetError, match="holds the index 12"):
        read_segnet(tmp_path / "index.png")
    write_png(tmp_path / "colour.png", np.full((4, 4, 3), (1, 2, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"holds \(3, 2, 1\), no colour"):
        read_colours(tmp_path / "colour.png")


def test_a_missing_label_is_counted(
    tmp_path: Path,
    write_png: WritePng,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_forms(tmp_path, write_png)
    (tmp_path / "segnet/trainannot" / f"{NAMES[0]}.png").unlink()
    assert len(load_camvid(tmp_path / "segnet", "train")) == 1
    assert f"left out 1 without a label ({NAMES[0]}); 1 pairs are used" in caplog.text
    (tmp_path / "segnet").rename(tmp_path / "camvid")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name, whole in (("camvid_semantic_test", 233), ("camvid_dusk_semantic_test", 1)):
        count = get_dataset(name).count_images
        assert count is not None and count() == whole
    (tmp_path / "camvid").rename(tmp_path / "segnet")
    assert len(load_camvid(tmp_path / "segnet", "train", labelled=False)) == 2
    with pytest.raises(DatasetError, match="no CamVid in"):
        load_camvid(tmp_path, "train")


def test_the_toy_twin_holds_what_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = ("0016E5_00000", "0001TP_007000", "0016E5_07959", "Seq05VD_f00000", "0001TP_009000")
    monkeypatch.setattr(camvid, "_FRAMES", frames)
    full = LAYOUTS.get("camvid")
    settings = replace(full.settings, image_size=(64, 128), num_target_train=len(frames))
    small = replace(full, settings=settings)
    monkeypatch.setitem(LAYOUTS._entries, "camvid", small)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_layout(tmp_path / "camvid", small, workers=1)
    table = training_table(CITYSCAPES_19, CAMVID_11)
    brightness = {}
    for name, number in (("camvid_day_semantic_train", 0), ("camvid_dusk_semantic_test", 4)):
        spec = get_dataset(name)
        (record,) = spec.load()
        sample = render(settings, "target", "train", number)
        assert spec.read_semantic is not None
        np.testing.assert_array_equal(spec.read_semantic(record), table[sample.class_map])
        brightness[name] = cv2.imread(record["file_name"]).mean() / sample.image.mean()
    assert brightness["camvid_day_semantic_train"] == 1
    assert 0.4 < brightness["camvid_dusk_semantic_test"] < 0.5
    script = [sys.executable, str(ROOT / "datasets/prepare_camvid.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning: 2 images, the whole dataset has 367" in done.stdout
