"""Segment maps."""

import numpy as np
import pytest

from gbw_d2.ops.segments import distinct


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (5, 7)])
def test_distinct_ids_are_those_of_unique(shape: tuple[int, int]) -> None:
    ids = np.random.default_rng(0).integers(0, 4, shape)
    np.testing.assert_array_equal(distinct(ids), np.unique(ids))
    np.testing.assert_array_equal(distinct(np.zeros(shape, np.uint8)), np.unique(0 * ids))
