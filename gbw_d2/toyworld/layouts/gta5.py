"""The toy GTA5: all 19 classes in the source's look, labels as palette PNGs, one of an odd size."""

from __future__ import annotations

import cv2

from gbw_d2.toyworld.folder import Job
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout, image_bytes, palette_png
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import DomainGap, ToyWorldSettings

# The source's look with terrain, trucks and trains, and with different scenes.
_GTA5_SETTINGS = ToyWorldSettings(
    seed=1, num_target_train=300, gap=DomainGap(0.0, 0.0, 0.0, 1.0, 0.0)
)
# As in GTA5, where some labels have other sizes than their images.
GTA5_ODD_INDEX = 2


def _gta5_paths(job: Job) -> list[str]:
    return [f"{folder}/{job[2] + 1:05d}.png" for folder in ("labels", "images")]


def _encode_gta5(sample: ToySample, job: Job) -> Files:
    label = sample.raw_map
    if job[2] == GTA5_ODD_INDEX:
        rows, columns = label.shape
        size = (columns, rows + max(rows // 64, 1))
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return dict(zip(_gta5_paths(job), (palette_png(label), image_bytes(sample)), strict=True))


LAYOUTS.register("gta5")(
    Layout("gta5", 1, _GTA5_SETTINGS, (("target", "train"),), _encode_gta5, _gta5_paths)
)
