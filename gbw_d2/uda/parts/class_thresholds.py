"""Confidence thresholds: one number, or one per class that adapts to the teacher's confidence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.weighting.distributed import all_reduce_max

MODES = ("fixed", "adaptive")

# The running mean covers at most a part of the run: on long runs the momentum is the published one;
# on short runs that one would have reached only half of its value after 700 steps.
_PARTS_OF_A_RUN = 20


class ClassThresholds(nn.Module):
    """tau_k <- m tau_k + (1 - m) delta_k (MC-PanDA++, equation 8), or a constant.

    delta_k is the maximum, over all segments of class k in the batch of all processes, of a
    quantile of the confidence of the segment's pixels. A class without a segment keeps its
    threshold. Adaptive thresholds start at 0.

    Args:
        mode: "fixed" or "adaptive".
        num_classes: K.
        fixed: the threshold of all classes in mode "fixed", 0..1.
        momentum: m, 0..1.
        quantile: the quantile of a segment's confidence, 0..1.
        key: config key of the mode, for the error message.

    Raises:
        UserError: another mode.
    """

    values: Tensor

    def __init__(
        self,
        mode: str,
        num_classes: int,
        fixed: float,
        momentum: float,
        quantile: float = 0.75,
        key: str = "THRESHOLDS",
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise UserError(f"{key} is '{mode}'; expected {' or '.join(MODES)}")
        self.is_adaptive = mode == "adaptive"
        self.momentum = momentum
        self.quantile = quantile
        start = 0.0 if self.is_adaptive else fixed
        self.register_buffer("values", torch.full((num_classes,), start))

    def take(self, classes: Tensor, owners: Tensor, confidence: Tensor) -> None:
        """Updates adaptive thresholds by a batch's segments; every process must call it.

        Args:
            classes: (N, S) int64 class id of each segment number; any other value marks no segment.
            owners: (N, H, W) int64, number of each pixel's segment, 0..S-1.
            confidence: (N, H, W) float32 in 0..1.
        """
        if not self.is_adaptive:
            return
        quantiles = segment_quantiles(confidence, owners, classes.shape[1], self.quantile)
        # A number without a pixel has no segment.
        self.update(torch.where(quantiles > 0, classes, IGNORE_LABEL), quantiles)

    @torch.no_grad()
    def update(self, classes: Tensor, quantiles: Tensor) -> None:
        """Updates adaptive thresholds by segments' confidences; every process must call it.

        Args:
            classes: (...,) int64 class ids; any other value marks no segment.
            quantiles: the quantile of each segment's confidence, of the same shape, 0..1.
        """
        count = len(self.values)
        known = (classes >= 0) & (classes < count)
        place = torch.where(known, classes, count).flatten()
        greatest = self.values.new_full((count + 1,), -1.0)
        greatest.scatter_reduce_(0, place, quantiles.flatten().to(greatest), "amax")
        delta = all_reduce_max(greatest)[:-1]
        moved = self.momentum * self.values + (1 - self.momentum) * delta
        self.values.copy_(torch.where(delta >= 0, moved, self.values))

    def of(self, classes: Tensor) -> Tensor:
        """Returns the thresholds of class ids of any shape; other ids get the last class's."""
        return self.values[classes.clamp(max=len(self.values) - 1)]


def build_thresholds(
    settings: Any, num_classes: int, iterations: int, node: str
) -> ClassThresholds:
    """Builds thresholds from THRESHOLDS, CONFIDENCE_THRESHOLD, THRESHOLD_MOMENTUM and _QUANTILE.

    Args:
        settings: a strategy's config node with these keys.
        num_classes: K.
        iterations: of the whole run.
        node: its name, for errors.
    """
    short = 1 - _PARTS_OF_A_RUN / max(iterations, _PARTS_OF_A_RUN)
    return ClassThresholds(
        settings.THRESHOLDS,
        num_classes,
        settings.CONFIDENCE_THRESHOLD,
        min(settings.THRESHOLD_MOMENTUM, short),
        settings.THRESHOLD_QUANTILE,
        f"{node}.THRESHOLDS",
    )


# Number of confidence levels that are distinguished.
_LEVELS = 1 << 20


@torch.no_grad()
def segment_quantiles(confidence: Tensor, owners: Tensor, count: int, quantile: float) -> Tensor:
    """Returns a quantile of the confidence of each segment's pixels.

    All pixels are sorted once by segment and confidence, for any number of segments.

    Args:
        confidence: (N, H, W) in 0..1, with a resolution of a millionth.
        owners: (N, H, W) int64, number of each pixel's segment, 0..count - 1.
        count: number of segment numbers.
        quantile: 0..1.

    Returns:
        (N, count) float32; 0 without a pixel.
    """
    levels = (confidence * _LEVELS).round_().long().clamp_(0, _LEVELS)
    ordered = (owners * (_LEVELS + 1) + levels).flatten(1).sort(1).values
    pixels = torch.zeros(len(owners), count, dtype=torch.int64, device=owners.device)
    one = torch.ones((), dtype=torch.int64, device=owners.device)
    pixels.scatter_add_(1, owners.flatten(1), one.expand(owners.shape).flatten(1))
    rank = (pixels * quantile).ceil().long().clamp(min=1) - 1
    place = (pixels.cumsum(1) - pixels + rank).clamp(max=ordered.shape[1] - 1)
    found = ordered.gather(1, place) % (_LEVELS + 1)
    return torch.where(pixels > 0, found.float() / _LEVELS, 0.0)
