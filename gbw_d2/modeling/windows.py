"""Windows of a fixed size in a batch of images: their positions, cropping and pasting."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gbw_d2.modeling.protocol import Size


class Place(NamedTuple):
    """Upper left corner of a window.

    Attributes:
        top: first row, pixels.
        left: first column, pixels.
    """

    top: int
    left: int


def drawn_places(
    draws: Sequence[np.random.Generator], image_size: Size, window: Size, multiple: int
) -> list[Place]:
    """Draws one position per image uniformly among those that fit.

    Args:
        draws: one generator per image.
        image_size: (rows, columns), multiples of ``multiple``.
        window: (rows, columns), likewise, and not larger.
        multiple: top and left are multiples of this, pixels.
    """
    steps = [
        (length - part) // multiple + 1 for length, part in zip(image_size, window, strict=True)
    ]
    return [Place(*(multiple * int(rng.integers(count)) for count in steps)) for rng in draws]


def sliding_places(image_size: Size, window: Size, multiple: int) -> list[Place]:
    """Returns positions of windows that cover an image, each overlapping the previous one by half.

    Args:
        image_size: (rows, columns), multiples of ``multiple``.
        window: (rows, columns), likewise, and not larger.
        multiple: top and left are multiples of this, pixels.
    """

    def starts(length: int, part: int) -> list[int]:
        step = max(multiple, part // 2 // multiple * multiple)
        return [*range(0, length - part, step), length - part]

    rows, columns = map(starts, image_size, window)
    return [Place(*corner) for corner in itertools.product(rows, columns)]


def cut_out(maps: Tensor, places: Sequence[Place], window: Size) -> Tensor:
    """Crops one window of each image, from (N, ..., H, W) to (N, ..., rows, columns).

    Args:
        maps: images, or maps of them at the same size.
        places: one per image.
        window: (rows, columns).
    """
    high, wide = window
    return torch.stack(
        [
            image[..., top : top + high, left : left + wide]
            for image, (top, left) in zip(maps, places, strict=True)
        ]
    )


def pasted(
    windows: Sequence[Tensor], places: Sequence[Sequence[Place]], stride: int, size: Size
) -> tuple[Tensor, Tensor]:
    """Pastes maps of windows at their positions, averaged where windows overlap.

    Args:
        windows: each (N, C, rows, columns), maps of one window of each image.
        places: positions of each window, one per image, in image pixels.
        stride: pixels per cell of the maps, which divides every position.
        size: (rows, columns) of the result, cells.

    Returns:
        (N, C, H, W), 0 outside windows, and (N, 1, H, W) bool, True inside.
    """
    first = windows[0]
    total = first.new_zeros(*first.shape[:2], *size)
    count = first.new_zeros(len(first), 1, *size)
    for maps, corners in zip(windows, places, strict=True):
        high, wide = maps.shape[-2:]
        for image, (top, left) in enumerate(corners):
            row, column = top // stride, left // stride
            part = (image, slice(None), slice(row, row + high), slice(column, column + wide))
            total[part] += maps[image]
            count[part] += 1
    return total / count.clamp(min=1), count > 0
