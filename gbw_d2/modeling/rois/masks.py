"""Masks between two sizes: an image's map inside boxes, and a head's mask inside an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

# Pixels of all masks of one block, 128 MB in float32.
_BLOCK = 1 << 25


@torch.no_grad()
def masks_in_boxes(
    numbers: Tensor, boxes: Sequence[Tensor], instances: Sequence[np.ndarray], side: int
) -> Tensor:
    """Cuts each box out of the mask of its instance, as Detectron2's ``BitMasks`` does.

    Each instance's mask is made once, for any number of boxes, and in blocks.

    Args:
        numbers: (N, H, W) int, number of the instance at each pixel, from 1.
        boxes: per image (F_i, 4).
        instances: per image (F_i,) row of the instance, from 0; on the host, which need not wait.
        side: m.

    Returns:
        (F, m, m) bool.
    """
    _, height, width = numbers.shape
    block = max(1, _BLOCK // (height * width))
    parts = [
        _masks_of_image(number, box, rows, side, block)
        for number, box, rows in zip(numbers, boxes, instances, strict=True)
    ]
    return torch.cat(parts)


def _masks_of_image(
    numbers: Tensor, boxes: Tensor, rows: np.ndarray, side: int, block: int
) -> Tensor:
    device = boxes.device
    if not len(rows):
        return torch.zeros(0, side, side, dtype=torch.bool, device=device)
    # In the order of their instances, so that a block of instances is a slice of the boxes.
    order = np.argsort(rows, kind="stable")
    wanted, place = np.unique(rows[order], return_inverse=True)
    there = torch.from_numpy(order).to(device, non_blocking=True)
    wanted_there = torch.from_numpy(wanted).to(device, non_blocking=True)
    place_there = torch.from_numpy(place).to(device, non_blocking=True)
    found = torch.empty(len(rows), side, side, dtype=torch.bool, device=device)
    for start in range(0, len(wanted), block):
        part = wanted_there[start : start + block]
        masks = (numbers == (part + 1).view(-1, 1, 1)).float().unsqueeze(1)
        first, last = np.searchsorted(place, (start, start + block)).tolist()
        chosen = there[first:last]
        image = (place_there[first:last] - start).unsqueeze(1)
        rois = torch.cat([image.to(boxes), boxes[chosen]], dim=1)
        cut = roi_align(masks, rois.float(), side, 1.0, 0, True).squeeze(1)
        found[chosen] = cut >= 0.5
    return found


def pasted_region(box: Sequence[float], size: tuple[int, int]) -> tuple[slice, slice]:
    """Returns the rows and columns of an image that a mask in a box can touch, as Detectron2's."""
    x0, y0 = (max(int(place // 1) - 1, 0) for place in box[:2])
    x1, y1 = (
        min(int(-(-place // 1)) + 1, length)
        for place, length in zip(box[2:], size[::-1], strict=True)
    )
    return slice(y0, max(y0, y1)), slice(x0, max(x0, x1))


def pasted_mask(
    mask: Tensor, box: Sequence[float], place: tuple[slice, slice], threshold: float
) -> Tensor:
    """Pastes the mask of one box into a region of the image, as Detectron2 does.

    Args:
        mask: (m, m) probabilities.
        box: x0, y0, x1, y1.
        place: rows and columns of :func:`pasted_region`.
        threshold: probability from which on a pixel belongs to the mask.

    Returns:
        (h, w) bool.
    """
    axes = []
    for part, first, last in ((place[0], box[1], box[3]), (place[1], box[0], box[2])):
        points = torch.arange(part.start, part.stop, device=mask.device, dtype=torch.float32) + 0.5
        axes.append((points - first) / (last - first) * 2 - 1)
    y, x = axes
    grid = torch.stack(
        [x[None, :].expand(len(y), len(x)), y[:, None].expand(len(y), len(x))], dim=2
    )
    drawn = F.grid_sample(mask[None, None].float(), grid[None], align_corners=False)[0, 0]
    return drawn >= threshold
