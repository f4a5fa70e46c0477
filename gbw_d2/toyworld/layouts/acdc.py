"""The toy ACDC: the toy Cityscapes' scenes of other seeds in fog, at night, in rain and in snow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.class_tables import colors_of_ids, look_up
from gbw_d2.data.formats.files import png_size
from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.toyworld.coco import list_segments
from gbw_d2.toyworld.folder import Job, png_bytes, write_file
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout, image_bytes
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import DomainGap, ToyWorldSettings

CONDITIONS = ("fog", "night", "rain", "snow")
_WHITE = np.array([225, 228, 232], dtype=np.float32)
_DARK = np.array([0.28, 0.30, 0.40], dtype=np.float32)
# Distance in metres at which fog reduces contrast to a third.
_SIGHT = 25.0


def _fog(image: np.ndarray, depth: np.ndarray, index: int) -> np.ndarray:
    clear = np.exp(-depth / _SIGHT)[..., None]
    return image * clear + _WHITE * (1 - clear)


def _night(image: np.ndarray, depth: np.ndarray, index: int) -> np.ndarray:
    # Headlamps make near objects brighter.
    return image * _DARK * (1 + 0.9 * np.exp(-depth / 12.0))[..., None]


def _rain(image: np.ndarray, depth: np.ndarray, index: int) -> np.ndarray:
    streaks = cv2.blur(_dots(image.shape[:2], index, 0.01), (1, 9)) * 9
    return cv2.blur(image, (3, 3)) * 0.75 + 70 * np.minimum(streaks, 1)[..., None]


def _snow(image: np.ndarray, depth: np.ndarray, index: int) -> np.ndarray:
    flakes = cv2.dilate(_dots(image.shape[:2], index, 0.006), np.ones((2, 2)))[..., None]
    ground = np.linspace(0, 0.55, image.shape[0], dtype=np.float32)[:, None, None]
    return (image * (1 - ground) + _WHITE * ground) * (1 - flakes) + 245 * flakes


def _dots(shape: tuple[int, int], index: int, share: float) -> np.ndarray:
    return (np.random.default_rng(index).random(shape) < share).astype(np.float32)


_WEATHER = dict(zip(CONDITIONS, (_fog, _night, _rain, _snow), strict=True))


# Train id -> label id; void is 0, as in Cityscapes' panoptic files.
_LABEL_ID = np.zeros(IGNORE_LABEL + 1, dtype=np.int32)
_LABEL_ID[[c.train_id for c in CLASSES]] = [c.cityscapes_id for c in CLASSES]
_IS_THING = {c.cityscapes_id: c.is_thing for c in CLASSES}
_PANOPTIC = "_gt_panoptic.png"


def _paths(job: Job) -> list[str]:
    _, split, index = job
    place = f"{CONDITIONS[index % len(CONDITIONS)]}/{split}/GOPR0001"
    stem = f"{place}/GOPR0001_frame_{index:06d}"
    return [
        f"gt/{stem}_gt_labelTrainIds.png",
        f"gt_panoptic/{stem}{_PANOPTIC}",
        f"rgb_anon/{stem}_rgb_anon.png",
    ]


def segment_ids(sample: ToySample) -> np.ndarray:
    """Returns the panoptic map, (H, W) int32: a label id, or 1000 label id + number of a thing."""
    label_ids, numbers = look_up(_LABEL_ID, sample.class_map), sample.instance_map
    return np.where(numbers > 0, label_ids * 1000 + numbers, label_ids).astype(np.int32)


def _encode(sample: ToySample, job: Job) -> Files:
    weather = _WEATHER[CONDITIONS[job[2] % len(CONDITIONS)]]
    image = weather(sample.image.astype(np.float32), sample.depth, job[2])
    seen = replace(sample, image=np.clip(image, 0, 255).astype(np.uint8))
    segments = png_bytes(colors_of_ids(segment_ids(sample)))
    contents = (png_bytes(sample.class_map), segments, image_bytes(seen))
    return dict(zip(_paths(job), contents, strict=True))


def _category_of(segment: int) -> int:
    return segment // 1000 if segment >= 1000 else segment


def _is_crowd(segment: int) -> bool:
    return segment < 1000 and _IS_THING[segment]


def _annotation(root: Path, path: Path) -> dict[str, Any]:
    name = str(path.relative_to(root))
    image_id = path.name.removesuffix(_PANOPTIC)
    segments = list_segments(path, _category_of, _is_crowd)
    return {"image_id": image_id, "file_name": name, "segments_info": segments}


def _complete(root: Path) -> None:
    folder = root / "gt_panoptic"
    categories = [
        {"id": c.cityscapes_id, "name": c.name, "isthing": int(c.is_thing)} for c in CLASSES
    ]
    for condition in CONDITIONS:
        for split in ("train", "val"):
            paths = sorted((folder / condition / split).glob(f"*/*{_PANOPTIC}"))
            images = [
                {
                    "id": path.name.removesuffix(_PANOPTIC),
                    "file_name": str(path.relative_to(folder)).replace(_PANOPTIC, "_rgb_anon.png"),
                    **dict(zip(("height", "width"), png_size(path), strict=True)),
                }
                for path in paths
            ]
            annotations = [_annotation(folder, path) for path in paths]
            content = {"images": images, "annotations": annotations, "categories": categories}
            target = folder / condition / f"{condition}_{split}_gt_panoptic.json"
            write_file(target, json.dumps(content).encode())


LAYOUTS.register("acdc")(
    Layout(
        "acdc",
        2,
        ToyWorldSettings(seed=10, num_target_train=160, num_target_val=40, gap=DomainGap()),
        (("target", "train"), ("target", "val")),
        _encode,
        _paths,
        _complete,
    )
)
