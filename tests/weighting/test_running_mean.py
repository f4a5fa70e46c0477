from __future__ import annotations

import torch

from gbw_d2.weighting.running_mean import MOMENTUM, updated_mean


def test_a_plain_mean_at_first_by_hand():
    mean, batches = torch.tensor([7.0, 7.0]), torch.zeros(2)
    # Where nothing has been observed the mean so far does not count.
    mean, batches = updated_mean(
        mean, batches, torch.tensor([1.0, 5.0]), torch.tensor([True, True])
    )
    mean, batches = updated_mean(
        mean, batches, torch.tensor([2.0, 9.0]), torch.tensor([True, False])
    )
    mean, batches = updated_mean(
        mean, batches, torch.tensor([6.0, 1.0]), torch.tensor([True, True])
    )
    torch.testing.assert_close(mean, torch.tensor([3.0, 3.0]))
    assert batches.tolist() == [3, 2]


def test_exponential_after_a_hundred_and_one_count_for_all():
    seen = torch.tensor(True)
    mean, batches = torch.tensor([1.0, 2.0]), torch.tensor(500.0)
    mean, batches = updated_mean(mean, batches, torch.tensor([2.0, 0.0]), seen)
    torch.testing.assert_close(mean, torch.tensor([1.0 + (1 - MOMENTUM), 2.0 * MOMENTUM]))
    same, same_batches = updated_mean(mean, batches, torch.tensor([9.0, 9.0]), ~seen)
    assert torch.equal(same, mean) and same_batches == batches == 501
