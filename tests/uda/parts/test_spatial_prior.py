"""The spatial prior on maps made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gbw_d2.uda.parts.spatial_prior import resampled, spatial_prior, version_of


def test_without_smoothing_by_hand() -> None:
    # Class 0 in the upper row of all 4 images, class 1 in the lower row of 3, class 2 in 1.
    counts = np.array([[[4, 4], [0, 0]], [[0, 0], [3, 3]], [[0, 0], [1, 1]], [[0, 0], [0, 0]]])
    prior = spatial_prior(counts, 0.1)
    # Each class sums to the same, however frequent it is; one that never occurs is 0.
    row = [[1.0, 1.0], [0.0, 0.0]]
    assert prior.tolist() == [row, row[::-1], row[::-1], [[0.0, 0.0]] * 2]


def test_places_without_labels_do_not_count() -> None:
    # Seen once in the left column and four times in the right one, always as class 0.
    prior = spatial_prior(np.array([[[1, 4]], [[0, 0]]]), 0.5)
    assert prior[0].tolist() == [[1.0, 1.0]]


def test_the_kernel_spreads_and_keeps_the_sum() -> None:
    counts = np.zeros((2, 41, 61), dtype=np.int64)
    counts[0], counts[1, 20, 30] = 9, 1
    counts[0, 20, 30] = 0
    prior = spatial_prior(counts, 15 / 41)
    spike = prior[1]
    # 15 x 15 pixels, greatest in the middle, the same to all sides.
    assert (spike > 0).sum() == 15**2 and spike.argmax() == 20 * 61 + 30 and spike.max() == 1
    torch.testing.assert_close(spike, spike.flip(0).flip(1))
    # 7 pixels away are 7 / 2.5 standard deviations of 15 / 6.
    assert spike[20, 37].item() == pytest.approx(np.exp(-(2.8**2) / 2), rel=1e-4)
    assert prior[0].sum().item() == pytest.approx(spike.sum().item(), rel=1e-4)


def test_resampled_to_an_image() -> None:
    prior = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    large = resampled(prior, (2, 8), "cpu")
    assert large.shape == (2, 2, 8) and large.dtype == torch.float16
    assert large[0, 0].tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]


def test_version_and_errors() -> None:
    one, other = (spatial_prior(np.array([[[1, n]]]), 0.5) for n in (1, 1))
    assert version_of(one) == version_of(other) != version_of(one * 0.5)
    assert version_of(None) == "none"
    with pytest.raises(ValueError, match="hold no pixel"):
        spatial_prior(np.zeros((2, 3, 3)), 0.1)
    with pytest.raises(ValueError, match="kernel_share"):
        spatial_prior(np.ones((2, 3, 3)), 0.0)
