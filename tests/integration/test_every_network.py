"""Every encoder base trains with every model base, and every leaf takes every encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import is_refused

from gbw_d2.composition import BASES, known_choices
from gbw_d2.config import load_config
from gbw_d2.engine.setup import resolve
from gbw_d2.engine.train import train
from gbw_d2.errors import UserError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

CHOICES = known_choices()
LEAVES = [p for p in (ROOT / "configs").rglob("*.yaml") if BASES not in p.parents]
LEAVES += (ROOT / "projects").glob("*/configs/*.yaml")

# Fewer blocks of the same kind, for two CPU cores; their whole depth is built without memory in
# tests/test_composition.py.
SHALLOW: dict[str, dict[str, Any]] = {
    **{name: {"depths": (1, 1, 1, 1)} for name in ("mit_b5", "pvt_v2_b5", "swin_b")},
    **{name: {"depth": 2} for name in ("dinov2_b", "dinov3_b")},
}


@pytest.mark.parametrize("model", CHOICES["models"])
@pytest.mark.parametrize("encoder", CHOICES["encoders"])
def test_two_steps(encoder: str, model: str, toy_datasets: Path, tmp_path: Path) -> None:
    # No file and no network: weights are random, so that frozen batch norm would have no meaning.
    words = [
        *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False"),
        *("MODEL.RESNETS.NORM", "GN", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "1"),
        *("SOLVER.WARMUP_ITERS", "0", "INPUT.CROP_SIZE", "(64, 64)", "UDA.WARM_UP", "0.0"),
        *("DATALOADER.NUM_WORKERS", "0", "EVAL.PICTURES", "0", "TEST.EVAL_PERIOD", "0"),
        *("OUTPUT_DIR", str(tmp_path)),
    ]
    bases = [f"encoders/{encoder}", f"models/{model}", "uda/self_training_masked", "weighting/gbw"]
    cfg = load_config(str(ROOT / "configs/toy/panoptic_source_only.yaml"), [*bases, *words])
    cfg.MODEL.TIMM.ARGS.update(SHALLOW.get(encoder, {}))
    resolve(cfg)
    if is_refused(encoder, model):
        with pytest.raises(UserError, match="powers of two in a row"):
            train(cfg, resume=False)
        return
    metrics = train(cfg, resume=False)
    assert any(name.startswith("mIoU_") for name in metrics)
    checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 1
    states = checkpoint["optimizer"]["state"].values()
    moved = [state for state in states if state["exp_avg"].abs().sum() > 0]
    # Maps that a head does not read move nothing; most of a network does.
    assert len(moved) > 0.6 * sum(len(g["params"]) for g in checkpoint["optimizer"]["param_groups"])


@pytest.mark.parametrize("encoder", CHOICES["encoders"])
def test_every_leaf_takes_every_encoder(
    encoder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    own = load_config(str(BASES / "encoders" / f"{encoder}.yaml")).MODEL
    for leaf in LEAVES:
        cfg = load_config(str(leaf), [f"encoders/{encoder}"])
        # Its own weights, pictures and network, whatever the leaf had, and still the leaf's heads.
        assert cfg.MODEL.BACKBONE == own.BACKBONE and cfg.MODEL.TIMM == own.TIMM, leaf
        assert cfg.MODEL.PIXEL_MEAN == own.PIXEL_MEAN and cfg.MODEL.WEIGHTS == own.WEIGHTS, leaf
        assert cfg.MODEL.SEM_SEG_HEAD == load_config(str(leaf)).MODEL.SEM_SEG_HEAD, leaf
