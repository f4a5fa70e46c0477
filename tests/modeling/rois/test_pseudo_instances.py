"""Which of a teacher's detections are instances to learn from."""

from __future__ import annotations

import torch

from gbw_d2.modeling.merging import Detections
from gbw_d2.modeling.protocol import PixelPseudoLabels
from gbw_d2.modeling.rois.detections import pseudo_instances

THINGS = (1, 3)


def instances_with(thresholds: list[float]) -> list[int]:
    """Two detections side by side, of the first and the second thing, scores 0.8 and 0.5."""
    found = Detections(
        torch.tensor([[0.0, 0, 4, 4], [4.0, 0, 8, 4]]),
        torch.tensor([0.8, 0.5]),
        torch.tensor([0, 1]),
        torch.ones(2, 14, 14),
    )
    labels = torch.zeros(1, 6, 8, dtype=torch.long)
    labels[0, :4, :4], labels[0, :4, 4:], labels[0, 5, 7] = 1, 3, 3
    kept = torch.ones_like(labels, dtype=torch.bool)
    kept[0, 5, 0] = False
    pixels = PixelPseudoLabels(labels, torch.ones(labels.shape), kept, torch.tensor(thresholds))
    made = pseudo_instances([found], pixels, THINGS, 0.75, 0.5)
    numbers = made.numbers[0]
    # A thing's pixel without a detection, and a pixel that does not count; road is background.
    assert numbers[5, 7] == numbers[5, 0] == -1 and (numbers[4] == 0).all()
    return [made.classes[0, number - 1].item() if number > 0 else -1 for number in numbers[0, ::4]]


def test_one_threshold_for_all() -> None:
    assert instances_with([0.9] * 4) == [0, -1]


def test_a_class_whose_pixels_have_a_lower_threshold_needs_less() -> None:
    # 0.75 x 0.6 / 0.9 = 0.5; a little more is too much.
    assert instances_with([0.9, 0.9, 0.2, 0.6]) == [0, 1]
    assert instances_with([0.9, 0.9, 0.2, 0.61]) == [0, -1]
    # Nothing has been seen yet.
    assert instances_with([0.0] * 4) == [0, -1]
