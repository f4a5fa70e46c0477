"""GTA5, the labelled synthetic source with all 19 classes (24966 images, no instances)."""

from __future__ import annotations

from gbw_d2.data.catalog import datasets_root
from gbw_d2.data.formats.gta5 import register_gta5

register_gta5("gta5", lambda: datasets_root() / "gta5")
