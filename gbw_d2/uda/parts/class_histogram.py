"""Thresholds of class-balanced self-training from histograms, for any number of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gbw_d2.weighting.distributed import all_reduce_sum

# Confidences gather near 1, and a spatial prior pushes them towards 0. So a bin holds the float32
# numbers with the same leading bits of x below 1/2, of 1 - x from there on (which is exact): each
# octave from 2^-24 to 1/2 has 2^9 bins.
_MANTISSA_BITS = 9
_SHIFT = 23 - _MANTISSA_BITS
_LEAST = 2.0**-24
_OCTAVES = 23
_HALF = _OCTAVES << _MANTISSA_BITS
BINS = 2 * _HALF + 1
# A threshold is below the exact threshold t by less than this share of t and of 1 - t.
RELATIVE_ERROR = 2.0**-_MANTISSA_BITS


def bin_edges() -> Tensor:
    """Returns the least float32 number of each bin, (BINS,), ascending from 2^-24 to 1.

    The first bin also holds smaller numbers; the last bin holds only 1.
    """
    numbers = torch.arange(_HALF + 1, dtype=torch.int32) << _SHIFT
    low = (numbers + _bits(torch.tensor([_LEAST]))).view(torch.float32)
    # From 1/2 on all float32 numbers are multiples of 2^-24, and so is their distance to 1.
    distance = ((low[1:].double() / _LEAST).ceil() - 1) * _LEAST
    distance[-1] = 0.5
    high = (1 - distance).float().flip(0)
    return torch.cat([low[:-1], high, torch.ones(1)])


def _bits(values: Tensor) -> Tensor:
    """Returns the bits of float32 numbers >= 0 as integers, which rise with the numbers."""
    return values.view(torch.int32)


def bin_of(values: Tensor) -> Tensor:
    """Returns the bin of each value.

    Args:
        values: float32 in 0..1, any shape.

    Returns:
        int64 in 0..BINS - 1, of the same shape.
    """
    distance = 1 - values
    is_high = values >= 0.5
    small = torch.where(is_high, distance, values).clamp_(min=_LEAST)
    first = int(_bits(torch.tensor([_LEAST])))
    place = ((_bits(small) - first) >> _SHIFT).clamp_(max=_HALF - 1).long()
    place = torch.where(is_high, 2 * _HALF - 1 - place, place)
    return place.masked_fill_(distance <= 0, BINS - 1)


class ConfidenceHistograms:
    """Counts the confidences of the pixels predicted as each class.

    A threshold is the lower edge of the bin that holds the element an exact sort would choose. So
    it is never greater than the exact threshold t, and smaller by less than 0.2% (2^-9) of t and of
    1 - t, hence by less than 0.001. Memory: K x 23553 integers, 3 MB for 16 classes.

    Args:
        num_classes: K.
        device: the device of the counts and of added pixels.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.edges = bin_edges().to(device)
        self.counts = torch.zeros(num_classes, BINS, dtype=torch.int64, device=self.edges.device)

    def add(self, confidence: Tensor, predicted: Tensor) -> None:
        """Adds the confidences of pixels.

        Args:
            confidence: any shape, 0..1.
            predicted: of the same shape, int64 class ids.
        """
        index = bin_of(confidence.flatten().float()).add_(predicted.flatten(), alpha=BINS)
        self.counts += torch.bincount(index, minlength=self.counts.numel()).view_as(self.counts)

    def all_reduced(self) -> ConfidenceHistograms:
        """Returns the sum of all processes' histograms; every process must call it."""
        total = ConfidenceHistograms(len(self.counts), self.edges.device)
        total.counts = all_reduce_sum(self.counts)
        return total

    def predicted(self) -> Tensor:
        """Returns the number of pixels predicted as each class, (K,) int64."""
        return self.counts.sum(1)

    def class_balanced_thresholds(self, portion: float, min_pixels: int = 0) -> Tensor:
        """Finds per class the confidence above which a portion of its predicted pixels lies (CBST).

        Element floor(portion * n), counted from 1, of the n descending confidences of a class, as
        :func:`gbw_d2.uda.parts.pseudo_labels.class_balanced_thresholds` finds it by sorting; here
        at least element ``min_pixels``, or the last element where there are fewer. A class that is
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

    def medians(self) -> Tensor:
        """Finds the median confidence of the pixels predicted as each class.

        Element (n + 1) // 2, counted from 1, of the n descending confidences; 1 where there are
        none.

        Returns:
            (K,) float32.
        """
        return self._at(self.counts, (self.predicted() + 1).div(2, rounding_mode="floor"))

    def global_thresholds(self, portion: float) -> Tensor:
        """Finds the confidence above which a portion of all pixels lies (ST), equal for all
        classes.

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
        return self.edges[(BINS - 1 - from_top).clamp(min=0)].masked_fill(ranks == 0, 1.0)


def _ranks(totals: Tensor, portion: float, min_pixels: int) -> Tensor:
    if not 0 <= portion <= 1 or math.isnan(portion):
        raise ValueError(f"portion is {portion}; expected 0..1")
    if min_pixels < 0:
        raise ValueError(f"min_pixels is {min_pixels}; expected 0 or more")
    ranks = (totals.double() * portion).floor().long()
    return torch.minimum(ranks.clamp(min=min_pixels), totals)
