"""Cityscapes: the unlabelled real target (2975 images), the oracle's labels, the test set (500)."""

from __future__ import annotations

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.cityscapes import HOOD_AND_RIM, NUM_IMAGES, cityscapes_specs
from gbw_d2.data.formats.cityscapes_labels import check_labels, make_labels
from gbw_d2.data.spec import datasets_root

register_datasets(
    cityscapes_specs(
        "cityscapes",
        lambda: datasets_root() / "cityscapes",
        make_labels=make_labels,
        check_labels=check_labels,
        ignore_rows=HOOD_AND_RIM,
        released=NUM_IMAGES,
    )
)
