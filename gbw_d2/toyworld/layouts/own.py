"""The example of docs/your_own_data.md: your own folders and values, and the data.yaml for them."""

from __future__ import annotations

import numpy as np

from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.toyworld.folder import Job, png_bytes, write_file
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout, jpeg_bytes
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import DomainGap, ToyWorldSettings

_OWN_SETTINGS = ToyWorldSettings(
    seed=2, num_source=60, num_target_train=60, num_target_val=20, gap=DomainGap()
)
_OWN_FOLDERS = {("source", "train"): "synthetic", ("target", "train"): "real_unlabelled"}
_OWN_LABELLED = (("source", "train"), ("target", "val"))
OWN_DESCRIPTION = """\
classes:
  road: 1
  sidewalk: 2
  building: 3
  wall: 4
  fence: 5
  pole: 6
  traffic light: 7
  traffic sign: 8
  vegetation: 9
  terrain: 10
  sky: 11
  person: 12
  rider: 13
  car: 14
  truck: 15
  bus: 16
  train: 17
  motorcycle: 18
  bicycle: 19
  void: [0, 20]
ignore_rows: {bottom: 0.1}
splits:
  source:
    images: synthetic/images
    labels: synthetic/labels
    instances: synthetic/instances
    label_suffix: _label.png
  target:
    images: real_unlabelled/images
  val:
    images: real_labelled/images
    labels: real_labelled/labels
    instances: real_labelled/instances
    label_suffix: _label.png
"""


def _own_paths(job: Job) -> list[str]:
    folder, name = _OWN_FOLDERS.get(job[:2], "real_labelled"), f"frame_{job[2]:04d}"
    labels = [f"labels/{name}_label.png", f"instances/{name}.png"]
    parts = [*(labels if job[:2] in _OWN_LABELLED else []), f"images/{name}.jpg"]
    return [f"{folder}/{part}" for part in parts]


def _encode_own(sample: ToySample, job: Job) -> Files:
    label = np.where(sample.class_map == IGNORE_LABEL, 0, sample.class_map + 1).astype(np.uint8)
    contents = [jpeg_bytes(sample)]
    if job[:2] in _OWN_LABELLED:
        instances = sample.instance_map.astype(np.uint16)
        contents = [png_bytes(label), png_bytes(instances), *contents]
    return dict(zip(_own_paths(job), contents, strict=True))


LAYOUTS.register("own")(
    Layout(
        "own",
        2,
        _OWN_SETTINGS,
        (*_OWN_FOLDERS, ("target", "val")),
        _encode_own,
        _own_paths,
        lambda root: write_file(root / "data.yaml", OWN_DESCRIPTION.encode()),
    )
)
