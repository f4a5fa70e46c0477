"""Panoptic maps of a teacher as segments, by hand."""

from __future__ import annotations

import pytest
import torch

from gbw_d2.modeling.taught import large_classes, segments_of_maps

ROAD, CAR = 0, 1


@pytest.mark.parametrize("by_score", [False, True])
def test_segments_of_maps(by_score: bool) -> None:
    probabilities = torch.tensor([[[0.9, 0.6, 0.2, 0.5]], [[0.1, 0.4, 0.8, 0.5]]])
    logits = torch.stack([probabilities.log() + 3, probabilities.log()])
    things = {"id": 2, "category_id": CAR, "isthing": True, "score": 0.7}
    stuff = {"id": 1, "category_id": ROAD, "isthing": False, "score": 0.4}
    first = torch.tensor([[1, 2, 2, 0]], dtype=torch.int32), [stuff, things]
    second = torch.zeros(1, 4, dtype=torch.int32), []
    found = segments_of_maps(logits, [first, second], by_score)
    assert found.owners.tolist() == [[[1, 2, 2, 0]], [[0, 0, 0, 0]]]
    assert found.classes.tolist() == [[255, ROAD, CAR], [255, 255, 255]]
    # On a thing the probability of its class, or its score.
    car = [0.7, 0.7] if by_score else [0.4, 0.8]
    torch.testing.assert_close(
        found.confidence, torch.tensor([[[0.9, *car, 0.0]], [[0.0, 0.0, 0.0, 0.0]]])
    )
    greatest = [0.9, 0.7 if by_score else 0.6, 0.8, 0.5]
    torch.testing.assert_close(found.greatest, torch.tensor([[greatest], [[0.9, 0.6, 0.8, 0.5]]]))
    assert large_classes(found, 2).tolist() == [[255, 255, CAR], [255, 255, 255]]
