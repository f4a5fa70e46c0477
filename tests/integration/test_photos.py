"""A few steps on real photos (CamVid), an evaluation, and the checks, where the photos are.

They never enter the repository. The folder is that of the environment variable GBW_CAMVID, in a
form that datasets/README.md shows, or `../shared/data/camvid` beside the repository, whose images
and labels lie in folders by split and light.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gbw_d2.results.reader import read_results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared/data/camvid"
RECIPE = (
    *("--config-file", "configs/camvid_day_to_dusk_semantic_gbw.yaml", "--num-processes", "1"),
)
# ImageNet weights are a package that need not be installed.
SMALL = ("--with", "encoders/resnet_tiny", "SOLVER.MAX_ITER", "4", "DATALOADER.NUM_WORKERS", "0")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datasets' root with the photos in a folder ``camvid``."""
    root = tmp_path_factory.mktemp("datasets")
    given = os.environ.get("GBW_CAMVID")
    if given:
        (root / "camvid").symlink_to(Path(given).resolve())
    elif SHARED.is_dir():
        for split in ("train", "val", "test"):
            for kind, folder in (("images", split), ("labels", f"{split}annot")):
                (root / "camvid" / folder).mkdir(parents=True)
                for path in sorted((SHARED / kind / split).rglob("*.*")):
                    (root / "camvid" / folder / path.name).symlink_to(path)
    else:
        pytest.skip(f"no CamVid: GBW_CAMVID names no folder, and there is no {SHARED}")
    return root


def run(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env=dict(os.environ, OMP_NUM_THREADS="1", DETECTRON2_DATASETS=str(root)),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_script_finds_all_photos_and_classes(photos: Path) -> None:
    said = run(photos, "datasets/prepare_camvid.py", "--check", "--sample", "0")
    for split, number in (("train", 367), ("val", 101), ("test", 233)):
        assert f"camvid_semantic_{split}: {number} images" in said
        assert f"read {number} of {number} images and labels: all good" in said
    assert "warning" not in said and "never shown" not in said


def test_training_by_day_is_scored_at_dusk(photos: Path, tmp_path: Path) -> None:
    out = ("OUTPUT_DIR", str(tmp_path / "run"))
    said = run(photos, "train_net.py", *RECIPE, "--check", *SMALL, *out)
    assert "Checked; training would begin at iteration 0" in said
    run(photos, "train_net.py", *RECIPE, *SMALL, *out, "EVAL.LABEL_FREE_IMAGES", "4")
    results = read_results(tmp_path / "run")
    scored = results["run"]["test_images"]
    assert scored["camvid_dusk_semantic_test"] == {"scored": 62, "of": 62}
    assert scored["camvid_semantic_val"] == {"scored": 101, "of": 101}
    for metrics in results["datasets"].values():
        assert 0 < metrics["mIoU_all"] < 100 and metrics["mIoU_classes_all"] == 11
    assert 0 < results["run"]["label_free"]["label_free/entropy"] < 100
