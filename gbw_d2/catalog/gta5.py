"""GTA5, the labelled synthetic source with all 19 classes (24966 images, no instances)."""

from __future__ import annotations

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.gta5 import gta5_specs
from gbw_d2.data.spec import datasets_root

register_datasets(gta5_specs("gta5", lambda: datasets_root() / "gta5"))
