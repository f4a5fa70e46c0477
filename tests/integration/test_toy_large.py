"""The recipes of the larger toy world train and evaluate, on smaller images of it."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from gbw_d2.engine.setup import setup
from gbw_d2.engine.train import train
from gbw_d2.toyworld.layouts import LAYOUTS, write_layout

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs/toy_large").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    large = LAYOUTS.get("large")
    counts = {"num_source": 3, "num_target_train": 3, "num_target_val": 1, "num_source_val": 1}
    settings = replace(large.settings, image_size=(64, 128), **counts)
    write_layout(tmp_path / "toy_large", replace(large, settings=settings), workers=1)
    words = [
        *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "run"), "UDA.WARM_UP", "0.0"),
        *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "1"),
        *("DATALOADER.NUM_WORKERS", "0", "INPUT.CROP_SIZE", "(64, 128)"),
    ]
    args = Namespace(config_file=str(path), opts=words, eval_only=False)
    metrics = train(setup(args), resume=False)
    assert 0 < metrics["mIoU_16"] <= 100
    assert ("PQ_16" in metrics) == path.stem.startswith("panoptic")
