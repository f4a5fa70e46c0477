"""Thresholds of histograms against an exact sort, within the bound that the class promises."""

from __future__ import annotations

import math

import pytest
import torch

from gbw_d2.uda.parts.class_histogram import (
    BINS,
    RELATIVE_ERROR,
    ConfidenceHistograms,
    bin_edges,
    bin_of,
)
from gbw_d2.uda.parts.pseudo_labels import class_balanced_thresholds


def histograms_of(probs: torch.Tensor) -> ConfidenceHistograms:
    histograms = ConfidenceHistograms(probs.shape[1])
    for image in probs:
        histograms.add(*image.max(0))
    return histograms


@pytest.mark.parametrize("sharpness", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("portion", [0.0, 0.01, 0.2, 0.5, 1.0])
def test_within_a_bin_of_the_exact_thresholds(sharpness: float, portion: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 30, 40) * sharpness
    logits[:, 4] = -99  # never predicted
    probs = logits.softmax(1)
    exact = class_balanced_thresholds(probs, portion)
    found = histograms_of(probs).class_balanced_thresholds(portion)
    assert found.dtype == torch.float32 and found[4] == 1
    assert (found <= exact).all()
    bound = RELATIVE_ERROR * torch.minimum(exact, 1 - exact).double()
    assert (exact.double() - found.double() <= bound).all()
    # Not all are exact, or the test would see nothing.
    assert portion == 0 or sharpness == 20 or (found < exact).any()


def test_bins_rise_with_their_numbers() -> None:
    edges = bin_edges()
    assert len(edges) == BINS and edges[0] == 2**-24 and edges[-1] == 1
    assert (edges.diff() >= 0).all()
    torch.manual_seed(0)
    odds = torch.linspace(-20, 20, 200001, dtype=torch.float64)
    values = torch.cat([odds.sigmoid().float(), edges, torch.tensor([0.0, 0.5, 1 - 2**-24])])
    values = values.sort().values
    bins = bin_of(values)
    assert (bins.diff() >= 0).all() and bins[0] == 0 and bins[-1] == BINS - 1
    # Every number is at least its bin's edge, and below the next bin that is not empty.
    assert (values >= edges[bins])[values >= edges[0]].all()
    later = torch.searchsorted(edges, edges[bins], right=True).clamp(max=BINS - 1)
    assert ((values < edges[later]) | (bins == BINS - 1)).all()
    gap = values.double() - edges[bins].double()
    small = torch.minimum(values, 1 - values).double()
    assert (gap[values >= edges[0]] <= RELATIVE_ERROR * small[values >= edges[0]]).all()


def test_saturated_and_vanishing_confidences() -> None:
    histograms = ConfidenceHistograms(2)
    histograms.add(torch.ones(10), torch.zeros(10, dtype=torch.long))
    # With a prior a product can be 0; a threshold of 0 would let every pixel pass.
    histograms.add(torch.zeros(4), torch.ones(4, dtype=torch.long))
    first, second = histograms.class_balanced_thresholds(0.5).tolist()
    assert first == 1 and 0 < second < 1e-7


def test_a_class_keeps_at_least_so_many_pixels() -> None:
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.95])
    histograms = ConfidenceHistograms(3)
    histograms.add(confidence, torch.tensor([0, 0, 0, 0, 1]))

    def kept(min_pixels: int) -> list[int]:
        limits = histograms.class_balanced_thresholds(0.2, min_pixels)
        return [int((confidence[:4] >= limits[0]).sum()), int(confidence[4] >= limits[1])]

    assert [kept(n) for n in (0, 1, 3, 9)] == [[0, 0], [1, 1], [3, 1], [4, 1]]
    assert histograms.class_balanced_thresholds(0.2, 9)[2] == 1
    assert histograms.predicted().tolist() == [4, 1, 0]


def test_one_threshold_for_all_classes() -> None:
    torch.manual_seed(1)
    probs = (torch.randn(2, 4, 25, 20) + torch.tensor([2.0, 0, 0, -1]).view(1, 4, 1, 1)).softmax(1)
    limits = histograms_of(probs).global_thresholds(0.3)
    values = probs.amax(1).flatten().sort(descending=True).values
    exact = values[math.floor(0.3 * len(values)) - 1]
    assert limits.unique().numel() == 1 and len(limits) == 4
    assert 0 <= exact - limits[0] < 0.001


def test_arguments_are_checked() -> None:
    histograms = ConfidenceHistograms(2)
    for portion in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="portion"):
            histograms.class_balanced_thresholds(portion)
        with pytest.raises(ValueError, match="portion"):
            histograms.global_thresholds(portion)
    with pytest.raises(ValueError, match="min_pixels is -1"):
        histograms.class_balanced_thresholds(0.5, -1)
