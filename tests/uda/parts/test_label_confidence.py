"""Weights of pseudo-labels of pixels, by hand."""

from __future__ import annotations

import pytest
import torch

from gbw_d2.uda.parts.class_thresholds import ClassThresholds
from gbw_d2.uda.parts.label_confidence import label_segments, label_weights
from gbw_d2.uda.parts.pseudo_labels import confidence_weights

# Two regions of class 1, one of class 0.
LABELS = torch.tensor([[[1, 0, 0, 1], [1, 0, 0, 1]]])
CONFIDENCE = torch.tensor([[[0.9, 0.5, 0.6, 0.2], [0.7, 0.7, 0.8, 0.1]]])


def test_share_of_the_own_segment() -> None:
    fixed = ClassThresholds("fixed", 2, 0.6, 0.9)
    weights = label_weights(LABELS, CONFIDENCE, fixed, "segment", None)
    torch.testing.assert_close(weights, torch.tensor([[[1, 0.75, 0.75, 0]] * 2]))
    # A row that does not count is no part of a segment, and has weight 0.
    kept = torch.tensor([[True, False]])
    weights = label_weights(LABELS, CONFIDENCE, fixed, "segment", kept)
    torch.testing.assert_close(weights, torch.tensor([[[1, 0.5, 0.5, 0], [0, 0, 0, 0]]]))


def test_adaptive_thresholds_of_regions() -> None:
    adaptive = ClassThresholds("adaptive", 2, 0.99, 0.0)
    weights = label_weights(LABELS, CONFIDENCE, adaptive, "segment", None)
    # Q75: 0.7 of the second class's... region of class 0; 0.9 and 0.2 of those of class 1.
    torch.testing.assert_close(adaptive.values, torch.tensor([0.7, 0.9]))
    torch.testing.assert_close(weights, torch.tensor([[[0.5, 0.5, 0.5, 0]] * 2]))
    # In batch and image it is the share of all pixels that reach their class's threshold.
    for per in ("batch", "image"):
        weights = label_weights(LABELS, CONFIDENCE, adaptive, per, None)
        torch.testing.assert_close(weights, torch.full((1, 2, 4), 3 / 8))


@pytest.mark.parametrize("per", ["batch", "image"])
def test_fixed_thresholds_are_dacs(per: str) -> None:
    torch.manual_seed(0)
    confidence, labels = torch.rand(2, 5, 7), torch.randint(3, (2, 5, 7))
    fixed = ClassThresholds("fixed", 3, 0.6, 0.9)
    found = label_weights(labels, confidence, fixed, per, None)
    assert torch.equal(found, confidence_weights(confidence, 0.6, per == "image"))


def test_large_maps_are_looked_at_on_every_other_row() -> None:
    labels = torch.zeros(1, 10, 514, dtype=torch.int64)
    labels[:, :, 300:] = 1
    segments = label_segments(labels, torch.rand(1, 10, 514), None)
    # 514 columns are more than twice 256: every third is looked at, from the second on.
    assert segments.step == 3 and segments.owners.shape == (1, 3, 171)
    assert segments.owners.unique().tolist() == [0, 100]
    spread = segments.at_pixels(segments.owners, 10, 514)
    assert spread.shape == labels.shape and (spread[:, :, 300:] == 100).all()
    assert (spread[:, :, :300] == 0).all()
