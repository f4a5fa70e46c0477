"""The scripts in datasets/, run as users run them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.cityscapes_labels import staging_folder

SCRIPTS = Path(__file__).resolve().parents[2] / "datasets"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a script; ``$DETECTRON2_DATASETS`` is set by the fixtures that make the files."""

    def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPTS / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    return call


def test_synthia(synthia_root: Path, run: Run) -> None:
    found = run("prepare_synthia.py", "--check")
    assert found.returncode == 0, found.stderr
    assert "3 images, the whole dataset has 9400" in found.stdout
    assert "read 3 of 3 images and labels" in found.stdout
    # Two cars in each image; class, share, images, instances, per image, most.
    assert re.search(r"^car +[\d.]+% +3 +6 +2\.00 +2$", found.stdout, re.MULTILINE)
    assert not (synthia_root.parent / ".class_statistics").exists()
    found = run("prepare_synthia.py", "--root", str(synthia_root))
    assert found.returncode == 0, found.stderr
    assert re.search(r"^car +[\d.]+% +3$", found.stdout, re.MULTILINE)
    assert len(list((synthia_root.parent / ".class_statistics").glob("*.npz"))) == 1


def test_synthia_that_cannot_be_used(
    synthia_root: Path, run: Run, write_png: Callable[[Path, np.ndarray], None]
) -> None:
    write_png(synthia_root / "GT" / "LABELS" / "0000001.png", np.zeros((24, 40, 3), np.uint8))
    for arguments in ([], ["--check"]):
        found = run("prepare_synthia.py", *arguments)
        assert found.returncode == 2
        assert "0000001.png' has 8 bits" in found.stderr
        assert "Traceback" not in found.stderr


def test_cityscapes_from_the_download(
    cityscapes_download: Path, run: Run, cityscapes_expected: dict[str, np.ndarray]
) -> None:
    root = cityscapes_download
    before = run("prepare_cityscapes.py", "--check")
    assert before.returncode == 2
    assert "3 of 3 files *_gtFine_labelTrainIds.png are missing" in before.stderr
    assert "python datasets/prepare_cityscapes.py" in before.stderr
    assert not list(root.glob("gtFine/*/*/*labelTrainIds.png"))

    made = run("prepare_cityscapes.py", "--workers", "1")
    assert made.returncode == 0, made.stderr
    assert "train and val can be used" in made.stdout
    assert not list(root.glob("gtFine/.panoptic_*"))
    assert not list(root.glob("gtFine/*/*/*.tmp"))
    for name, count in (("cityscapes_panoptic_train", 3), ("cityscapes_panoptic_val", 1)):
        spec = get_dataset(name)
        records = spec.load()
        assert len(records) == count
        assert spec.read_semantic is not None and spec.read_panoptic is not None
        for record in records:
            segments, info = spec.read_panoptic(record)
            np.testing.assert_array_equal(
                spec.read_semantic(record), cityscapes_expected["semantic"]
            )
            np.testing.assert_array_equal(segments, cityscapes_expected["panoptic"])
            assert {s["id"]: (s["category_id"], s["iscrowd"]) for s in info} == {
                7: (0, 0),
                23: (10, 0),
                26: (13, 1),
                26000: (13, 0),
                26001: (13, 0),
            }
    assert run("prepare_cityscapes.py", "--check").returncode == 0


