"""Panoptic FPN learns a few toy images by heart, and trains under every strategy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies import FOR_ALL

from gbw_d2 import keys
from gbw_d2.config import load_config
from gbw_d2.data.augmentation import AugmentationSettings
from gbw_d2.data.mappers import SourceMapper
from gbw_d2.engine.build import architecture, build_model, build_training_losses
from gbw_d2.engine.optimizer import build_optimizer
from gbw_d2.engine.run_data import RunData
from gbw_d2.engine.setup import resolve
from gbw_d2.engine.train import train
from gbw_d2.evaluation import PanopticQuality
from gbw_d2.evaluation.evaluators import panoptic_categories

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/toy/panoptic_fpn_gbw.yaml")
INSTANCE_LOSSES = ("roi_cls", "roi_box", "roi_mask", "rpn_cls", "rpn_loc")


def config(*overrides: str) -> Any:
    cfg = load_config(CONFIG, [*overrides, "MODEL.DEVICE", "cpu"])
    resolve(cfg)
    return cfg


def labelled_samples(cfg: Any, count: int) -> list[dict[str, Any]]:
    data = RunData(cfg)
    spec = data.source.spec.in_space(data.space)
    mapper = SourceMapper(
        *(None, spec.read_panoptic, data.space),
        AugmentationSettings(crop_size=tuple(cfg.INPUT.CROP_SIZE), flip_probability=0.0),
        architecture(cfg).target_generator(cfg, data.space),
    )
    rng = np.random.default_rng(0)
    return [mapper(record, rng) for record in data.source.records[:count]]


def quality_of_things(model: Any, samples: list[dict[str, Any]]) -> float:
    quality = PanopticQuality(panoptic_categories(model.label_space))
    with torch.no_grad():
        results = model.eval()([{keys.IMAGE: sample[keys.IMAGE]} for sample in samples])
    for result, sample in zip(results, samples, strict=True):
        found, table = result[keys.PANOPTIC_SEG]
        truth = sample[keys.SEGMENTS].numpy()
        shown = set(np.unique(truth))
        listed = [s for s in sample[keys.SEGMENTS_INFO] if s["id"] in shown]
        quality.update(found.numpy(), table, truth, listed)
    rows = quality.compute()["per_class"]
    seen = [rows[i] for i in model.label_space.thing_ids if rows[i]["TP"] + rows[i]["FN"] > 0]
    return float(np.mean([row["PQ"] for row in seen]))


def test_things_of_a_few_images_are_learned_by_heart(toy_datasets: Path) -> None:
    # Boxes, classes, masks, thresholds, merging and scoring must all fit for that.
    cfg = config(
        *("uda/source_only", "weighting/none", "INPUT.CROP_SIZE", "(64, 128)"),
        *("INPUT.MIN_INSTANCE_AREA", "16"),
    )
    samples = labelled_samples(cfg, 3)
    torch.manual_seed(0)
    model = build_model(cfg, build_training_losses(cfg))
    optimizer = build_optimizer(cfg, model)
    before = quality_of_things(model, samples)
    model.train()
    for step in range(160):
        for group in optimizer.param_groups:
            group["lr"] = cfg.SOLVER.BASE_LR * min(1, (step + 1) / 30)
        optimizer.zero_grad()
        torch.stack(list(model(samples).values())).sum().backward()
        optimizer.step()
    after = quality_of_things(model, samples)
    assert before < 5 and after > 35, (before, after)


@pytest.mark.parametrize("name", [*FOR_ALL, "self_training_adaptive", "cbst semantic only"])
def test_every_strategy_trains_it(name: str, toy_datasets: Path, tmp_path: Path) -> None:
    name, *only = name.split(" ", 1)
    # All that random weights detect is an instance.
    cfg = config(
        *(f"uda/{name}", "MODEL.SEMANTIC_ONLY", str(bool(only)), "OUTPUT_DIR", str(tmp_path)),
        *("UDA.WARM_UP", "0.0", "UDA.CBST.WARM_UP", "0.0", "UDA.CBST.ROUNDS", "1"),
        *("UDA.CBST.PORTION_START", "1.0", "UDA.CBST.PORTION_MAX", "1.0"),
        *("UDA.SELF_TRAINING.INSTANCE_PSEUDO_LABELS", "True"),
        *("MODEL.PANOPTIC_FPN.PSEUDO_LABEL_SCORE", "0.0", "TEST.DETECTIONS_PER_IMAGE", "5"),
        *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", "0.0"),
        *("SOLVER.MAX_ITER", "2", "SOLVER.LOG_PERIOD", "1", "SOLVER.WARMUP_ITERS", "0"),
        *("SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "0", "EVAL.PICTURES", "0"),
        *("INPUT.CROP_SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", "0"),
    )
    metrics = train(cfg, resume=False)
    assert any(key.startswith("PQ_") for key in metrics) == (not only)
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    logged = {key for line in lines for key in json.loads(line)}
    prefix = {"self_training": "mixed_", "self_training_adaptive": "mixed_", "cbst": "pseudo_"}
    for loss in INSTANCE_LOSSES:
        assert (f"loss_{loss}" in logged) == (not only)
        # Where there are pseudo-labels, detections are among them.
        assert (f"{prefix.get(name, '')}loss_{loss}" in logged) == (not only)
