"""The datasets, one file each, and their lookup by name."""

from gbw_d2.catalog.lookup import find_label_space, get_dataset, register_with_detectron2
from gbw_d2.catalog.registration import DATASETS, register_dataset, register_datasets

__all__ = [
    "DATASETS",
    "find_label_space",
    "get_dataset",
    "register_dataset",
    "register_datasets",
    "register_with_detectron2",
]