def test_a_cityscapes_tree_without_objects_is_warned_of(
    cityscapes_download: Path, run: Run, write_png: Callable[[Path, np.ndarray], None]
) -> None:
    # As datumaro 1.13 exports it: instance files that repeat the label ids.
    for path in cityscapes_download.glob("gtFine/*/*/*instanceIds.png"):
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write_png(path, np.where(ids >= 1000, ids // 1000, ids).astype(np.uint16))
    found = run("prepare_cityscapes.py", "--workers", "1", "--splits", "train")
    assert found.returncode == 0, found.stderr
    assert "warning: pixels of car but not one object" in found.stdout


def test_cityscapes_goes_on_where_it_stopped(cityscapes_download: Path, run: Run) -> None:
    root = cityscapes_download
    assert run("prepare_cityscapes.py", "--workers", "1", "--splits", "train").returncode == 0
    path = root / "gtFine" / "cityscapes_panoptic_train_trainId.json"
    content = json.loads(path.read_text())
    untouched = next(root.glob("gtFine/train/aachen/*_000000_*labelTrainIds.png"))
    written = untouched.stat().st_mtime_ns
    # As after an interruption: one city is done, one is not, and one train id file is missing.
    path.unlink()
    next(root.glob("gtFine/train/bochum/*labelTrainIds.png")).unlink()
    staging = staging_folder(root / "gtFine", "train")
    staging.mkdir()
    done = {
        key: [entry for entry in content[key] if "aachen" in str(entry)]
        for key in ("images", "annotations")
    }
    done["categories"] = content["categories"]
    done["annotations"][0]["mark"] = "from before"
    (staging / "aachen.json").write_text(json.dumps(done))

    found = run("prepare_cityscapes.py", "--workers", "1", "--splits", "train")
    assert found.returncode == 0, found.stderr
    assert untouched.stat().st_mtime_ns == written
    annotations = json.loads(path.read_text())["annotations"]
    assert len(annotations) == 3
    assert annotations[0]["mark"] == "from before"


def test_cityscapes_download_with_a_hole(cityscapes_download: Path, run: Run) -> None:
    next(cityscapes_download.glob("gtFine/train/bochum/*instanceIds.png")).unlink()
    next(cityscapes_download.glob("leftImg8bit/train/aachen/*_000000_*.png")).unlink()
    for arguments in ([], ["--check"]):
        found = run("prepare_cityscapes.py", *arguments)
        assert found.returncode == 0 and "Traceback" not in found.stderr, found.stderr
        assert "1 without an image (aachen_000000_000019); 2 pairs are used" in found.stderr
        assert "left out 1 without a label (bochum_000002_000019); 1 pairs" in found.stderr
        assert "read 1 of 1 images and labels: all good" in found.stdout
        assert "'val' of Cityscapes has 500; scores of a part of it are called" in found.stdout
    for path in cityscapes_download.glob("gtFine/val/*/*"):
        path.unlink()
    found = run("prepare_cityscapes.py", "--check", "--splits", "val")
    assert found.returncode == 2 and "gtFine_trainvaltest.zip" in found.stderr


def test_downloaded_labels_that_cannot_be_used(
    cityscapes_root: Path, run: Run, write_png: Callable[[Path, np.ndarray], None]
) -> None:
    bochum, munster = (
        next(cityscapes_root.glob(f"gtFine/*/{city}/*instanceIds.png"))
        for city in ("bochum", "munster")
    )
    write_png(bochum, np.full((24, 40), 7, np.uint8))
    write_png(munster, np.full((24, 40), 23, np.uint16))
    found = run("prepare_cityscapes.py", "--check")
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "instanceIds.png' has 8 bits" in found.stderr
    assert "munster_000003_000019_gtFine_labelIds.png' and its instanceIds disagree" in found.stderr
    assert "read 1 of 1 images and labels: 1 cannot be used" in found.stdout
    assert "aachen has 2 of 174" in found.stdout
    assert "3 images are not 1024 x 2048" in found.stdout


def test_every_broken_file_is_told(synthia_root: Path, run: Run) -> None:
    for path in (synthia_root / "GT" / "LABELS").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    found = run("prepare_synthia.py", "--check")
    assert found.returncode == 2
    assert found.stderr.count("is a truncated PNG file") == 3
    assert "RGB' lacks 9397 of 9400 files: 0000003-0009399" in found.stdout
    assert "sizes (rows x columns): 24 x 40: 3" in found.stdout


def test_a_broken_file_of_ours_is_made_anew(cityscapes_download: Path, run: Run) -> None:
    assert run("prepare_cityscapes.py", "--workers", "1").returncode == 0
    broken = (
        next(cityscapes_download.glob("gtFine/val/*/*labelTrainIds.png")),
        next(cityscapes_download.glob("gtFine/*train_trainId/bochum*.png")),
    )
    for path in broken:
        path.write_bytes(path.read_bytes()[:-20])
    found = run("prepare_cityscapes.py", "--check")
    assert found.returncode == 2 and found.stderr.count("truncated PNG file; delete it. Run") == 2
    for path in broken:
        path.unlink()
    assert run("prepare_cityscapes.py", "--workers", "1").returncode == 0
