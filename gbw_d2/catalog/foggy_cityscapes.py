"""Foggy Cityscapes: Cityscapes' scenes behind fog of three densities, with Cityscapes' labels."""

from __future__ import annotations

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.cityscapes import HOOD_AND_RIM, NUM_IMAGES, cityscapes_specs
from gbw_d2.data.formats.cityscapes_labels import check_labels, make_labels
from gbw_d2.data.formats.foggy import BETAS, foggy_images
from gbw_d2.data.spec import datasets_root

for beta in BETAS:
    register_datasets(
        cityscapes_specs(
            f"foggy_cityscapes_{beta}",
            lambda: datasets_root() / "cityscapes",
            images=foggy_images(beta),
            make_labels=make_labels,
            check_labels=check_labels,
            ignore_rows=HOOD_AND_RIM,
            released=NUM_IMAGES,
        )
    )
