from __future__ import annotations

import math

import pytest
import torch

from gbw_d2.weighting.mean_weights import LEAST, MeanWeights

TERMS = ("source", "mixed")


def test_means_and_shift_by_hand():
    means = MeanWeights(3, TERMS)
    assert means.logit_shift("source", 1.0).tolist() == [0.0] * 3
    means.update("source", torch.tensor([0.5, 1.5, 1.0]), torch.tensor([9.0, 1.0, 0.0]))
    # The third class has not been seen: nothing is known of its prior shift.
    expected = torch.tensor([math.log(0.5), math.log(1.5), 0.0])
    torch.testing.assert_close(means.logit_shift("source", 1.0), expected)
    means.update("source", torch.tensor([1.5, 1.0, 0.25]), torch.tensor([9.0, 0.0, 2.0]))
    # (0.5 + 1.5) / 2; kept, for the batch does not show it; its first.
    expected = torch.tensor([0.0, math.log(1.5), math.log(0.25)])
    torch.testing.assert_close(means.logit_shift("source", 1.0), expected)
    torch.testing.assert_close(means.logit_shift("source", 0.5), expected / 2)
    assert means.logit_shift("mixed", 1.0).tolist() == [0.0] * 3


def test_late_batches_weigh_a_hundredth():
    means, counts = MeanWeights(1, TERMS), torch.ones(1)
    for _ in range(150):
        means.update("source", torch.ones(1), counts)
    means.update("source", torch.full((1,), 3.0), counts)
    assert means.logit_shift("source", 1.0).exp().item() == pytest.approx(0.99 + 0.03)


def test_a_weight_of_zero_has_a_finite_shift():
    means = MeanWeights(2, TERMS)
    means.update("source", torch.tensor([0.0, 2.0]), torch.ones(2))
    shift = means.logit_shift("source", 1.0)
    assert shift.tolist() == pytest.approx([math.log(LEAST), math.log(2)])


def test_state_round_trip():
    first = MeanWeights(2, TERMS)
    for weight in (0.5, 0.8):
        first.update("source", torch.tensor([weight, 2 - weight]), torch.tensor([4.0, 1.0]))
    second = MeanWeights(2, TERMS)
    second.load_state_dict(first.state_dict())
    for means in (first, second):
        means.update("source", torch.tensor([0.1, 1.9]), torch.tensor([4.0, 1.0]))
        # (0.5 + 0.8 + 0.1) / 3
        expected = torch.tensor([1.4 / 3, 4.6 / 3]).log()
        torch.testing.assert_close(means.logit_shift("source", 1.0), expected)
    one, other = (means.logit_shift("source", 1.0) for means in (first, second))
    assert torch.equal(one, other)
    # Where the logits are not adjusted nothing is kept.
    assert not MeanWeights(2, ()).state_dict()
