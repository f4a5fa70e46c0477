"""SYNTHIA-RAND-CITYSCAPES, the labelled synthetic source (9400 images)."""

from __future__ import annotations

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.synthia import synthia_specs
from gbw_d2.data.spec import datasets_root

register_datasets(synthia_specs("synthia", lambda: datasets_root() / "synthia"))
