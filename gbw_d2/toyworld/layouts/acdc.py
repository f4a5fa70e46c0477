"""The toy ACDC: the toy Cityscapes' scenes of other seeds in fog, at night, in rain and in snow."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from gbw_d2.toyworld.folder import Job, png_bytes
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout, image_bytes
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import DomainGap, ToyWorldSettings

CONDITIONS = ("fog", "night", "rain", "snow")
_WHITE = np.array([225, 228, 232], dtype=np.float32)
_DARK = np.array([0.28, 0.30, 0.40], dtype=np.float32)
# Metres after which fog leaves a third of the contrast.
_SIGHT = 25.0


def _fog(image: np.ndarray, depth: np.ndarray, index: int) -> np.ndarray:
    clear = np.exp(-depth / _SIGHT)[..., None]
    return image * clear + _WHITE * (1 - clear)


def _night(image: np.ndarray, depth: np.ndarray, index: int) -> np.ndarray:
    # Headlamps: what is near is brighter.
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


def _paths(job: Job) -> list[str]:
    _, split, index = job
    place = f"{CONDITIONS[index % len(CONDITIONS)]}/{split}/GOPR0001"
    stem = f"{place}/GOPR0001_frame_{index:06d}"
    return [f"gt/{stem}_gt_labelTrainIds.png", f"rgb_anon/{stem}_rgb_anon.png"]


def _encode(sample: ToySample, job: Job) -> Files:
    weather = _WEATHER[CONDITIONS[job[2] % len(CONDITIONS)]]
    image = weather(sample.image.astype(np.float32), sample.depth, job[2])
    seen = replace(sample, image=np.clip(image, 0, 255).astype(np.uint8))
    contents = (png_bytes(sample.class_map), image_bytes(seen))
    return dict(zip(_paths(job), contents, strict=True))


LAYOUTS.register("acdc")(
    Layout(
        "acdc",
        1,
        ToyWorldSettings(seed=10, num_target_train=160, num_target_val=40, gap=DomainGap()),
        (("target", "train"), ("target", "val")),
        _encode,
        _paths,
    )
)
