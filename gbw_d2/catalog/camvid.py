"""CamVid: 701 labelled photos of real streets, 11 classes, by day and at dusk."""

from __future__ import annotations

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.camvid import NUM_IMAGES, camvid_specs
from gbw_d2.data.spec import datasets_root

register_datasets(camvid_specs("camvid", lambda: datasets_root() / "camvid", released=NUM_IMAGES))
