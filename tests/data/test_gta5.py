"""GTA5's layout: palette labels, labels of other sizes, its toy twin and its script."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.gta5 import read_semantic
from gbw_d2.data.spec import DatasetError
from gbw_d2.toyworld.layouts import LAYOUTS, Layout, check_layout, write_layout
from gbw_d2.toyworld.layouts.gta5 import GTA5_ODD_INDEX
from gbw_d2.toyworld.render import render

ROOT = Path(__file__).resolve().parents[2]
WritePng = Callable[[Path, np.ndarray], None]


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch) -> Layout:
    """The toy GTA5 with four small images."""
    full = LAYOUTS.get("gta5")
    small = replace(full, settings=replace(full.settings, image_size=(64, 128), num_target_train=4))
    monkeypatch.setitem(LAYOUTS._entries, "gta5", small)
    return small


@pytest.fixture
def gta5_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout) -> Path:
    """That toy GTA5 as ``$DETECTRON2_DATASETS/gta5``."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_layout(tmp_path / "gta5", layout, workers=1)
    return tmp_path / "gta5"


def read(number: int) -> np.ndarray:
    spec = get_dataset("gta5_semantic_train")
    assert spec.read_semantic is not None
    return spec.read_semantic(spec.load()[number])


def test_labels_are_those_that_were_drawn(gta5_root: Path, layout: Layout) -> None:
    spec = get_dataset("gta5_semantic_train")
    assert spec.read_panoptic is None
    records = spec.load()
    assert [r["image_id"] for r in records] == ["00001", "00002", "00003", "00004"]
    # OpenCV would give the palette's colours.
    assert Image.open(records[0]["label_file_name"]).mode == "P"
    for number in (0, 3):
        sample = render(layout.settings, "target", "train", number)
        np.testing.assert_array_equal(read(number), sample.class_map)
        image = cv2.imread(records[number]["file_name"])
        np.testing.assert_array_equal(image[:, :, ::-1], sample.image)


def test_a_label_a_little_larger_is_brought_to_its_image(gta5_root: Path, layout: Layout) -> None:
    path = gta5_root / "labels" / f"{GTA5_ODD_INDEX + 1:05d}.png"
    assert Image.open(path).size == (128, 65)
    label = read(GTA5_ODD_INDEX)
    assert label.shape == (64, 128)
    drawn = render(layout.settings, "target", "train", GTA5_ODD_INDEX).class_map
    assert (label == drawn).mean() > 0.95


def test_a_label_of_quite_another_size(gta5_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = gta5_root / "labels" / "00001.png"
    record = get_dataset("gta5_semantic_train").load()[0]
    Image.fromarray(np.full((60, 128), 7, np.uint8)).save(path)
    assert len(get_dataset("gta5_semantic_train").load()) == 3
    assert "left out 1 whose label is more than 5 % larger or smaller" in caplog.text
    assert "(00001); 3 pairs are used" in caplog.text
    with pytest.raises(DatasetError, match=r"00001\.png' has 60x128 .* image has 64x128"):
        read_semantic(record)


def test_ids_by_hand(gta5_root: Path) -> None:
    label = np.zeros((64, 128), np.uint8)
    label[0, :6] = (7, 33, 34, 16, 31, 1)
    Image.fromarray(label).save(gta5_root / "labels" / "00001.png")  # grey will do as well
    found = read(0)
    assert found[0, :6].tolist() == [0, 18, 255, 255, 16, 255]
    assert (found[1:] == 255).all()


def test_train_ids_are_recognised(gta5_root: Path) -> None:
    label = np.full((64, 128), 255, np.uint8)
    Image.fromarray(label).save(gta5_root / "labels" / "00001.png")
    with pytest.raises(DatasetError, match=r"holds id\(s\) 255, .*are these train ids"):
        read(0)


def test_colours_are_no_label(gta5_root: Path, write_png: WritePng) -> None:
    write_png(gta5_root / "labels" / "00001.png", np.zeros((64, 128, 3), np.uint8))
    with pytest.raises(DatasetError, match="mode RGB, expected 8 bits with a palette"):
        read(0)


@pytest.mark.parametrize("cut", [20, -100])
def test_a_damaged_label(gta5_root: Path, cut: int) -> None:
    path = gta5_root / "labels" / "00001.png"
    data = path.read_bytes()
    record = get_dataset("gta5_semantic_train").load()[0]
    cut %= len(data)
    path.write_bytes(data[:cut])
    with pytest.raises(DatasetError, match=r"00001\.png' is a truncated PNG"):
        read_semantic(record)
    path.write_bytes(data[:cut] + bytes(50) + data[cut + 50 :])
    with pytest.raises(DatasetError, match=r"00001\.png' cannot be decoded"):
        read_semantic(record)


def test_a_missing_label(gta5_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (gta5_root / "labels" / "00002.png").unlink()
    assert len(get_dataset("gta5_semantic_train").load()) == 3
    assert "left out 1 without a label (00002); 3 pairs are used" in caplog.text


def test_the_script(gta5_root: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "datasets/prepare_gta5.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = run("--check", "--sample", "2")
    assert found.returncode == 0, found.stderr
    assert "4 images, the whole dataset has 24966" in found.stdout
    assert "read 2 of 4 images and labels" in found.stdout
    assert not (gta5_root.parent / ".class_statistics").exists()
    found = run()
    assert found.returncode == 0, found.stderr
    assert len(list((gta5_root.parent / ".class_statistics").glob("*.npz"))) == 1
    (gta5_root / "labels" / "00002.png").unlink()
    found = run("--check")
    assert found.returncode == 0
    assert "1 without a label (00002)" in found.stderr and "Traceback" not in found.stderr
    assert "labels' lacks 24963 of 24966 files: 00002, 00005-24966." in found.stdout
    assert "Unpack again: 01_labels.zip, 02_labels.zip" in found.stdout
    assert "images' lacks 24962 of 24966 files: 00005-24966." in found.stdout


def test_an_interrupted_toy_goes_on_and_a_finished_one_stays(
    tmp_path: Path, layout: Layout
) -> None:
    root = tmp_path / "toy"
    write_layout(root, layout, workers=1)
    first, second = root / "images/00001.png", root / "labels/00002.png"
    kept, content = first.stat().st_mtime_ns, second.read_bytes()
    (root / "toyworld.json").rename(root / "toyworld.in_progress.json")
    second.unlink()
    write_layout(root, layout, workers=1)
    assert first.stat().st_mtime_ns == kept
    assert second.read_bytes() == content
    second.unlink()
    with pytest.raises(DatasetError, match=r"1 images lack files; run .*--layout gta5"):
        check_layout(root, layout)
    write_layout(root, layout, workers=1)
    check_layout(root, layout)
    assert first.stat().st_mtime_ns == kept
    with pytest.raises(DatasetError, match="layout_version is 1, not 2"):
        write_layout(root, replace(layout, version=2))


def test_the_toy_source_has_all_classes() -> None:
    settings = replace(LAYOUTS.get("gta5").settings, image_size=(64, 128))
    found = np.zeros(256, bool)
    for index in (4, 9, 13):
        found[np.unique(render(settings, "target", "train", index).class_map)] = True
    assert found[:19].all()
