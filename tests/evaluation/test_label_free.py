"""Criteria without labels, each on numbers that can be followed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from gbw_d2.evaluation import label_free
from gbw_d2.evaluation.label_free import (
    CRITERIA,
    agreement,
    agreement_miou,
    class_pairs,
    class_share_kl,
    criteria_of,
    look_at,
    mean_entropy,
    neighbourhood_density,
)


def test_entropy_of_a_sure_pixel_an_even_one_and_one_between() -> None:
    probabilities = torch.tensor([[1 - 2e-7, 1 / 4, 1 / 2], *[[1e-7, 1 / 4, 1 / 4]] * 2])
    probabilities = torch.cat([probabilities, torch.tensor([[1e-9, 1 / 4, 1e-9]])])[:, None]
    # log 4 and 3/2 log 2 of at most log 4 = 2 log 2.
    assert float(mean_entropy(probabilities.log())) == pytest.approx((0 + 1 + 3 / 4) / 3, abs=1e-5)
    assert float(mean_entropy(torch.zeros(1, 2, 2))) == 0  # one class: nothing to be unsure of


def test_density_of_two_pairs_of_neighbours() -> None:
    # Cosines: 1 within a pair, 0 to the others; shares e^20 / (e^20 + 2) and 1 / (e^20 + 2).
    pixels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    weights = [math.exp(1 / 0.05), 1, 1]
    shares = [w / sum(weights) for w in weights]
    entropy = -sum(s * math.log(s) for s in shares)
    assert float(neighbourhood_density(pixels)) == pytest.approx(entropy / math.log(3), abs=1e-6)
    # All alike: every other pixel is as near a neighbour as any.
    assert float(neighbourhood_density(torch.full((5, 3), 1 / 3))) == pytest.approx(1)
    assert float(neighbourhood_density(pixels[:2])) == 0


def test_density_follows_the_definition_row_by_row() -> None:
    pixels = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    rows = []
    for i in range(6):
        cosines = [
            torch.dot(pixels[i], pixels[j]) / (pixels[i].norm() * pixels[j].norm())
            for j in range(6)
            if j != i
        ]
        shares = (torch.stack(cosines) / 0.05).softmax(0)
        rows.append(float(-(shares * shares.log()).sum()))
    mean = sum(rows) / 6 / math.log(5)
    assert float(neighbourhood_density(pixels)) == pytest.approx(mean, abs=1e-5)


def test_agreement_by_pixels_and_by_classes() -> None:
    first = torch.tensor([[0, 0, 0, 0], [1, 1, 2, 2]])
    second = torch.tensor([[0, 0, 0, 1], [1, 1, 1, 2]])
    pairs = class_pairs(first, second, 4)
    assert pairs.tolist() == [[3, 1, 0, 0], [0, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert agreement(pairs) == 6 / 8
    # IoU 3/4, 2/4, 1/2; nobody has class 3.
    assert agreement_miou(pairs) == pytest.approx((3 / 4 + 1 / 2 + 1 / 2) / 3)


def test_divergence_of_class_shares() -> None:
    source = torch.tensor([30, 10, 0])
    assert class_share_kl(torch.tensor([0.75, 0.25, 0.0]), source) == pytest.approx(0)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.4)
    assert class_share_kl(torch.tensor([0.5, 0.4, 0.1]), source) == pytest.approx(expected)
    # A class that is never predicted costs much, and not infinitely much.
    assert 5 < class_share_kl(torch.tensor([1.0, 0.0, 0.0]), source) < 10


def test_images_are_put_together() -> None:
    sure = torch.tensor([[[30.0, 0.0]], [[0.0, 30.0]]])  # two classes, 1 x 2 pixels
    even = torch.zeros(2, 1, 2)
    zeros, both = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[0, 1]])
    pixels = torch.tensor([1, 0])
    looks = [
        look_at(sure, pixels, (both, both), None),
        look_at(even, pixels, (both, zeros), None),
    ]
    found = criteria_of(looks, torch.tensor([1, 1]))
    assert found["label_free/entropy"] == pytest.approx(50)
    assert found["label_free/view_agreement"] == 75
    assert found["label_free/view_miou"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert found["label_free/class_share_kl"] == pytest.approx(0, abs=1e-6)
    assert found["label_free/neighbourhood_density"] == 0  # two pixels have none
    assert set(found) == {name for name, c in CRITERIA.items() if not c.needs_teacher}
    taught = [look_at(sure, pixels, (both, both), (both, zeros))]
    found = criteria_of(taught, torch.tensor([1, 1]))
    assert set(found) == set(CRITERIA)
    assert found["label_free/teacher_agreement"] == 50
    assert found["label_free/teacher_miou"] == 25  # IoU 1/2 of class 0, 0 of class 1


def test_the_density_is_of_the_pixels_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        label_free, "neighbourhood_density", lambda p: seen.append(p) or torch.zeros(())
    )
    logits = torch.arange(12.0).view(2, 2, 3).square()
    zeros = torch.zeros(2, 3, dtype=torch.int64)
    look_at(logits, torch.tensor([4, 1]), (zeros, zeros), None)
    expected = torch.stack([logits[:, 1, 1], logits[:, 0, 1]]).softmax(1)
    torch.testing.assert_close(seen[0], expected)
