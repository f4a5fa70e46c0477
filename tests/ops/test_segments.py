"""Segment maps."""

import numpy as np
import pytest

from gbw_d2.class_tables import look_up
from gbw_d2.ops.segments import areas, class_map, distinct, runs_of


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (5, 7)])
def test_distinct_ids_are_those_of_unique(shape: tuple[int, int]) -> None:
    ids = np.random.default_rng(0).integers(0, 4, shape)
    np.testing.assert_array_equal(distinct(ids), np.unique(ids))
    np.testing.assert_array_equal(distinct(np.zeros(shape, np.uint8)), np.unique(0 * ids))


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (5, 7)])
def test_areas_are_those_of_unique(shape: tuple[int, int]) -> None:
    ids = np.random.default_rng(0).integers(0, 4, shape)
    for found, expected in zip(areas(ids), np.unique(ids, return_counts=True), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_runs_end_with_their_row() -> None:
    first, length, ids = runs_of(np.array([[7, 7, 2], [2, 2, 2], [5, 6, 6]]))
    assert first.tolist() == [0, 2, 3, 6, 7]
    assert length.tolist() == [2, 1, 3, 1, 2]
    assert ids.tolist() == [7, 2, 2, 5, 6]


def test_class_map_by_hand() -> None:
    info = [{"id": 9, "category_id": 0}, {"id": 4, "category_id": 254}]
    info += [{"id": 5, "category_id": 255}]
    segments = np.array([[0, 9, 4], [5, 3, 1 << 23]], dtype=np.int32)
    found = class_map(segments, info)
    assert found.dtype == np.uint8
    assert found.tolist() == [[255, 0, 254], [255, 255, 255]]
    assert class_map(segments, []).tolist() == [[255] * 3] * 2


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("shape", [(0,), (6,), (3, 4), (4, 0)])
def test_look_up_is_indexing(shape: tuple[int, ...], dtype: type) -> None:
    table = np.random.default_rng(0).integers(0, 200, 256).astype(dtype)
    ids = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    found = look_up(table, ids)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, table[ids])
