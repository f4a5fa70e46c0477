"""Confidence thresholds: one number, or one per class that follows what the teacher is sure of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gbw_d2.errors import UserError
from gbw_d2.weighting.distributed import all_reduce_max

MODES = ("fixed", "adaptive")


class ClassThresholds(nn.Module):
    """tau_k <- m tau_k + (1 - m) delta_k (MC-PanDA++, equation 8), or a number that stays.

    delta_k is the greatest over the segments of class k in the batch of all processes of a quantile
    of the segment's confidence over its pixels. A class without a segment keeps its threshold.

    Args:
        mode: "fixed" or "adaptive".
        num_classes: K.
        start: what all thresholds are at first, 0..1.
        momentum: m, 0..1; its memory should be about a twentieth of the run.
        key: of the mode, for the error.

    Raises:
        UserError: another mode.
    """

    values: Tensor

    def __init__(
        self, mode: str, num_classes: int, start: float, momentum: float, key: str
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise UserError(f"{key} is '{mode}'; expected {' or '.join(MODES)}")
        self.is_adaptive = mode == "adaptive"
        self.momentum = momentum
        self.register_buffer("values", torch.full((num_classes,), start))

    @torch.no_grad()
    def update(self, classes: Tensor, quantiles: Tensor) -> None:
        """Takes a batch's segments in; every process must call it. Nothing happens where fixed.

        Args:
            classes: (...,) int64 class ids, anything else for what is no segment.
            quantiles: of the same shape, 0..1, of each segment's confidence.
        """
        if not self.is_adaptive:
            return
        count = len(self.values)
        known = (classes >= 0) & (classes < count)
        place = torch.where(known, classes, count).flatten()
        greatest = self.values.new_full((count + 1,), -1.0)
        greatest.scatter_reduce_(0, place, quantiles.flatten().to(greatest), "amax")
        delta = all_reduce_max(greatest)[:-1]
        moved = self.momentum * self.values + (1 - self.momentum) * delta
        self.values.copy_(torch.where(delta >= 0, moved, self.values))


@torch.no_grad()
def segment_quantiles(
    confidence: Tensor, owners: Tensor, count: int, quantile: float, bins: int = 1024
) -> Tensor:
    """Returns a quantile of each segment's confidence, to 1 / bins, without sorting a segment.

    Args:
        confidence: (N, H, W) in 0..1.
        owners: (N, H, W) int64, number of each pixel's segment, 0..count - 1.
        count: of numbers.
        quantile: 0..1.
        bins: of the histogram.

    Returns:
        (N, count) float32, the upper edge of the bin that holds the quantile; 0 without a pixel.
    """
    images = len(confidence)
    level = (confidence * bins).long().clamp(max=bins - 1)
    place = (owners * bins + level).flatten(1)
    table = torch.zeros(images, count * bins, device=confidence.device)
    table.scatter_add_(1, place, torch.ones((), device=confidence.device).expand(place.shape))
    sums = table.view(images, count, bins).cumsum(2)
    total = sums[:, :, -1:]
    below = (sums < quantile * total).sum(2)
    return torch.where(total.squeeze(2) > 0, (below + 1) / bins, 0.0)
