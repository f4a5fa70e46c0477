"""Steps of the toy recipe on one random batch, under each weighting, and their semantic loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.released import random_batch
from torch import Tensor

from gbw_d2.losses import ClassWeightedCrossEntropy
from gbw_d2.weighting import build_scheme

ROOT = Path(__file__).resolve().parents[2]
WEIGHTINGS = ("none", "gbw_norm", "gbw_hindrance", "gbw")  # the last one adjusts logits
TOY_CLASSES = 16

Candidate = Callable[[], None]


def both_ways(loss: Callable[[], Tensor], logits: Tensor) -> Candidate:
    """Returns a candidate that runs forward and backward pass of a loss."""

    def both() -> None:
        loss().backward()
        # Freed here, so that the peak of the next call includes the gradient.
        logits.grad = None

    return both


def step_candidates(device: torch.device) -> dict[str, Candidate]:
    """Makes a training step of the toy panoptic network under each weighting, ``none`` first."""

    def make(name: str) -> Candidate:
        model, batch = _toy_model(name, device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(model(batch).values())).sum().backward()
            optimizer.step()

        return step

    return {name: make(name) for name in WEIGHTINGS}


def step_loss_candidates(device: torch.device) -> dict[str, Candidate]:
    """Makes forward and backward pass of the semantic loss of that step, ``none`` first.

    The difference between two of them is the cost of weighting. It is smaller than the variation of
    whole steps, so whole steps cannot show it.
    """
    model, batch = _toy_model("none", device)
    images = model.images(batch)
    outputs = model.outputs(model.features(images), (images.shape[-2], images.shape[-1]))
    logits = outputs.semantic.logits.detach().clone().requires_grad_()
    low = tuple(each.detach() for each in outputs.semantic.classifier)
    rest = (model.targets(batch).semantic, None, low)

    def make(name: str) -> Candidate:
        criterion = ClassWeightedCrossEntropy(build_scheme(name, TOY_CLASSES))
        return both_ways(lambda: criterion(logits, *rest), logits)

    return {name: make(name) for name in WEIGHTINGS}


def _toy_model(
    weighting: str, device: torch.device
) -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    from gbw_d2.config import load_config
    from gbw_d2.engine.build import build_model, build_training_losses
    from gbw_d2.engine.setup import resolve

    config = str(ROOT / "configs/toy/panoptic_source_only.yaml")
    options = ["MODEL.DEVICE", str(device), "WEIGHTING.NAME", weighting]
    cfg = load_config(config, options)
    resolve(cfg)
    torch.manual_seed(0)
    return build_model(cfg, build_training_losses(cfg)).train(), toy_batch(4, 128, 256)


def toy_batch(count: int, rows: int, columns: int) -> list[dict[str, Any]]:
    """Draws labelled samples of the toy world's classes."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    _, labels = random_batch((count, 16, rows, columns), torch.device("cpu"))
    return [
        {
            "image": (draw(3, rows, columns) * 255).to(torch.uint8),
            "sem_seg": labels[i],
            "center": draw(rows, columns),
            "center_weights": torch.ones(rows, columns),
            "offset": draw(2, rows, columns),
            "offset_weights": torch.ones(rows, columns),
            "instance_class": torch.full((rows, columns), 255),
        }
        for i in range(count)
    ]
