"""Counts of classes by position, computed once and cached like the class counts."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gbw_d2.data.augmentation import resize_labels
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record, datasets_root
from gbw_d2.data.statistics import cached_counts, files_digest, in_space
from gbw_d2.label_spaces import LabelSpace

VERSION = 1
# Rows and columns of the grid of positions; labels are sampled at the centre of each cell.
GRID = (256, 512)


def class_position_counts(
    spec: DatasetSpec,
    records: list[Record] | None = None,
    cache_folder: Path | None = None,
    grid: tuple[int, int] = GRID,
    label_space: LabelSpace | None = None,
) -> np.ndarray:
    """Counts the images that have a class at a position, or reads the counts from the cache.

    Args:
        spec: a labelled dataset.
        records: its records, or None to load them.
        cache_folder: as in :func:`gbw_d2.data.statistics.image_class_counts`.
        grid: (rows, columns) of the grid of positions, for images of any size.
        label_space: as in :func:`gbw_d2.data.statistics.image_class_counts`.

    Returns:
        (K, rows, columns) int64.

    Raises:
        UserError: no labels, no labelled pixels, or the cache cannot be read or written.
    """
    if records is None:
        records = spec.load()
    folder = cache_folder or datasets_root() / ".class_statistics"
    size = f"{grid[0]}x{grid[1]}"
    path = folder / f"positions-v{VERSION}-{size}-{files_digest(spec, records)[:24]}.npz"
    counts = cached_counts(path, lambda: _count(spec, records, grid))
    return counts if label_space is None else in_space(counts, spec, label_space, axis=0)


def _count(spec: DatasetSpec, records: list[Record], grid: tuple[int, int]) -> np.ndarray:
    read = spec.read_semantic
    if read is None:
        raise DatasetError(f"dataset '{spec.name}' has no semantic labels, so none can be counted")

    classes = spec.classes.num_classes

    def look(record: Record) -> np.ndarray:
        return np.minimum(resize_labels(read(record), grid), classes)

    counts = np.zeros((classes + 1, *grid), dtype=np.int64)  # the last one: no class
    rows, columns = np.ogrid[: grid[0], : grid[1]]
    # Threads suffice, because decoding, the larger part of the work, releases Python's global lock.
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        for labels in tqdm(
            pool.map(look, records),
            total=len(records),
            desc=f"looking where {spec.name} has which class",
            unit="image",
        ):
            # Each position occurs once per image, so indexed addition counts correctly.
            counts[labels, rows, columns] += 1
    counts = counts[:classes]
    if not counts.any():
        raise DatasetError(
            f"dataset '{spec.name}' has {len(records)} images and no labelled pixel at all; check "
            "its label files"
        )
    return counts
