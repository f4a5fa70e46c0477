"""ACDC: Cityscapes' classes in fog, at night, in rain and in snow."""

from __future__ import annotations

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.acdc import acdc_specs
from gbw_d2.data.spec import datasets_root

register_datasets(acdc_specs("acdc", lambda: datasets_root() / "acdc"))
