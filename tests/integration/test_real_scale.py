"""The user's own command on files of the official sizes, in the official folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gbw_d2.toyworld import ToyWorldSettings, write_toy_world

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def official_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes 4 source and 4 target images as SYNTHIA and Cityscapes would hold them."""
    root = tmp_path_factory.mktemp("official")
    for folder, size in (("synthia", (760, 1280)), ("cityscapes", (1024, 2048))):
        counts = {"num_source": 4, "num_target_train": 4, "num_target_val": 1}
        write_toy_world(root / "made" / folder, ToyWorldSettings(image_size=size, **counts))
        (root / folder).symlink_to(root / "made" / folder / folder)
    return root


def run(repository: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=900,
        env=dict(os.environ, DETECTRON2_DATASETS=str(root)),
    )


def test_prepare_scripts_find_the_folders_in_order(
    repository: Path, official_folders: Path
) -> None:
    for script in ("prepare_synthia.py", "prepare_cityscapes.py"):
        done = run(repository, official_folders, f"datasets/{script}", "--check")
        # 4 images are fewer than the official number, which is said and is no error of a file.
        assert "Traceback" not in done.stderr, done.stderr
        assert "4" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "config",
    [
        "configs/synthia_panoptic_gbw",
        "configs/synthia_panoptic_oracle",
        "configs/synthia_panoptic_fpn_gbw",
        "projects/CVRN/configs/synthia_panoptic_cvrn_gbw",
        "projects/EDAPS/configs/synthia_panoptic_edaps_gbw",
    ],
)
def test_the_users_command(
    repository: Path, official_folders: Path, tmp_path: Path, config: str
) -> None:
    done = run(
        repository,
        official_folders,
        *("train_net.py", "--config-file", f"{config}.yaml", "--num-processes", "1"),
        *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "INPUT.CROP_SIZE", "(128, 256)"),
        # In four images some rare classes are small.
        *("DATASETS.RARE_CLASS_SAMPLING.MIN_PIXELS", "10", "OUTPUT_DIR", str(tmp_path)),
        # ImageNet weights cannot be had on a machine without the internet.
        *("MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False", "DATALOADER.NUM_WORKERS", "2"),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["run"]["iterations"] == 2
    # One image is a part of the official test set, and its scores are named so.
    assert results["run"]["test_images"] == {"cityscapes_panoptic_val": {"scored": 1, "of": 500}}
    metrics = results["metrics"]
    assert 0 <= metrics["PQ_16_partial"] <= 100 and 0 < metrics["mIoU_16_partial"] <= 100
    assert "PQ_16" not in metrics
    assert (tmp_path / "pictures/iteration_0000002.png").stat().st_size > 10_000
