"""The loss of upsampled logits, compared with ``F.interpolate`` and ``F.cross_entropy``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gbw_d2.losses.upsampled import upsampled_cross_entropy, weighted_cross_entropy
from gbw_d2.weighting import gbw_weights
from gbw_d2.weighting.pixels import prepare_labels
from gbw_d2.weighting.statistics import class_statistics

# Shape of the low-resolution logits, and size of the labels. The aims refer to the first case.
CASES: dict[str, tuple[tuple[int, int, int, int], tuple[int, int]]] = {
    "128x256 to 512x1024": ((2, 19, 128, 256), (512, 1024)),
    "toy, 32x64 to 128x256": ((4, 16, 32, 64), (128, 256)),
    "150 classes, 128x128 to 512x512": ((1, 150, 128, 128), (512, 512)),
    "129x257 to 512x1024": ((2, 19, 129, 257), (512, 1024)),
    "512x512, no upsampling": ((2, 19, 512, 512), (512, 512)),
    "512x512 to 128x128": ((2, 19, 512, 512), (128, 128)),
}

Candidate = Callable[[], None]


def gbw_norm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes the loss with weights from gradient norms: two passes over the pixels."""
    targets, invalid = prepare_labels(labels, logits.shape[1], 255)
    statistics = class_statistics(logits.detach(), targets, invalid)
    assert statistics.measure is not None
    weights = gbw_weights(statistics.measure, statistics.counts > 0)
    return weighted_cross_entropy(logits, targets, weights)


def upsampled_candidates(logits: Tensor, labels: Tensor) -> dict[str, Candidate]:
    """Makes forward and backward passes of each loss from the same logits; reference first.

    Args:
        logits: (N, K, h, w).
        labels: (N, H, W), 255 = ignore.
    """
    logits = logits.detach().requires_grad_()
    weights = torch.linspace(0.5, 1.5, logits.shape[1], device=logits.device)
    size = (labels.shape[1], labels.shape[2])

    def reference() -> Tensor:
        up = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return F.cross_entropy(up, labels, weight=weights, ignore_index=255)

    losses: dict[str, Callable[[], Tensor]] = {
        "interpolate and F": reference,
        "weights known": lambda: upsampled_cross_entropy(logits, labels, weights),
        "weights of norms": lambda: gbw_norm_loss(logits, labels),
    }

    def both_ways(loss: Callable[[], Tensor]) -> Candidate:
        def run() -> None:
            loss().backward()
            # Freed here, so that the peak of the next call includes the gradient.
            logits.grad = None

        return run

    return {name: both_ways(loss) for name, loss in losses.items()}


def run_upsampled(
    report: Callable[..., Any],
    random_batch: Callable[..., tuple[Tensor, Tensor]],
    repetitions: int,
    device: torch.device,
) -> dict[str, Any]:
    """Benchmarks the losses in every case.

    Args:
        report: function of ``benchmark.py`` that measures candidates.
        random_batch: function that draws logits and labels.
        repetitions: of every candidate.
        device: where the losses are computed.
    """
    rows = {}
    for name, (shape, size) in CASES.items():
        logits, _ = random_batch(shape, device)
        _, labels = random_batch((*shape[:2], *size), device)
        rows[name] = report(upsampled_candidates(logits, labels), repetitions, device, True)
    return rows
