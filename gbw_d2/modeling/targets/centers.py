"""Centre heat map and offsets of Panoptic-DeepLab, from the segments that are visible in a crop.

Equal to Detectron2's ``PanopticDeepLabTargetGenerator`` with ``ignore_stuff_in_offset``, without
its loop over segments, and with one difference: a crowd region gets no centre. Detectron2 draws
one, whose Gaussian then marks a false centre on the pixels around the crowd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.ops.owners import at_owners, owner_sums
from gbw_d2.ops.segments import runs_of, segment_attributes

# Label entries of a sample, and targets of the heads.
CENTER = "center"  # (H, W) float32 heat map, 0..1
CENTER_WEIGHTS = "center_weights"  # (H, W) float32: 1 where the centre loss applies, 0 elsewhere
OFFSET = "offset"  # (2, H, W) float32, (dy, dx) in pixels from the pixel to its instance's centre
OFFSET_WEIGHTS = "offset_weights"  # (H, W) float32: 1 on non-crowd thing pixels
INSTANCE_CLASS = "instance_class"  # (H, W) int64 class id of the pixel's thing, 255 elsewhere
ENTRIES = (CENTER, CENTER_WEIGHTS, OFFSET, OFFSET_WEIGHTS, INSTANCE_CLASS)


def _stamp_gaussians(
    heat_map: np.ndarray, rows: np.ndarray, cols: np.ndarray, sigma: float
) -> None:
    """Draws a Gaussian at every centre into ``heat_map`` (H, W); the highest wins."""
    radius = int(np.ceil(3 * sigma)) + 1
    steps = np.arange(-radius, radius + 1)
    patch = np.exp(-(steps[:, None] ** 2 + steps[None, :] ** 2) / (2 * sigma**2))
    y, x = np.broadcast_arrays(
        rows[:, None, None] + steps[:, None], cols[:, None, None] + steps[None, :]
    )
    height, width = heat_map.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    values = np.broadcast_to(patch.astype(heat_map.dtype), inside.shape)[inside]
    np.maximum.at(heat_map.reshape(-1), y[inside] * width + x[inside], values)


def center_and_offset_targets(
    segment_map: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    thing_ids: Sequence[int],
    sigma: float = 8.0,
) -> dict[str, np.ndarray]:
    """Builds the targets of the centre and offset heads, after crop and flip.

    A centre is the mean position of the pixels of an instance that are in the map. Panoptic-DeepLab
    (Cheng et al., CVPR 2020), section 3.

    Args:
        segment_map: (H, W) segment ids, 0 = void.
        segments_info: COCO dicts; ``category_id`` in the same ids as ``thing_ids``, 255 = a class
            that the network does not have: treated as void.
        thing_ids: class ids of the things.
        sigma: standard deviation of the Gaussians in pixels of this map.

    Returns:
        Arrays under the names above:

        * centre (H, W) float32 in 0..1; centre weights (H, W) float32, 0 on void and crowds;
        * offset (2, H, W) float32, (dy, dx) in pixels from the pixel to its centre, 0 elsewhere;
          offset weights (H, W) float32, 1 on instances, 0 on stuff, void and crowds;
        * instance class (H, W) int64, 255 where no instance is.
    """
    height, width = segment_map.shape
    # Values are computed once per run of equal pixels, and expanded to pixels at the end.
    first, length, ids = runs_of(segment_map)
    numbers, categories, is_crowd = segment_attributes(ids, segments_info)
    known = categories != IGNORE_LABEL
    is_instance = np.isin(categories, np.asarray(thing_ids)) & known & ~is_crowd
    y, x = np.divmod(first, max(width, 1))

    def total(amounts: np.ndarray) -> np.ndarray:
        return np.bincount(numbers, weights=amounts, minlength=len(categories))

    def spread(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, length).reshape(height, width)

    pixels = total(length)
    divisor = np.maximum(pixels, 1)
    center_y = total(y * length) / divisor
    center_x = total(x * length + length * (length - 1) // 2) / divisor

    center = np.zeros((height, width), dtype=np.float32)
    visible = is_instance & (pixels > 0)
    _stamp_gaussians(
        center,
        np.rint(center_y[visible]).astype(np.intp),
        np.rint(center_x[visible]).astype(np.intp),
        sigma,
    )
    on_instance = spread(is_instance[numbers].astype(np.float32))
    offset = np.empty((2, height, width), dtype=np.float32)
    to_row = np.where(is_instance[numbers], center_y[numbers] - y, 0)
    offset[0] = spread(to_row.astype(np.float32))
    offset[1] = (spread(center_x[numbers]) - np.arange(width)) * on_instance
    return {
        CENTER: center,
        CENTER_WEIGHTS: spread((known & ~is_crowd)[numbers].astype(np.float32)),
        OFFSET: offset,
        OFFSET_WEIGHTS: on_instance,
        INSTANCE_CLASS: spread(np.where(is_instance, categories, IGNORE_LABEL)[numbers]),
    }


def taught_center_targets(
    owners: Tensor, classes: Tensor, weights: Tensor, is_thing: Tensor, sigma: float
) -> dict[str, Tensor]:
    """Builds the same targets from a batch of segments on the device.

    Args:
        owners: (N, H, W) int64, number of each pixel's segment, 0..S-1.
        classes: (N, S) int64 class ids, 255 = no segment.
        weights: (N, H, W) float32, weight of each pixel; void has weight 0.
        is_thing: (K,) bool.
        sigma: standard deviation of the Gaussians in pixels.

    Returns:
        tensors under the names above, the offset (N, 2, H, W) and all others (N, H, W).
    """
    height, width = owners.shape[1:]
    count, device = classes.shape[1], owners.device
    known = classes != IGNORE_LABEL
    things = known & is_thing[classes.clamp(max=len(is_thing) - 1)]
    own, on_instance = at_owners(classes, owners), at_owners(things, owners)
    areas = owner_sums(owners, count)
    steps = [
        torch.arange(length, device=device, dtype=torch.float32).view(shape).expand_as(owners)
        for length, shape in ((height, (1, -1, 1)), (width, (1, 1, -1)))
    ]
    means = [owner_sums(owners, count, step) / areas.clamp(min=1) for step in steps]
    offset = torch.stack([at_owners(m, owners) - s for m, s in zip(means, steps, strict=True)], 1)
    visible = things & (areas > 0)
    return {
        CENTER: _gaussians(means[0], means[1], visible, (height, width), sigma),
        CENTER_WEIGHTS: torch.where(own == IGNORE_LABEL, 0.0, weights),
        OFFSET: torch.where(on_instance.unsqueeze(1), offset, 0.0),
        OFFSET_WEIGHTS: torch.where(on_instance, weights, 0.0),
        INSTANCE_CLASS: torch.where(on_instance, own, IGNORE_LABEL),
    }


def _gaussians(
    rows: Tensor, columns: Tensor, visible: Tensor, size: tuple[int, int], sigma: float
) -> Tensor:
    """Draws a Gaussian at every visible centre (N, S); the highest wins: (N, H, W)."""
    radius = math.ceil(3 * sigma) + 1
    steps = torch.arange(-radius, radius + 1, device=rows.device)
    heights = torch.exp(-(steps.view(-1, 1) ** 2 + steps**2) / (2 * sigma**2))
    y = rows.round().long()[:, :, None, None] + steps.view(-1, 1)
    x = columns.round().long()[:, :, None, None] + steps
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1]) & visible[:, :, None, None]
    place = torch.where(inside, y * size[1] + x, 0).flatten(1)
    values = torch.where(inside, heights, 0.0).flatten(1)
    flat = torch.zeros(len(rows), size[0] * size[1], device=rows.device)
    return flat.scatter_reduce_(1, place, values, "amax").view(-1, *size)


@dataclass(frozen=True)
class CenterTargetGenerator:
    """Makes the label entries of the centre and offset heads in a loader process.

    Attributes:
        thing_ids: class ids of the things.
        sigma: standard deviation of the centres' Gaussians, pixels.
    """

    thing_ids: tuple[int, ...]
    sigma: float

    def __call__(
        self,
        class_map: np.ndarray,
        segment_map: np.ndarray | None,
        segments_info: Sequence[Mapping[str, Any]],
    ) -> dict[str, Tensor]:
        """See :class:`gbw_d2.modeling.protocol.TargetGenerator`."""
        if segment_map is None:
            return {}
        targets = center_and_offset_targets(segment_map, segments_info, self.thing_ids, self.sigma)
        return {name: torch.from_numpy(array) for name, array in targets.items()}
