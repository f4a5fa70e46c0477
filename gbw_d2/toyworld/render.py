"""One image of the toy world with its labels: a pure function of settings, domain, split, index."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from gbw_d2.cityscapes_classes import raw_to_train_id
from gbw_d2.toyworld.appearance import add_light, add_sensor, add_texture
from gbw_d2.toyworld.canvas import RAW_IDS, Camera
from gbw_d2.toyworld.looks import look_of
from gbw_d2.toyworld.scene import draw_scene
from gbw_d2.toyworld.settings import (
    CROWDED_INDEX,
    DOMAINS,
    EMPTY_INDEX,
    SPLITS,
    ToyWorldSettings,
)

# Images are drawn larger by this factor and then reduced, for smooth edges.
_OVERSAMPLING = 2
_RAW_ID_COLUMN = {"source": "synthia_id", "target": "cityscapes_id"}


@dataclass(frozen=True)
class ToySample:
    """One rendered image.

    Args:
        image: (H, W, 3) uint8 RGB.
        class_map: (H, W) uint8 train ids, 255 = void.
        raw_map: (H, W) uint8 raw ids of the domain's own data set, SYNTHIA's or Cityscapes'.
        instance_map: (H, W) int32, 0 = none; 1..N, unique within the image across classes.
        crowd_map: (H, W) bool, True on thing pixels of a crowd region (instance 0).
        depth: (H, W) float32, metres from the camera.
    """

    image: np.ndarray
    class_map: np.ndarray
    raw_map: np.ndarray
    instance_map: np.ndarray
    crowd_map: np.ndarray
    depth: np.ndarray


def _things_in(split: str, index: int) -> str:
    if split != "train":
        return "usual"
    return {EMPTY_INDEX: "none", CROWDED_INDEX: "crowded"}.get(index, "usual")


def _depth_map(segments: np.ndarray, depths: np.ndarray, camera: Camera) -> np.ndarray:
    """Returns metres at each pixel: a segment's depth, and for the ground (0) that of its row."""
    rows = _OVERSAMPLING * np.arange(segments.shape[0]) + 0.5 * _OVERSAMPLING
    ground = camera.focal * camera.height / np.maximum(rows - camera.horizon, 1.0)
    depth = depths[segments]
    return np.where(depth == 0.0, np.minimum(ground, 200.0)[:, None], depth).astype(np.float32)


def render(settings: ToyWorldSettings, domain: str, split: str, index: int) -> ToySample:
    """Renders one image and its labels.

    Args:
        settings: the world.
        domain: "source" or "target".
        split: "train" or "val".
        index: number of the image within its split, >= 0.

    Returns:
        The image with its label maps.

    Raises:
        ValueError: no such domain or split.
    """
    if domain not in SPLITS or split not in SPLITS[domain]:
        raise ValueError(f"toy world: no split '{split}' of domain '{domain}'; known: {SPLITS}")
    key = [settings.seed, DOMAINS.index(domain), SPLITS[domain].index(split), index]
    rng = np.random.default_rng(key)
    look, (rows, columns) = look_of(settings, domain), settings.image_size
    k = _OVERSAMPLING
    things, crowd = _things_in(split, index), domain == "target"
    canvas, camera = draw_scene(look, rows * k, columns * k, rng, things, crowd)

    segments = np.ascontiguousarray(canvas.segments[k // 2 :: k, k // 2 :: k])
    table = canvas.table
    raw_ids = np.array([RAW_IDS[s.label][DOMAINS.index(domain)] for s in table], dtype=np.uint8)
    raw_map = raw_ids[segments]
    class_map = raw_to_train_id(_RAW_ID_COLUMN[domain])[raw_map]
    crowd_map = np.array([s.is_crowd for s in table])[segments]

    visible = np.bincount(segments.ravel(), minlength=len(table)) > 0
    counted = visible & np.array([s.is_instance for s in table])
    instance_map = np.where(counted, np.cumsum(counted), 0).astype(np.int32)[segments]

    image = cv2.resize(canvas.color, (columns, rows), interpolation=cv2.INTER_AREA)
    image = image.astype(np.float32)
    add_texture(image, class_map, look, rng)
    depth = _depth_map(segments, np.array([s.depth for s in table]), camera)
    image = add_sensor(add_light(image, depth, look, rng), look, rng)
    border = raw_map == RAW_IDS["out of roi"][1] if domain == "target" else np.zeros_like(crowd_map)
    image[border] = 0
    return ToySample(image, class_map, raw_map, instance_map, crowd_map, depth)
