"""Cross-City: four unlabelled cities (3200 images each), 100 labelled test images each."""

from __future__ import annotations

from gbw_d2.data.catalog import datasets_root
from gbw_d2.data.formats.crosscity import register_crosscity

register_crosscity("crosscity", lambda: datasets_root() / "crosscity")
