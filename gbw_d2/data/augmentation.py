"""Random scale, crop, flip and colour jitter, drawn from a given generator only.

Detectron2's augmentations draw from NumPy's global state, so that a sample would not be a pure
function of (seed, index); therefore the few that are needed are implemented here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL

# Maps a part of a label map to its class ids, 255 = ignore.
ClassesOf = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class AugmentationSettings:
    """The augmentations of a training image, in this order.

    Args:
        resize: (rows, columns) to which the whole image is resized first; None keeps its size.
        scale_range: lowest and highest factor of the random scale (uniform) that follows.
        short_sides: lengths, one of which is drawn for the shorter side in place of a random scale,
            pixels; () for none.
        crop_size: (rows, columns) of the random crop; smaller images are padded at the right and
            the bottom. None keeps the whole image.
        flip_probability: probability of a horizontal flip, 0..1.
        cat_max_ratio: the crop is redrawn while one class has at least this share of its labelled
            pixels, 0..1; 1 for off. Only for labelled images.
        crop_tries: maximum number of crops to draw; the last one is kept.
        color_jitter: brightness, contrast and saturation factors are drawn from 1 - j .. 1 + j.
        pad_value: padding of images, three values 0..255 in the image's channel order; padded
            labels are ignored.
    """

    resize: tuple[int, int] | None = None
    scale_range: tuple[float, float] = (1.0, 1.0)
    short_sides: tuple[int, ...] = ()
    crop_size: tuple[int, int] | None = None
    flip_probability: float = 0.5
    cat_max_ratio: float = 1.0
    crop_tries: int = 10
    color_jitter: float = 0.0
    pad_value: tuple[float, float, float] = (123.675, 116.28, 103.53)

    def __post_init__(self) -> None:
        low, high = self.scale_range
        if not 0 < low <= high:
            raise UserError(f"scale range is {self.scale_range}, expected 0 < low <= high")
        if self.short_sides and self.scale_range != (1.0, 1.0):
            raise UserError(
                f"short sides are {self.short_sides} and the scale range is {self.scale_range}; "
                "expected one alone: INPUT.SCALE_RANGE (1.0, 1.0), or () for the short sides"
            )
        for name in ("resize", "crop_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise UserError(f"{name} is {size}, expected (rows, columns), both at least 1")
        for name in ("flip_probability", "cat_max_ratio", "color_jitter"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"{name} is {value}, expected a number 0..1")
        if self.crop_tries < 1:
            raise UserError(f"crop_tries is {self.crop_tries}, expected at least 1")


@dataclass(frozen=True)
class WantedPixels:
    """A class that a crop should show, as requested by rare class sampling.

    Args:
        class_id: class id in the semantic map.
        pixels: the crop is redrawn until it has more than this many pixels of the class.
    """

    class_id: int
    pixels: float


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image (H, W, 3) to (rows, columns): area when shrinking, else bilinear."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=mode)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a map of ids (H, W) to (rows, columns) by the nearest pixel centre."""
    height, width = labels.shape
    if (height, width) == size:
        return labels
    # OpenCV's nearest neighbour is off the image's grid by half a pixel; its exact variant supports
    # 8 bits only.
    rows = (2 * np.arange(size[0]) + 1) * height // (2 * size[0])
    cols = (2 * np.arange(size[1]) + 1) * width // (2 * size[1])
    return labels[rows].take(cols, axis=1)


def crop_or_pad(
    array: np.ndarray,
    corner: tuple[int, int],
    size: tuple[int, int],
    fill: int | tuple[float, float, float],
) -> np.ndarray:
    """Crops ``size`` (rows, columns) at ``corner`` (top, left), with padding outside the array."""
    (top, left), (rows, cols) = corner, size
    part = array[top : top + rows, left : left + cols]
    if part.shape[:2] == (rows, cols):
        return part
    padded = np.empty((rows, cols, *array.shape[2:]), dtype=array.dtype)
    padded[:] = np.round(fill).astype(array.dtype)
    padded[: part.shape[0], : part.shape[1]] = part
    return padded


