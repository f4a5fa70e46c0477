"""The toy UrbanSyn: all 19 classes in a third look, with train ids, and instances as colours."""

from __future__ import annotations

import cv2
import numpy as np

from gbw_d2.label_spaces import CITYSCAPES_19, IGNORE_LABEL
from gbw_d2.toyworld.folder import Job, png_bytes
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout, image_bytes
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import DomainGap, ToyWorldSettings

# Closer to the target's look than the toy SYNTHIA, as UrbanSyn is to Cityscapes.
_SETTINGS = ToyWorldSettings(seed=9, num_target_train=300, gap=DomainGap(0.5, 0.5, 0.5, 1.0, 0.0))
_FOLDERS = ("ss", "panoptic", "rgb")


def _paths(job: Job) -> list[str]:
    return [f"{folder}/{folder}_{job[2] + 1:04d}.png" for folder in _FOLDERS]


def _encode(sample: ToySample, job: Job) -> Files:
    label = np.where(sample.class_map == IGNORE_LABEL, 19, sample.class_map).astype(np.uint8)
    thing = CITYSCAPES_19.is_thing[sample.class_map] & (sample.instance_map > 0)
    number = np.where(thing, sample.instance_map, 0)
    colors = np.stack((number % 256, number // 256, np.where(thing, label, 0)), axis=2)
    objects = cv2.cvtColor(colors.astype(np.uint8), cv2.COLOR_RGB2BGR)
    contents = (png_bytes(label), png_bytes(objects), image_bytes(sample))
    return dict(zip(_paths(job), contents, strict=True))


LAYOUTS.register("urbansyn")(
    Layout("urbansyn", 1, _SETTINGS, (("target", "train"),), _encode, _paths)
)
