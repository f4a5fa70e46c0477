"""Points: against grid_sample of masks, and by hand."""

from __future__ import annotations

import pytest
import torch
from query_cases import random_segments

from gbw_d2.modeling.mask2former.points import (
    own_shares,
    sample_maps,
    segment_shares,
    uncertain_points,
)


def test_shares_are_masks_sampled_bilinearly() -> None:
    torch.manual_seed(0)
    targets = random_segments(2, (10, 14), 3, 4)
    count = targets.classes.shape[1]
    masks = (targets.slots[:, None] == torch.arange(count).view(1, -1, 1, 1)).float()
    # Some points lie in the outer half pixel, where grid_sample mixes in zeros.
    points = torch.rand(2, 50, 2)
    points[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.01, 0.5], [0.5, 0.99]])
    expected = sample_maps(masks, points).transpose(1, 2)
    torch.testing.assert_close(segment_shares(targets.slots, points, count), expected)
    images, owners = torch.tensor([1, 0, 1]), torch.tensor([5, 1, 7])
    own = own_shares(targets.slots, images, owners, points[images])
    torch.testing.assert_close(own, expected[images, :, owners])


def test_points_lie_where_the_mask_is_uncertain() -> None:
    torch.manual_seed(0)
    logits = torch.full((1, 8, 8), 5.0)
    logits[:, :, 4:] = -5.0
    points = uncertain_points(logits, 400)
    at = sample_maps(logits[:, None], points)[0, 0].abs()
    # A third of the area is near the edge, or near the border, where zeros are mixed in: three
    # quarters of the points lie there, and a third of the others.
    assert (at[:300] < 4.9).all() and (at[300:] < 4.9).float().mean() < 0.5
    assert points.shape == (1, 400, 2) and points.min() >= 0 and points.max() <= 1


def test_unusable_pixels_are_taken_last() -> None:
    torch.manual_seed(0)
    logits = torch.zeros(2, 8, 8)
    usable = torch.ones(3, 16, 16, dtype=torch.bool)
    usable[2, :8] = False
    points = uncertain_points(logits, 400, usable=usable, images=torch.tensor([0, 2]))
    above = points[:, :, 1] < 0.5
    assert 0.4 < above[0].float().mean() < 0.6
    # Half of the 1200 candidates are usable, twice as many as are kept; the rest is anywhere.
    assert not above[1, :300].any() and above[1, 300:].any()
    usable[2] = False
    assert uncertain_points(logits, 40, usable=usable, images=torch.tensor([2, 2])).isfinite().all()


@pytest.mark.parametrize("count", [1, 3, 4])
def test_few_points(count: int) -> None:
    assert uncertain_points(torch.zeros(2, 4, 4), count).shape == (2, count, 2)
    assert uncertain_points(torch.zeros(0, 4, 4), count).shape == (0, count, 2)
