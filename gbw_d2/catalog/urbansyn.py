"""UrbanSyn: 7,539 labelled synthetic images with instances, Cityscapes' 19 classes."""

from __future__ import annotations

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.urbansyn import urbansyn_specs
from gbw_d2.data.spec import datasets_root

register_datasets(urbansyn_specs("urbansyn", lambda: datasets_root() / "urbansyn"))
