"""Connected regions, against scipy's and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from gbw_d2.ops.components import connected_regions


def expected(labels: np.ndarray) -> np.ndarray:
    """Numbers each region by its first pixel, with scipy's four neighbours."""
    result = np.zeros(labels.shape, np.int64)
    for value in np.unique(labels):
        regions, count = ndimage.label(labels == value)
        for number in range(1, count + 1):
            inside = regions == number
            result[inside] = np.flatnonzero(inside)[0]
    return result


def test_by_hand() -> None:
    labels = torch.tensor([[[1, 1, 0], [0, 1, 0], [1, 0, 0]]])
    assert connected_regions(labels).tolist() == [[[0, 0, 2], [3, 0, 2], [6, 2, 2]]]


def snake(rows: int, columns: int) -> Tensor:
    labels = torch.zeros(rows, columns, dtype=torch.int64)
    labels[::2] = 1
    labels[1::4, -1], labels[3::4, 0] = 1, 1
    return labels


def cases() -> dict[str, Tensor]:
    torch.manual_seed(0)
    coarse = torch.randn(2, 5, 6, 9)
    blobs = torch.nn.functional.interpolate(coarse, (40, 60), mode="bilinear").argmax(1)
    return {
        "noise": torch.randint(2, (2, 40, 60)),
        "blobs": blobs,
        "snake": torch.stack([snake(40, 60), snake(60, 40).t()]),
        "one": torch.zeros(2, 3, 5, dtype=torch.int64),
        "a row": torch.randint(3, (1, 1, 20)),
        "a column": torch.randint(3, (1, 20, 1)),
    }


@pytest.mark.parametrize("name", list(cases()))
def test_equal_to_scipy(name: str) -> None:
    labels = cases()[name]
    found = connected_regions(labels)
    for image, regions in zip(labels, found, strict=True):
        np.testing.assert_array_equal(regions.numpy(), expected(image.numpy()))


def test_too_few_rounds_leave_parts_of_one_label() -> None:
    labels = torch.stack([snake(40, 60)])
    found = connected_regions(labels, rounds=1)[0]
    assert len(found.unique()) > len(connected_regions(labels).unique())
    assert torch.equal(labels.flatten()[found.flatten()], labels.flatten())
