"""Thresholds of class-balanced self-training from histograms, whatever the number of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gbw_d2.weighting.distributed import all_reduce_sum

# Bins are uniform in log(x / (1 - x)), so that they are fine near 0 and near 1: confidences gather
# near 1, and a spatial prior pushes them towards 0. Edges from sigmoid(-16) to sigmoid(16).
BINS = 2**14
_RANGE = 16.0
# Width of a bin in log(x / (1 - x)).
BIN_WIDTH = 2 * _RANGE / BINS


def bin_edges() -> Tensor:
    """Returns the lower edges of all bins, (BINS + 2,) float32, rising from 0 to 1.

    The last bin holds 1 alone. Some edges near 1 are equal, for float32 is coarser there than a
    bin; such bins stay empty.
    """
    steps = torch.linspace(-_RANGE, _RANGE, BINS, dtype=torch.float64)
    inner = steps.sigmoid().float()
    return torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])


class ConfidenceHistograms:
    """Counts the confidences of the pixels predicted as each class.

    A threshold is the lower edge of the bin that holds the element which an exact sort would take.
    So it is never greater than the exact one, and smaller by less than a bin: by less than
    BIN_WIDTH = 1/512 in log(t / (1 - t)), which is a relative error below 0.2% of t and of 1 - t,
    and below 0.0005 in t. Memory: K x 16386 integers, 2 MB for 16 classes.

    Args:
        num_classes: K.
        device: of the counts and of what is added.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.edges = bin_edges().to(device)
        self.counts = torch.zeros(
            num_classes, len(self.edges), dtype=torch.int64, device=self.edges.device
        )

    def add(self, confidence: Tensor, predicted: Tensor) -> None:
        """Adds pixels.

        Args:
            confidence: any shape, 0..1.
            predicted: of the same shape, int64 class ids.
        """
        index = torch.bucketize(confidence.flatten().float(), self.edges, right=True).sub_(1)
        index.add_(predicted.flatten(), alpha=len(self.edges))
        self.counts += torch.bincount(index, minlength=self.counts.numel()).view_as(self.counts)

    def all_reduced(self) -> ConfidenceHistograms:
        """Returns the histograms of all processes; every process must call it."""
        total = ConfidenceHistograms(len(self.counts), self.edges.device)
        total.counts = all_reduce_sum(self.counts)
        return total

    def predicted(self) -> Tensor:
        """Returns the number of pixels predicted as each class, (K,) int64."""
        return self.counts.sum(1)

    def class_balanced_thresholds(self, portion: float, min_pixels: int = 0) -> Tensor:
        """Finds the confidence above which lies a portion of each predicted class (CBST).

        Element floor(portion * n), counted from 1, of the n descending confidences of a class, as
        :func:`gbw_d2.uda.parts.pseudo_labels.class_balanced_thresholds` finds it by sorting; here
        at least element ``min_pixels``, or the last one where there are fewer. A class that is
        never predicted, or whose element would be number 0, has threshold 1.

        Args:
            portion: of each class's pixels to keep, 0..1.
            min_pixels: pixels of each class to keep at the least, as far as there are so many.

        Returns:
            (K,) float32.

        Raises:
            ValueError: a portion outside 0..1, or a negative number of pixels.
        """
        return self._at(self.counts, _ranks(self.predicted(), portion, min_pixels))

    def global_thresholds(self, portion: float) -> Tensor:
        """Finds the one confidence above which lies a portion of all pixels (ST), for each class.

        Args:
            portion: of all pixels to keep, 0..1.

        Returns:
            (K,) float32, all equal.

        Raises:
            ValueError: a portion outside 0..1.
        """
        counts = self.counts.sum(0, keepdim=True)
        return self._at(counts, _ranks(counts.sum(1), portion, 0)).expand(len(self.counts)).clone()

    def _at(self, counts: Tensor, ranks: Tensor) -> Tensor:
        """Returns the edge below element ``ranks`` (from 1, descending) of each row of counts."""
        above = counts.flip(1).cumsum(1)
        from_top = torch.searchsorted(above, ranks.unsqueeze(1)).squeeze(1)
        bins = (len(self.edges) - 1 - from_top).clamp(min=0)
        # The first bin's edge is 0, which is no threshold: every pixel would pass it.
        return self.edges[bins].clamp(min=float(self.edges[1])).masked_fill(ranks == 0, 1.0)


def _ranks(totals: Tensor, portion: float, min_pixels: int) -> Tensor:
    if not 0 <= portion <= 1 or math.isnan(portion):
        raise ValueError(f"portion is {portion}; expected 0..1")
    if min_pixels < 0:
        raise ValueError(f"min_pixels is {min_pixels}; expected 0 or more")
    ranks = (totals.double() * portion).floor().long()
    return torch.minimum(ranks.clamp(min=min_pixels), totals)
