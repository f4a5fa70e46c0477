"""Labelled pixels per image and class, counted once, cached, and recounted when files change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gbw_d2 import keys
from gbw_d2.class_tables import regrouped
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record, datasets_root
from gbw_d2.files.atomic import replacing
from gbw_d2.files.locking import exclusive
from gbw_d2.label_spaces import IGNORE_LABEL, LabelSpace, training_table

# The version in the files' names, to be raised whenever the same labels would give other counts.
VERSION = 1


def files_digest(spec: DatasetSpec, records: list[Record]) -> str:
    """Returns a digest of the reader and all files' names and sizes, whatever their folder."""
    reader = getattr(spec.read_semantic, "func", spec.read_semantic)  # of a partial
    head = f"{VERSION} {getattr(reader, '__module__', '')} {spec.label_key} {len(records)}\n"
    digest = hashlib.sha256(head.encode())
    for record in records:
        files = sorted(key for key in record if key.endswith(keys.FILE_NAME))
        for path in (record[key] for key in files):
            digest.update(f"{os.path.basename(path)} {os.path.getsize(path)}\n".encode())
    return digest.hexdigest()


def _count(spec: DatasetSpec, records: list[Record]) -> np.ndarray:
    read = spec.read_semantic
    if read is None:
        raise DatasetError(f"dataset '{spec.name}' has no semantic labels, so none can be counted")

    classes = spec.classes.num_classes

    def count(record: Record) -> np.ndarray:
        return np.bincount(read(record).ravel(), minlength=IGNORE_LABEL + 1)[:classes]

    # Threads suffice, because decoding, the larger part of the work, releases Python's global lock.
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        rows = tqdm(
            pool.map(count, records),
            total=len(records),
            desc=f"counting the classes of {spec.name}",
            unit="image",
        )
        counts = np.stack(list(rows))
    if not counts.any():
        raise DatasetError(
            f"dataset '{spec.name}' has {len(records)} images and no labelled pixel at all; check "
            "its label files"
        )
    return counts


def cached_counts(path: Path, count: Callable[[], np.ndarray]) -> np.ndarray:
    """Reads counts from their cache, or counts and writes it; other processes wait meanwhile.

    Args:
        path: the cache's file; its name must change with everything that the counts depend on.
        count: computes the counts.
    """
    counts = load_counts(path)
    if counts is not None:
        return counts
    with exclusive(path):
        counts = load_counts(path)
        if counts is None:
            counts = count()
            save_counts(path, counts)
    return counts


def load_counts(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as cache:
            counts = cache["counts"]
        if counts.dtype.kind not in "iu" or counts.ndim < 2 or counts.min(initial=0) < 0:
            raise ValueError("it holds no counts")
    # For a damaged header NumPy passes on any error of Python's parser or of an archive.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise DatasetError(f"cannot read the cache '{path}' ({reason}); delete it") from error
    return counts


def save_counts(path: Path, counts: np.ndarray) -> None:
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, counts=counts)
    except OSError as error:
        raise DatasetError(
            f"cannot write the class statistics to '{path}' ({error.strerror}); make room "
            "there, or let the folder be written to"
        ) from error


def image_class_counts(
    spec: DatasetSpec,
    records: list[Record] | None = None,
    cache_folder: Path | None = None,
    label_space: LabelSpace | None = None,
) -> np.ndarray:
    """Counts the labelled pixels of every image by class, or reads them from the cache.

    If several processes or runs need the counts at once, one counts and the others wait.

    Args:
        spec: a labelled dataset.
        records: its records, or None to load them.
        cache_folder: folder of the cached counts; None for ``.class_statistics`` in
            ``$DETECTRON2_DATASETS``. Names of cache files contain a digest of the dataset's file
            names and sizes: changed files are recounted, and datasets with the same files share
            counts.
        label_space: label space of the returned counts; None for the dataset's own, which is also
            that of the cache.

    Returns:
        (images, K) int64, in the order of the records.

    Raises:
        UserError: no labels, no labelled pixels, or the cache cannot be read or written.
    """
    if records is None:
        records = spec.load()
    folder = cache_folder or datasets_root() / ".class_statistics"
    path = folder / f"v{VERSION}-{files_digest(spec, records)[:24]}.npz"
    counts = cached_counts(path, lambda: _count(spec, records))
    return counts if label_space is None else in_space(counts, spec, label_space, axis=1)


def in_space(counts: np.ndarray, spec: DatasetSpec, space: LabelSpace, axis: int) -> np.ndarray:
    """Converts counts by class ids of a dataset to those of another label space."""
    table = training_table(spec.classes, space)
    return regrouped(counts, table, space.num_classes, axis)
