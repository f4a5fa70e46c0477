"""Averages dense predictions over views of one image: windows, scales and mirror images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from gbw_d2.modeling.protocol import Outputs, Size, View

Maps = dict[str, Tensor]


def merged_maps(
    views: Iterable[View],
    image_size: Size,
    maps_of: Callable[[Outputs], Mapping[str, Tensor]],
    probabilities: str,
    displacements: frozenset[str] = frozenset(),
) -> Maps:
    """Averages the dense maps of a network over views; logits are averaged as probabilities.

    A window's weight decreases towards its border, where the network sees the least context. An
    instance that is not completely inside a window is predicted in parts.

    Args:
        views: views of one image.
        image_size: (rows, columns) to which all are resized.
        maps_of: maps outputs to dense maps by name, (1, C, H, W) at the size of the network's
            input.
        probabilities: name of the map of logits (K, H, W).
        displacements: names of maps (2, H, W) of (dy, dx) in pixels: mirroring changes the sign of
            dx, and resizing scales both.

    Returns:
        maps (C, H, W) by name, with log-probabilities as logits.
    """
    total: Maps = {}
    count = 0
    for view in views:
        maps = _unmirrored(_blended(view, maps_of), view, image_size, displacements)
        maps[probabilities] = maps[probabilities].softmax(dim=0)
        total = {key: total[key] + value if total else value for key, value in maps.items()}
        count += 1
    total = {key: value / count for key, value in total.items()}
    # Not 0, because resizing multiplies by 0, which would turn minus infinity into NaN.
    smallest = torch.finfo(torch.float32).tiny
    total[probabilities] = total[probabilities].clamp_min(smallest).log()
    return total


def _blended(view: View, maps_of: Callable[[Outputs], Mapping[str, Tensor]]) -> Maps:
    """Returns the maps of a whole view, blended where its windows overlap."""
    rows, columns = view.shown
    sums: Maps = {}
    for place, outputs in view.windows:
        high, wide = (part.stop - part.start for part in place)
        # The padding to the network's stride is not part of the image.
        maps = {k: v[0, :, :high, :wide].to(torch.float32) for k, v in maps_of(outputs).items()}
        if (high, wide) == view.shown:
            return maps
        first = next(iter(maps.values()))
        weight = (_taper(high)[:, None] * _taper(wide)).to(first)[None]
        for key, value in (*((k, v * weight) for k, v in maps.items()), ("weight", weight)):
            if key not in sums:
                sums[key] = first.new_zeros(len(value), rows, columns)
            sums[key][(slice(None), *place)] += value
    weights = sums.pop("weight")
    return {key: value / weights for key, value in sums.items()}


def _unmirrored(maps: Maps, view: View, image_size: Size, displacements: frozenset[str]) -> Maps:
    if view.flip:
        maps = {key: value.flip(2) for key, value in maps.items()}
    if view.shown != image_size:
        maps = {
            key: F.interpolate(value[None], size=image_size, mode="bilinear", align_corners=False)[
                0
            ]
            for key, value in maps.items()
        }
    dy, dx = image_size[0] / view.shown[0], image_size[1] / view.shown[1]
    for key in displacements & maps.keys():
        factor = maps[key].new_tensor([dy, -dx if view.flip else dx])
        maps[key] = maps[key] * factor.view(2, 1, 1)
    return maps


def _taper(length: int) -> Tensor:
    distance = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(distance, distance.flip(0)) / length
