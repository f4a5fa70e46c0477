"""The toy Mapillary Vistas: JPEG images, panoptic PNGs and the JSON file of 2018's categories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.data.formats.files import png_size
from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.toyworld.coco import list_segments
from gbw_d2.toyworld.folder import Job, png_bytes, write_file
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout, jpeg_bytes
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import ToyWorldSettings

# Vistas' categories (1..66) of each train id; the second one is used in every other column block of
# 32 pixels (stuff) or for every other instance (things).
CATEGORIES: dict[int, tuple[int, int]] = {
    0: (14, 25),  # road, general lane marking
    1: (16, 3),  # sidewalk, kerb
    2: (18, 18),
    3: (7, 7),
    4: (4, 4),
    5: (46, 48),  # pole, utility pole
    6: (49, 49),
    7: (51, 50),  # front and back of signs
    8: (31, 31),
    9: (30, 30),
    10: (28, 28),
    11: (20, 20),
    12: (21, 22),  # bicyclist, motorcyclist
    13: (56, 56),
    14: (62, 62),
    15: (55, 55),
    16: (59, 59),
    17: (58, 58),
    18: (53, 53),
}
_EGO_VEHICLE = 65
NUM_CATEGORIES = 66
_FOLDERS = {"train": "training", "val": "validation"}
# A segment's id is (number * 128 + category) * 2 + crowd, so that the PNG file alone determines the
# segments.
_SLOTS = 128


def _paths(job: Job) -> list[str]:
    folder, name = _FOLDERS[job[1]], f"toy{job[2]:05d}"
    return [f"{folder}/panoptic/{name}.png", f"{folder}/images/{name}.jpg"]


def segment_ids(sample: ToySample) -> np.ndarray:
    """Returns the panoptic map, (H, W) int32 segment ids below 2 ** 24, 0 = unlabelled."""
    columns = np.arange(sample.class_map.shape[1]) // 32 % 2
    other = np.where(sample.instance_map > 0, sample.instance_map % 2, columns[None])
    table = np.zeros((256, 2), dtype=np.int32)
    for train_id, pair in CATEGORIES.items():
        table[train_id] = pair
    table[IGNORE_LABEL] = (0, _EGO_VEHICLE)
    category = table[sample.class_map, other]
    # A crowd is a single segment, so its category must not depend on the column.
    category = np.where(sample.crowd_map, table[sample.class_map, 0], category)
    # Above 65535 from the first instance on, so that all three colours are needed.
    number = np.where(sample.instance_map > 0, sample.instance_map + 300, 0)
    ids = (number * _SLOTS + category) * 2 + sample.crowd_map
    return np.where(category > 0, ids, 0).astype(np.int32)


def _encode(sample: ToySample, job: Job) -> Files:
    ids = segment_ids(sample)
    colors = np.stack([ids // 65536, ids // 256 % 256, ids % 256], axis=2).astype(np.uint8)
    return dict(zip(_paths(job), (png_bytes(colors), jpeg_bytes(sample)), strict=True))


def _annotation(path: Path) -> dict[str, Any]:
    segments = list_segments(path, lambda id_: id_ // 2 % _SLOTS, lambda id_: id_ % 2 == 1)
    return {"image_id": path.stem, "file_name": path.name, "segments_info": segments}


def _complete(root: Path) -> None:
    things = {c for t, pair in CATEGORIES.items() if CLASSES[t].is_thing for c in pair}
    categories = [
        {"id": i, "name": f"category {i}", "supercategory": "toy", "isthing": int(i in things)}
        for i in range(1, NUM_CATEGORIES + 1)
    ]
    for folder in _FOLDERS.values():
        paths = sorted((root / folder / "panoptic").glob("*.png"))
        annotations = [_annotation(path) for path in paths]
        images = []
        for path in paths:
            rows, columns = png_size(path)
            images.append(
                {
                    "id": path.stem,
                    "file_name": f"{path.stem}.jpg",
                    "height": rows,
                    "width": columns,
                }
            )
        content = {"images": images, "annotations": annotations, "categories": categories}
        target = root / folder / "panoptic" / "panoptic_2018.json"
        write_file(target, json.dumps(content).encode())


LAYOUTS.register("mapillary_vistas")(
    Layout(
        "mapillary_vistas",
        1,
        ToyWorldSettings(seed=4, image_size=(144, 192), num_target_train=100, num_target_val=30),
        (("target", "train"), ("target", "val")),
        _encode,
        _paths,
        _complete,
    )
)
