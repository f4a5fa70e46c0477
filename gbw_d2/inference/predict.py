"""Prediction on one image of any size, with a sliding window, flip and multi-scale averaging."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.data.augmentation import resize_image
from gbw_d2.errors import UserError
from gbw_d2.modeling.protocol import Outputs, Size, View


@dataclass(frozen=True)
class Views:
    """The views of an image to average over; by default one view of the whole image.

    Args:
        scales: resize factors, one view each.
        flip: whether to add the mirror image of each view.
        window: (rows, columns) of a sliding window over each view, pixels; None = the whole view.
        overlap: overlap of neighbouring windows as a share of a window, 0..1.
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
        """Whether there is a single view of the whole image."""
        return self.scales == (1.0,) and not self.flip and self.window is None

    def __iter__(self) -> Iterator[tuple[float, bool]]:
        return itertools.product(self.scales, (False, True) if self.flip else (False,))


def network_size(image_size: Size, limit: tuple[int, ...]) -> Size:
    """Returns the largest size of an image's shape that fits into ``limit``.

    Evaluation resizes to INPUT.TEST_SIZE exactly, which would distort images of another aspect
    ratio.

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
        size: (rows, columns) of the network's input; None for the image's size.
        views: None for a single view; the result is then that of the network's ``forward``.

    Returns:
        The network's result at the size of ``image``: ``sem_seg`` (K, H, W) logits (of
        several views: log-probabilities), and ``panoptic_seg`` where it predicts instances.
    """
    size = size or image.shape[:2]
    sample = {keys.HEIGHT: image.shape[0], keys.WIDTH: image.shape[1]}
    if views is None or views.is_one:
        return model([{**sample, keys.IMAGE: _tensor(resize_image(image, size))}])[0]
    return model.merge_views(shown_views(model, image, size, views), size, sample)


def shown_views(model: nn.Module, image: np.ndarray, size: Size, views: Views) -> Iterator[View]:
    """Yields the views of an image; the network runs when a view's windows are iterated."""
    for scale, flip in views:
        shown = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        picture = _tensor(resize_image(image, shown))
        picture = picture.flip(2) if flip else picture
        yield View(shown, flip, _windows(model, picture, views.window, views.overlap))


def _windows(
    model: nn.Module, image: Tensor, window: Size | None, overlap: float
) -> Iterator[tuple[tuple[slice, slice], Outputs]]:
    """Runs a network on overlapping windows of an image (3, H, W) uint8."""
    rows, columns = image.shape[1:]
    high, wide = (
        (rows, columns) if window is None else (min(window[0], rows), min(window[1], columns))
    )
    for top, left in itertools.product(
        window_starts(rows, high, overlap), window_starts(columns, wide, overlap)
    ):
        place = (slice(top, top + high), slice(left, left + wide))
        images = model.images([{keys.IMAGE: image[(slice(None), *place)]}])
        yield place, model.outputs(model.features(images), (images.shape[-2], images.shape[-1]))


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Returns evenly spaced start positions of windows that cover ``length`` pixels.

    Args:
        length: pixels to cover.
        window: pixels of a window, at most ``length``.
        overlap: minimum overlap of neighbouring windows as a share of a window.
    """
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((length - window) / step) + 1
    return [(length - window) * i // max(1, count - 1) for i in range(count)]


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy())
