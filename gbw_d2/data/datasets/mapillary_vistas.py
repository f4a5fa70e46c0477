"""Mapillary Vistas, a target from all over the world: 18000 training and 2000 test images."""

from __future__ import annotations

from gbw_d2.data.catalog import datasets_root
from gbw_d2.data.formats.vistas import register_vistas

register_vistas("vistas", lambda: datasets_root() / "mapillary_vistas")
