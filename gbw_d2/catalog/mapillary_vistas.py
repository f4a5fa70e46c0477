"""Mapillary Vistas, a target from all over the world: 18000 training and 2000 test images."""

from __future__ import annotations

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.vistas import NUM_IMAGES, vistas_specs
from gbw_d2.data.spec import datasets_root

register_datasets(
    vistas_specs("vistas", lambda: datasets_root() / "mapillary_vistas", released=NUM_IMAGES)
)
