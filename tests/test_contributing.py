"""The five recipes of CONTRIBUTING.md: each block is run as it stands, and all train together."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from gbw_d2.catalog.registration import DATASETS
from gbw_d2.config import load_config
from gbw_d2.engine.setup import resolve
from gbw_d2.engine.train import train
from gbw_d2.uda import STRATEGIES
from gbw_d2.weighting import SCHEMES

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Runs the blocks; what they registered is gone afterwards."""
    blocks = re.findall(r"```python\n# (gbw_d2/\S+\.py)\n(.*?)```", TEXT, re.DOTALL)
    for path, code in blocks:
        # Where the file would lie, in the room and beside the files that the table names.
        assert (ROOT / path).parent.is_dir() and not (ROOT / path).exists()
        module = ModuleType(f"recipe_{Path(path).stem}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(code, path, "exec", dont_inherit=True), module.__dict__)
    try:
        yield [path for path, _ in blocks]
    finally:
        SCHEMES._entries.pop("rarest")
        STRATEGIES._entries.pop("confident")
        DATASETS._entries.pop("two_files_train")
        BACKBONE_REGISTRY._obj_map.pop("TwoConvolutions")
        META_ARCH_REGISTRY._obj_map.pop("EarlySegmentor")


def test_the_recipes_train_together(
    recipes: list[str], toy_datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(recipes) == 5
    (text,) = re.findall(r"```yaml\n# together.*?\n(.*?)```", TEXT, re.DOTALL)
    rng: Any = np.random.default_rng(0)
    for kind, shape, top in (("images", (64, 128, 3), 256), ("labels", (64, 128), 19)):
        (toy_datasets / "two_files" / kind).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            path = toy_datasets / "two_files" / kind / f"{number}.png"
            cv2.imwrite(str(path), rng.integers(0, top, shape, dtype=np.uint8))
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text(f"_BASE_: {ROOT}/configs/toy/semantic_gbw.yaml\nVERSION: 2\n{text}")
    words = [
        *("OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu", "INPUT.CROP_SIZE", "(64, 128)"),
        *("SOLVER.MAX_ITER", "2", "SOLVER.LOG_PERIOD", "1", "TEST.EVAL_PERIOD", "0"),
        *("DATALOADER.NUM_WORKERS", "0", "EVAL.PICTURES", "0"),
    ]
    cfg = load_config(str(leaf), words)
    resolve(cfg)
    torch.manual_seed(0)
    metrics = train(cfg, resume=False)
    assert "mIoU_16" in metrics
    with (tmp_path / "class_weights.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["iteration"] == "2"]
    assert {row["head"] for row in rows} == {"semantic", "early"}
    for head in ("semantic", "early"):
        weights = sorted(float(row["weight"]) for row in rows if row["head"] == head)
        assert sum(weights) == pytest.approx(16, rel=1e-4)
        # One class of 16 has three times the weight of the others.
        assert weights[-1] == pytest.approx(3 * weights[0], rel=1e-4)
        assert weights[0] == pytest.approx(16 / 18, rel=1e-4)
    assert '"loss_confident"' in (tmp_path / "metrics.json").read_text()
