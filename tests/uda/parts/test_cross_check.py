"""Detections and pseudo-labels checked by each other, by hand on pictures of a few pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gbw_d2.modeling.capabilities import FoundObject
from gbw_d2.uda.parts.cross_check import cross_checked, self_information

ROAD, CAR, BUS = 0, 1, 2
THINGS = (CAR, BUS)
THRESHOLDS = [1.0, 0.7, 0.7]


def logits_of(rows: list[list[float]], wanted: int) -> Tensor:
    """Logits (3, H, W) with these probabilities of a class; the others share the rest."""
    p = torch.tensor(rows)
    rest = (1 - p) / 2
    return torch.stack([p if c == wanted else rest for c in range(3)]).log() + 5.0


def car(score: float, columns: slice = slice(0, 10), width: int = 10) -> FoundObject:
    mask = torch.zeros(1, width, dtype=torch.bool)
    mask[:, columns] = True
    return FoundObject(CAR, score, (slice(0, 1), slice(0, width)), mask)


def checked(
    p: list[float], labels: list[int], *objects: FoundObject
) -> tuple[list[int], list[int]]:
    found, instances = cross_checked(
        logits_of([p], CAR), torch.tensor([labels], dtype=torch.uint8), objects, THRESHOLDS, THINGS
    )
    return found[0].tolist(), instances[0].tolist()


def test_self_information() -> None:
    found = self_information(torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist()
    assert found == pytest.approx([0.0, 0.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("score", "least_sure", "agreeing", "accepted"),
    [
        # -0.8 log2 0.8 = 0.26 < 0.5 bits of the least sure pixel.
        (0.8, 0.5, 0, True),
        # Surer pixels everywhere: -0.97 log2 0.97 = 0.04.
        (0.8, 0.97, 0, False),
        # Below the class's threshold, and too few labels that say so: nine of ten.
        (0.65, 0.5, 9, False),
        # All confirm it, and its own doubt stays that of 0.65: 0.404 < 0.5, but not < 0.36.
        (0.65, 0.5, 10, True),
        (0.65, 0.7, 10, False),
        # Nobody looks at detections below 1/2, whoever confirms them.
        (0.49, 0.5, 10, False),
    ],
)
def test_which_detections_are_accepted(
    score: float, least_sure: float, agreeing: int, accepted: bool
) -> None:
    labels = [CAR] * agreeing + [255] * (10 - agreeing)
    _, instances = checked([0.97] * 9 + [least_sure], labels, car(score))
    assert instances == ([(CAR + 1) * 1000 + 1] * 10 if accepted else [0] * 10)


def test_labels_of_other_things_go_where_the_pixel_is_less_sure() -> None:
    # Doubt of the car (score 0.9): 0.137; of the pixels: p = 0.5: 0.5, p = 0.99: 0.014.
    p = [0.5, 0.99, 0.5, 0.5] + [0.99] * 6
    labels = [BUS, BUS, ROAD, CAR] + [255] * 6
    assert -0.9 * math.log2(0.9) == pytest.approx(0.137, abs=1e-3)
    found, _ = checked(p, labels, car(0.9))
    assert found == [255, BUS, ROAD, CAR] + [255] * 6
    # Outside the mask, and under a detection that nothing confirms, labels stay.
    assert checked(p, labels, car(0.9, slice(1, 10)))[0] == labels
    assert checked(p, labels, car(0.6))[0] == labels


def test_the_surer_half_of_a_masks_other_pixels_takes_on_its_label() -> None:
    # Six of ten are labelled car; four are predicted as a car, but not labelled.
    p = [0.5] * 6 + [0.5, 0.6, 0.7, 0.8]
    labels = [CAR] * 6 + [255, 255, ROAD, 255]
    found, _ = checked(p, labels, car(0.9))
    assert found == [CAR] * 6 + [255, 255, CAR, CAR]
    # Five of ten are no majority.
    few = [CAR] * 5 + [255] * 5
    assert checked(p, few, car(0.9))[0] == few
    # Where the pixels are surer than the detection, it has nothing to say.
    sure = [0.999] * 10
    assert checked(sure, labels, car(0.9))[0] == labels


def test_the_surest_lies_above() -> None:
    one, other = car(0.8, slice(0, 6)), car(0.9, slice(4, 10))
    _, instances = checked([0.5] * 10, [255] * 10, one, other)
    first, second = 2001, 2002
    assert instances == [second] * 4 + [first] * 6


def test_nothing_found_and_empty_masks() -> None:
    labels = [ROAD, BUS] + [255] * 8
    assert checked([0.5] * 10, labels) == (labels, [0] * 10)
    assert checked([0.5] * 10, labels, car(0.9, slice(0, 0))) == (labels, [0] * 10)
