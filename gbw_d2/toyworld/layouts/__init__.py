"""The toy world in further official layouts, each in its own folder and made only when used.

They share the renderer with the toy SYNTHIA and Cityscapes. A new layout needs one file and one
line here.
"""

from gbw_d2.toyworld.layouts import (
    acdc,
    camvid,
    crosscity,
    foggy,
    gta5,
    held_out,
    large,
    own,
    urbansyn,
    vistas,
)
from gbw_d2.toyworld.layouts.base import LAYOUTS, Layout, check_layout, write_layout

__all__ = [
    "LAYOUTS",
    "Layout",
    "acdc",
    "camvid",
    "check_layout",
    "crosscity",
    "foggy",
    "gta5",
    "held_out",
    "large",
    "own",
    "urbansyn",
    "vistas",
    "write_layout",
]
