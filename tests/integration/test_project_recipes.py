"""Every recipe of projects builds its network, losses and strategy, without memory or weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gbw_d2.config import load_config
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.engine.optimizer import build_optimizer
from gbw_d2.engine.setup import resolve
from gbw_d2.engine.train import train
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.toyworld.layouts import LAYOUTS, write_layout
from gbw_d2.uda import build_strategy

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "projects").glob("*/configs/*.yaml"))
MASK_TEACHER_TOYS = sorted((ROOT / "projects/MC-PanDA/configs").glob("toy_*.yaml"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy_targets(toy_datasets: Path) -> Path:
    """The toy world with Foggy Cityscapes and Mapillary Vistas beside it."""
    for name in ("foggy_cityscapes", "mapillary_vistas"):
        layout = LAYOUTS.get(name)
        counts = {"num_source": 3, "num_target_train": 3, "num_target_val": 2}
        settings = replace(layout.settings, image_size=(64, 128), **counts)
        write_layout(toy_datasets / f"toy_{name}", replace(layout, settings=settings), workers=1)
    return toy_datasets


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_builds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cfg = load_config(str(path), ["MODEL.DEVICE", "meta"])
    resolve(cfg)
    counts = torch.ones(LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE).num_classes)
    with torch.device("meta"):
        model = build_model(cfg, build_training_losses(cfg, counts.to("meta")))
        strategy = build_strategy(cfg.UDA.NAME, model, cfg.UDA, cfg.SEED, cfg.SOLVER.MAX_ITER)
        groups = build_optimizer(cfg, model).param_groups
    trained = sum(p.requires_grad for p in model.parameters())
    assert sum(len(group["params"]) for group in groups) == trained > 10
    assert list(strategy.stages())[-1].last == cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("path", MASK_TEACHER_TOYS, ids=lambda path: path.stem)
def test_a_toy_of_mc_panda_trains_through_all_its_stages(
    path: Path, tmp_path: Path, toy_targets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = [
        *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "6"),
        *("SOLVER.IMS_PER_BATCH", "1", "INPUT.CROP_SIZE", "(64, 96)", "UDA.WARM_UP", "0.0"),
        *("INPUT.SOURCE_SHORT_SIDES", "(64, 72)", "INPUT.TARGET_SHORT_SIDES", "(64, 72)"),
        *("DATALOADER.NUM_WORKERS", "0", "EVAL.PICTURES", "0", "TEST.EVAL_PERIOD", "0"),
        *("MODEL.MASK2FORMER.POINTS", "64", "SOLVER.WARMUP_ITERS", "0"),
    ]
    cfg = load_config(str(path), words)
    resolve(cfg)
    metrics = train(cfg, resume=False)
    assert any(name.startswith("PQ_") for name in metrics)
    found = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert found["iteration"] == 5 and "teacher" in found
