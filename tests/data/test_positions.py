"""Where in the image each class stands: by hand, and from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gbw_d2.catalog import get_dataset
from gbw_d2.data import positions
from gbw_d2.data.positions import class_position_counts

NAME = "synthia_semantic_train"


def test_counts_by_hand(synthia_root: Path) -> None:
    counts = class_position_counts(get_dataset(NAME), grid=(24, 40))
    labels = get_dataset(NAME).read_semantic(get_dataset(NAME).load()[0])
    assert counts.shape == (19, 24, 40) and counts.dtype == np.int64
    # The three images have the same labels; every place has one class, or none where void is.
    for train_id in range(19):
        assert np.array_equal(counts[train_id], 3 * (labels == train_id))
    assert (labels == 255).any() and counts.sum() == 3 * (labels != 255).sum()


def test_other_sizes_are_brought_to_the_grid(synthia_root: Path) -> None:
    counts = class_position_counts(get_dataset(NAME), grid=(4, 4))
    car, road, sky = counts[13], counts[0], counts[10]
    # Centres of the rows: 3, 9, 15, 21; of the columns: 5, 15, 25, 35.
    assert sky[0].tolist() == [3, 3, 3, 3] and road[2].tolist() == [3, 3, 0, 3]
    assert car[2].tolist() == [0, 0, 3, 0] and car[1].tolist() == [3, 0, 3, 0]


def test_counted_once_for_each_grid(synthia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = class_position_counts(get_dataset(NAME), grid=(4, 4))
    other = class_position_counts(get_dataset(NAME), grid=(2, 4))
    monkeypatch.setattr(positions, "_count", None)
    assert np.array_equal(class_position_counts(get_dataset(NAME), grid=(4, 4)), first)
    assert np.array_equal(class_position_counts(get_dataset(NAME), grid=(2, 4)), other)
