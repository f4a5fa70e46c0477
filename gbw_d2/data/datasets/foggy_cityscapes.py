"""Foggy Cityscapes: Cityscapes' scenes behind fog of three densities, with Cityscapes' labels."""

from __future__ import annotations

from gbw_d2.data.catalog import datasets_root
from gbw_d2.data.formats.cityscapes import HOOD_AND_RIM, register_cityscapes
from gbw_d2.data.formats.cityscapes_labels import check_labels, make_labels
from gbw_d2.data.formats.foggy import BETAS, foggy_images

for beta in BETAS:
    register_cityscapes(
        f"foggy_cityscapes_{beta}",
        lambda: datasets_root() / "cityscapes",
        images=foggy_images(beta),
        make_labels=make_labels,
        check_labels=check_labels,
        ignore_rows=HOOD_AND_RIM,
    )
