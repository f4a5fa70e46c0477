"""The datasets; importing this package registers them. A new one is one file and one line here."""

from gbw_d2.data.datasets import (
    cityscapes,
    crosscity,
    foggy_cityscapes,
    gta5,
    mapillary_vistas,
    synthia,
    toy,
)

__all__ = [
    "cityscapes",
    "crosscity",
    "foggy_cityscapes",
    "gta5",
    "mapillary_vistas",
    "synthia",
    "toy",
]
