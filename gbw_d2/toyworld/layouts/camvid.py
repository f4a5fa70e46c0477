"""The toy CamVid: SegNet's form, 11 classes as indices, day or dusk by the files' names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gbw_d2.data.formats.camvid import SEGNET_CLASSES, SEGNET_VOID, place_of
from gbw_d2.label_spaces import CAMVID_11, CITYSCAPES_19, training_table
from gbw_d2.toyworld.folder import Job, png_bytes
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout, image_bytes
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import DomainGap, ToyWorldSettings

# Frames of the drives, in the order of the target's images.
_FRAMES = (
    *(f"0016E5_{10 * i:05d}" for i in range(60)),
    *(f"0001TP_{7000 + 10 * i:06d}" for i in range(40)),
    *(f"0016E5_{7959 + 2 * i:05d}" for i in range(20)),
    *(f"Seq05VD_f{10 * i:05d}" for i in range(20)),
    *(f"0001TP_{9000 + 10 * i:06d}" for i in range(20)),
)
# Factors of the light at dusk: red, green, blue.
_DUSK = np.array([0.5, 0.42, 0.42])
_SETTINGS = ToyWorldSettings(seed=8, num_target_train=len(_FRAMES), gap=DomainGap())

_INDEX_OF_11 = np.full(256, SEGNET_VOID, dtype=np.uint8)
_INDEX_OF_11[[CAMVID_11.id_of[name] for name in SEGNET_CLASSES]] = range(SEGNET_VOID)
_INDEX = _INDEX_OF_11[training_table(CITYSCAPES_19, CAMVID_11)]


def _paths(job: Job) -> list[str]:
    frame = _FRAMES[job[2]]
    split, _ = place_of(frame)
    return [f"{split}annot/{frame}.png", f"{split}/{frame}.png"]


def _encode(sample: ToySample, job: Job) -> Files:
    if place_of(_FRAMES[job[2]])[1] == "dusk":
        sample = replace(sample, image=(sample.image * _DUSK).astype(np.uint8))
    contents = (png_bytes(_INDEX[sample.class_map]), image_bytes(sample))
    return dict(zip(_paths(job), contents, strict=True))


LAYOUTS.register("camvid")(Layout("camvid", 1, _SETTINGS, (("target", "train"),), _encode, _paths))
