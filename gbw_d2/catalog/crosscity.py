"""Cross-City: four unlabelled cities (3200 images each), 100 labelled test images each."""

from __future__ import annotations

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.crosscity import NUM_TEST, crosscity_specs
from gbw_d2.data.spec import datasets_root

register_datasets(
    crosscity_specs("crosscity", lambda: datasets_root() / "crosscity", released=NUM_TEST)
)
