"""Contract of every registered strategy, and the formulas of each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gbw_d2 import keys
from gbw_d2.engine.build import build_model
from gbw_d2.losses import entropy_loss
from gbw_d2.uda import STRATEGIES, build_strategy


@pytest.fixture(params=["panoptic", "semantic"])
def model_and_config(request: Any, tiny_config: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    cfg = tiny_config(name=f"toy/{request.param}_gbw")
    return build_model(cfg, {}).train(), cfg


def as_target(batch: list[dict]) -> list[dict]:
    """Keeps what the trainer hands over: target samples have an image and no label."""
    return [{key: sample[key] for key in ("image", "draw")} for sample in batch]


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_contract(name: str, model_and_config: Any, samples: Any) -> None:
    model, cfg = model_and_config
    strategy = build_strategy(name, model, cfg.UDA, seed=0, max_iter=4)
    stages = strategy.stages()
    bounds = [bound for stage in stages for bound in (stage.first, stage.last)]
    assert bounds == sorted(bounds) and bounds[0] == 0 and bounds[-1] == 4
    source = samples()
    target = as_target(samples(seed=1)) if strategy.needs_target else None
    parts = 0
    for losses in strategy.training_losses(source, target, 0):
        assert losses and all(v.dim() == 0 and torch.isfinite(v) for v in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        parts += 1
    assert parts >= 1
    assert all(p.grad is not None for p in model.sem_seg_head.parameters())
    strategy.after_step(0)
    assert strategy.networks()["student"] is model


def test_source_only_is_supervised(model_and_config: Any, samples: Any) -> None:
    model, cfg = model_and_config
    batch = samples()
    (losses,) = build_strategy("source_only", model, cfg.UDA).training_losses(batch, None, 0)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {k: v.item() for k, v in model(batch).items()}
    )


def test_min_entropy_adds_the_target_entropy(model_and_config: Any, samples: Any) -> None:
    model, cfg = model_and_config
    cfg.UDA.MIN_ENTROPY.LOSS_WEIGHT = 0.5
    target = samples(seed=1)
    strategy = build_strategy("min_entropy", model, cfg.UDA)
    _, losses = strategy.training_losses(samples(), target, 0)
    images = model.images(target)
    logits = model.outputs(model.features(images), (32, 64))[keys.SEMANTIC_LOGITS]
    expected = 0.5 * entropy_loss(logits).item()
    (loss,) = losses.values()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
