"""The toy world in further official layouts, each in a folder of its own and made only when used.

They share the renderer with the toy SYNTHIA and Cityscapes and do not touch their files. A new one
is one file and one line here.
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
