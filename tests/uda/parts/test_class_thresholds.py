"""Thresholds per class, and quantiles of segments against numpy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gbw_d2.errors import UserError
from gbw_d2.uda.parts.class_thresholds import ClassThresholds, build_thresholds, segment_quantiles


def test_quantiles_of_segments() -> None:
    torch.manual_seed(0)
    confidence, owners = torch.rand(2, 20, 30), torch.randint(4, (2, 20, 30))
    owners[1][owners[1] == 2] = 0
    found = segment_quantiles(confidence, owners, 5, 0.75)
    for image in range(2):
        for number in range(4):
            inside = confidence[image][owners[image] == number].numpy()
            if inside.size:
                wanted = np.quantile(inside, 0.75, method="inverted_cdf")
                assert found[image, number].item() == pytest.approx(wanted, abs=1e-6)
    assert found[1, 2] == 0 and not found[:, 4].any()
    # The ends: the least and the greatest.
    ends = segment_quantiles(
        torch.tensor([[[0.0, 0.25, 1.0]]]), torch.zeros(1, 1, 3).long(), 1, 1.0
    )
    assert ends.tolist() == [[1.0]]


def test_thresholds_follow_the_greatest_of_a_class() -> None:
    thresholds = ClassThresholds("adaptive", 3, 0.99, 0.9)
    classes = torch.tensor([[0, 0, 255], [1, 0, -1]])
    quantiles = torch.tensor([[0.5, 0.8, 1.0], [0.4, 0.6, 1.0]])
    thresholds.update(classes, quantiles)
    torch.testing.assert_close(thresholds.values, torch.tensor([0.08, 0.04, 0.0]))
    thresholds.update(classes, quantiles)
    torch.testing.assert_close(thresholds.values, torch.tensor([0.152, 0.076, 0.0]))
    with pytest.raises(UserError, match="KEY is 'often'; expected fixed or adaptive"):
        ClassThresholds("often", 3, 0.0, 0.9, key="KEY")


def test_segments_are_taken_in_where_adaptive() -> None:
    classes = torch.tensor([[255, 2, 0, 2]])
    owners = torch.tensor([[[0, 1, 1, 1], [1, 3, 3, 3]]])
    confidence = torch.tensor([[[1.0, 0.1, 0.2, 0.3], [0.4, 0.9, 0.5, 0.5]]])
    adaptive = ClassThresholds("adaptive", 3, 0.99, 0.5)
    adaptive.take(classes, owners, confidence)
    # Q75 of 0.1 to 0.4 is 0.3, of 0.5, 0.5 and 0.9 it is 0.9; number 2 has no pixel, 0 no class.
    torch.testing.assert_close(adaptive.values, torch.tensor([0.0, 0.0, 0.45]))
    assert adaptive.of(torch.tensor([2, 0])).tolist() == pytest.approx([0.45, 0.0])
    fixed = ClassThresholds("fixed", 3, 0.99, 0.5)
    fixed.take(classes, owners, confidence)
    assert fixed.values.tolist() == pytest.approx([0.99] * 3)


@pytest.mark.parametrize(
    ("iterations", "momentum"), [(90_000, 0.999), (20_000, 0.999), (2_000, 0.99), (5, 0.0)]
)
def test_memory_is_a_twentieth_of_a_short_run(iterations: int, momentum: float) -> None:
    settings = SimpleNamespace(
        THRESHOLDS="adaptive",
        CONFIDENCE_THRESHOLD=0.9,
        THRESHOLD_MOMENTUM=0.999,
        THRESHOLD_QUANTILE=0.75,
    )
    built = build_thresholds(settings, 3, iterations, "UDA.X")
    assert built.momentum == pytest.approx(momentum)
