"""Prediction of one image of any size, with a sliding window, flip and multi-scale averaging."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.data.augmentation import resize_image
from gbw_d2.errors import UserError
from gbw_d2.inference.network import dense_outputs

Size = tuple[int, int]  # rows, columns


@dataclass(frozen=True)
class Views:
    """How an image is shown to the network; the default is once, whole, as in evaluation.

    Args:
        scales: factors by which it is resized; one view each.
        flip: also mirror each view.
        window: (rows, columns) of a sliding window over each view, pixels; None = the whole view.
        overlap: share of a window that the next one covers too, 0..1.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: Size | None = None
    overlap: float = 1 / 3

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < s < math.inf for s in self.scales):
            raise UserError(f"scales are {self.scales}; expected numbers above 0, such as 0.75 1")
        if self.window is not None and min(self.window) < 1:
            raise UserError(f"window is {self.window}; expected rows and columns, 1 or more")
        if not 0 <= self.overlap < 1:
            raise UserError(f"overlap is {self.overlap}; expected 0 or more and less than 1")

    @property
    def is_one(self) -> bool:
        """True where the image is shown once and whole."""
        return self.scales == (1.0,) and not self.flip and self.window is None

    def __iter__(self) -> Iterator[tuple[float, bool]]:
        return itertools.product(self.scales, (False, True) if self.flip else (False,))


def network_size(image_size: Size, limit: tuple[int, ...]) -> Size:
    """Returns the largest size of an image's shape that fits into ``limit``.

    Evaluation resizes to INPUT.TEST_SIZE itself; where an image has another shape than the test
    set, that would distort it.

    Args:
        image_size: (rows, columns) of the file.
        limit: INPUT.TEST_SIZE; () keeps the file's size.

    Raises:
        UserError: ``limit`` is no size.
    """
    if not limit:
        return image_size
    if len(limit) != 2 or min(limit) < 1:
        raise UserError(f"INPUT.TEST_SIZE is {limit}; expected (rows, columns), or () for none")
    factor = min(limit[0] / image_size[0], limit[1] / image_size[1])
    return max(1, round(image_size[0] * factor)), max(1, round(image_size[1] * factor))


@torch.inference_mode()
def predict(
    model: nn.Module, image: np.ndarray, size: Size | None = None, views: Views | None = None
) -> dict[str, Any]:
    """Predicts one image.

    Args:
        model: a network in evaluation mode.
        image: (H, W, 3) uint8, channels in INPUT.FORMAT order.
        size: to which it is brought for the network; None = as it is.
        views: None = one, the whole image; then the result is that of the network's ``forward``.

    Returns:
        The network's result at the size of ``image``: ``sem_seg`` (K, H, W) logits (of
        several views: log-probabilities), and ``panoptic_seg`` where it predicts instances.

    Raises:
        UserError: views are asked of a network that cannot merge them.
    """
    size = size or image.shape[:2]
    sample = {keys.HEIGHT: image.shape[0], keys.WIDTH: image.shape[1]}
    if views is None or views.is_one:
        return model([{**sample, keys.IMAGE: _tensor(resize_image(image, size))}])[0]
    if not hasattr(model, "result"):
        raise UserError(
            f"{type(model).__name__} has no post-processing of dense outputs, so views cannot be "
            "averaged; leave out the window, flip and scales"
        )
    return model.result(merged_outputs(model, image, size, views), size, sample)


def merged_outputs(
    model: nn.Module, image: np.ndarray, size: Size, views: Views
) -> dict[str, Tensor]:
    """Averages probabilities, centre heat maps and offsets over all views.

    Offsets are (dy, dx) in pixels of ``size``: a mirrored dx changes its sign, and a view that is
    larger has longer ones.

    Returns:
        As :func:`dense_outputs` at ``size``, with log-probabilities as logits.
    """
    total: dict[str, Tensor] = {}
    count = 0
    for scale, flip in views:
        outputs = _view_outputs(model, image, size, scale, flip, views)
        outputs[keys.SEMANTIC_LOGITS] = outputs[keys.SEMANTIC_LOGITS].softmax(dim=0)
        total = {key: total[key] + value if total else value for key, value in outputs.items()}
        count += 1
    total = {key: value / count for key, value in total.items()}
    probability = total[keys.SEMANTIC_LOGITS]
    # Not 0: resizing multiplies by 0, which turns minus infinity into NaN.
    total[keys.SEMANTIC_LOGITS] = probability.clamp_min(torch.finfo(torch.float32).tiny).log()
    return total


def _view_outputs(
    model: nn.Module, image: np.ndarray, size: Size, scale: float, flip: bool, views: Views
) -> dict[str, Tensor]:
    shown = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    picture = _tensor(resize_image(image, shown))
    outputs = windowed_outputs(
        model, picture.flip(2) if flip else picture, views.window, views.overlap
    )
    if flip:
        outputs = {key: value.flip(2) for key, value in outputs.items()}
    if shown != size:
        outputs = {
            key: F.interpolate(value[None], size=size, mode="bilinear", align_corners=False)[0]
            for key, value in outputs.items()
        }
    if keys.OFFSET in outputs:
        dy, dx = size[0] / shown[0], size[1] / shown[1]
        factor = outputs[keys.OFFSET].new_tensor([dy, -dx if flip else dx])
        outputs[keys.OFFSET] = outputs[keys.OFFSET] * factor.view(2, 1, 1)
    return outputs


def windowed_outputs(
    model: nn.Module, image: Tensor, window: Size | None, overlap: float
) -> dict[str, Tensor]:
    """Runs a network on overlapping windows of an image and blends them where they overlap.

    A window counts less towards its border, where the network sees least of the surroundings. An
    instance that no window holds whole is predicted in parts.

    Args:
        model: as in :func:`dense_outputs`.
        image: (3, H, W) uint8.
        window: (rows, columns); None = one window, the image.
        overlap: share of a window that the next one covers too.

    Returns:
        As :func:`dense_outputs`.
    """
    rows, columns = image.shape[1:]
    if window is None or (window[0] >= rows and window[1] >= columns):
        return dense_outputs(model, image)
    high, wide = min(window[0], rows), min(window[1], columns)
    sums: dict[str, Tensor] = {}
    for top, left in itertools.product(
        window_starts(rows, high, overlap), window_starts(columns, wide, overlap)
    ):
        place = (slice(None), slice(top, top + high), slice(left, left + wide))
        outputs = dense_outputs(model, image[place])
        first = next(iter(outputs.values()))
        weight = (_taper(high)[:, None] * _taper(wide)).to(first)[None]
        for key, value in (*((k, v * weight) for k, v in outputs.items()), ("weight", weight)):
            if key not in sums:
                sums[key] = first.new_zeros(len(value), rows, columns)
            sums[key][place] += value
    weights = sums.pop("weight")
    return {key: value / weights for key, value in sums.items()}


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Returns where windows start so that they cover ``length`` pixels, evenly spread.

    Args:
        length: pixels to cover.
        window: pixels of a window, at most ``length``.
        overlap: least share of a window that the next one covers too.
    """
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((length - window) / step) + 1
    return [(length - window) * i // max(1, count - 1) for i in range(count)]


def _taper(length: int) -> Tensor:
    distance = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(distance, distance.flip(0)) / length


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy())
