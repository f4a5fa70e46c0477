"""The table of all datasets."""

from __future__ import annotations

from collections.abc import Iterable

from gbw_d2.data.spec import DatasetSpec
from gbw_d2.registry import Registry

DATASETS: Registry[DatasetSpec] = Registry("dataset")


def register_dataset(spec: DatasetSpec) -> DatasetSpec:
    """Registers a dataset under its name, without importing Detectron2."""
    return DATASETS.register(spec.name)(spec)


def register_datasets(specs: Iterable[DatasetSpec]) -> None:
    """Registers several datasets, each under its name."""
    for spec in specs:
        register_dataset(spec)