def _is_good_crop(
    semantic: np.ndarray, settings: AugmentationSettings, wanted: WantedPixels | None
) -> bool:
    counts = np.bincount(semantic.ravel(), minlength=IGNORE_LABEL + 1)[:IGNORE_LABEL]
    if settings.cat_max_ratio < 1 and counts.max() >= settings.cat_max_ratio * counts.sum():
        return False
    return wanted is None or bool(counts[wanted.class_id] > wanted.pixels)


def _draw_corner(
    shape: tuple[int, int],
    size: tuple[int, int],
    labels: np.ndarray | None,
    classes_of: ClassesOf,
    settings: AugmentationSettings,
    rng: np.random.Generator,
    wanted: WantedPixels | None,
) -> tuple[int, int]:
    judged = labels is not None and (settings.cat_max_ratio < 1 or wanted is not None)
    for _ in range(settings.crop_tries if judged else 1):
        top = int(rng.integers(max(shape[0] - size[0], 0) + 1))
        left = int(rng.integers(max(shape[1] - size[1], 0) + 1))
        if not judged:
            break
        assert labels is not None
        window = labels[top : top + size[0], left : left + size[1]]
        if _is_good_crop(classes_of(window), settings, wanted):
            break
    return top, left


def jitter_colors(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Scales brightness, contrast and saturation of an image (H, W, 3) uint8, in this order."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    pixels = image.astype(np.float32) * brightness
    pixels = (pixels - pixels.mean()) * contrast + pixels.mean()
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = (pixels - grey) * saturation + grey
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def _drawn_scale(
    size: tuple[int, int], settings: AugmentationSettings, rng: np.random.Generator
) -> float:
    if not settings.short_sides:
        return rng.uniform(*settings.scale_range)
    return settings.short_sides[rng.integers(len(settings.short_sides))] / min(size)


class Augmented(NamedTuple):
    """An augmented image, its label maps, and the positions of its rows.

    Attributes:
        image: (H, W, 3) uint8.
        label_maps: each (H, W), ids.
        rows: (H,) float32, position of each row in the whole image: 0 at its upper edge, 1 at its
            lower edge, above 1 on padding.
    """

    image: np.ndarray
    label_maps: list[np.ndarray]
    rows: np.ndarray


def augment(
    image: np.ndarray,
    label_maps: Sequence[tuple[np.ndarray, int]],
    settings: AugmentationSettings,
    rng: np.random.Generator,
    wanted: WantedPixels | None = None,
    classes_of: ClassesOf = np.asarray,
) -> Augmented:
    """Applies the same augmentation to an image and its label maps.

    Args:
        image: (H, W, 3) uint8.
        label_maps: pairs of a map of ids (H, W) and its value for padding; crops are accepted or
            redrawn by the first map.
        settings: the augmentations.
        rng: the only source of randomness.
        wanted: a class that the crop should show.
        classes_of: maps a part of the first map to class ids (255 = ignore); the default is the
            identity.

    Returns:
        The augmented image and maps, contiguous.
    """
    rows, cols = settings.resize or image.shape[:2]
    factor = _drawn_scale((rows, cols), settings, rng)
    scaled = (max(round(rows * factor), 1), max(round(cols * factor), 1))
    image = resize_image(image, scaled)
    maps = [resize_labels(labels, scaled) for labels, _ in label_maps]
    top = 0
    if settings.crop_size is not None:
        size = settings.crop_size
        judged = maps[0] if maps else None
        corner = _draw_corner(scaled, size, judged, classes_of, settings, rng, wanted)
        image, top = crop_or_pad(image, corner, size, settings.pad_value), corner[0]
        fills = [fill for _, fill in label_maps]
        maps = [
            crop_or_pad(labels, corner, size, fill)
            for labels, fill in zip(maps, fills, strict=True)
        ]
    if rng.random() < settings.flip_probability:
        image = image[:, ::-1]
        maps = [labels[:, ::-1] for labels in maps]
    if settings.color_jitter > 0:
        image = jitter_colors(image, settings.color_jitter, rng)
    places = (top + np.arange(len(image), dtype=np.float32) + 0.5) / scaled[0]
    maps = [np.ascontiguousarray(labels) for labels in maps]
    return Augmented(np.ascontiguousarray(image), maps, places)
