"""Thresholds of histograms against an exact sort, within the bound that the class promises."""

from __future__ import annotations

import math

import pytest
import torch

from gbw_d2.uda.parts.class_histogram import BIN_WIDTH, ConfidenceHistograms, bin_edges
from gbw_d2.uda.parts.pseudo_labels import class_balanced_thresholds


def histograms_of(probs: torch.Tensor) -> ConfidenceHistograms:
    histograms = ConfidenceHistograms(probs.shape[1])
    for image in probs:
        histograms.add(*image.max(0))
    return histograms


def log_odds(values: torch.Tensor) -> torch.Tensor:
    return torch.logit(values.double(), eps=1e-9)


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
    # float32 itself is coarser than a bin where 1 - t is below 1e-5.
    coarse = exact > 1 - 1e-5
    assert ((log_odds(exact) - log_odds(found))[~coarse] < BIN_WIDTH * 1.001).all()
    assert (exact - found).max() < 0.0005
    # Not all are exact, or the test would see nothing.
    assert portion == 0 or sharpness == 20 or (found < exact)[~coarse].any()


def test_a_confidence_on_an_edge_belongs_to_the_bin_above_it() -> None:
    edges = bin_edges()
    assert (edges.diff() >= 0).all() and edges[0] == 0 and edges[-1] == 1
    for value in (*edges[[1, 100, 8000, 9000, -1]].tolist(), 1 - 2**-24):
        histograms = ConfidenceHistograms(2)
        histograms.add(torch.tensor([value]), torch.tensor([1]))
        threshold = histograms.class_balanced_thresholds(1.0)[1]
        assert threshold <= torch.tensor(value)
        assert threshold == value or value not in edges.tolist()


def test_saturated_and_vanishing_confidences() -> None:
    histograms = ConfidenceHistograms(2)
    histograms.add(torch.ones(10), torch.zeros(10, dtype=torch.long))
    # With a prior a product can be 0; a threshold of 0 would let every pixel pass.
    histograms.add(torch.zeros(4), torch.ones(4, dtype=torch.long))
    first, second = histograms.class_balanced_thresholds(0.5).tolist()
    assert first == 1 and 0 < second < 2e-7


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
    assert 0 <= exact - limits[0] < 0.0005


def test_arguments_are_checked() -> None:
    histograms = ConfidenceHistograms(2)
    for portion in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="portion"):
            histograms.class_balanced_thresholds(portion)
        with pytest.raises(ValueError, match="portion"):
            histograms.global_thresholds(portion)
    with pytest.raises(ValueError, match="min_pixels is -1"):
        histograms.class_balanced_thresholds(0.5, -1)
