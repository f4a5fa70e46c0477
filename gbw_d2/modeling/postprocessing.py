"""From semantic logits, a centre heat map and offsets to a panoptic map.

Panoptic-DeepLab (Cheng et al., CVPR 2020), section 3.3.

The rules are Detectron2's; the memory is not: distances are taken for thing pixels only and in
blocks, so it does not grow with centres x pixels, and maps may be smaller than ``top_k`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError

from detectron2.structures import Boxes, Instances

# Centres x pixels of one block of the distance table: 64 MB in float32.
_BLOCK = 1 << 24


@dataclass(frozen=True)
class PanopticSettings:
    """Thresholds of the post-processing.

    Args:
        center_threshold: a centre is a heat map value above this, 0..1.
        nms_kernel: side of the window in which a centre must be the maximum, pixels, odd.
        top_k: centres kept per image.
        stuff_area: smaller stuff regions become void, pixels.
    """

    center_threshold: float = 0.1
    nms_kernel: int = 7
    top_k: int = 200
    stuff_area: int = 2048

    def __post_init__(self) -> None:
        if self.nms_kernel < 1 or self.nms_kernel % 2 == 0:
            raise UserError(f"nms_kernel is {self.nms_kernel}; expected an odd number of pixels")
        if self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}; expected 1 or more")


def find_centers(center: Tensor, settings: PanopticSettings) -> tuple[Tensor, Tensor]:
    """Finds instance centres as local maxima of the heat map.

    Args:
        center: (H, W) float heat map.
        settings: threshold, window and number.

    Returns:
        (P, 2) int64 (y, x) in raster order, and (P,) scores; P <= top_k.
    """
    pooled = F.max_pool2d(
        center[None, None], settings.nms_kernel, stride=1, padding=settings.nms_kernel // 2
    )[0, 0]
    peaks = (center == pooled) & (center > settings.center_threshold)
    scores = torch.where(peaks, center, center.new_tensor(-torch.inf)).flatten()
    best, index = scores.topk(min(settings.top_k, scores.numel()))
    index = index[best > settings.center_threshold].sort().values
    width = center.shape[1]
    return torch.stack([index // width, index % width], dim=1), scores[index]


def group_pixels(centers: Tensor, offset: Tensor, pixels: Tensor) -> Tensor:
    """Gives each pixel the nearest centre of the point that it votes for.

    Args:
        centers: (P, 2) (y, x), P >= 1.
        offset: (2, H, W) (dy, dx) in pixels.
        pixels: (M,) flat indices of the pixels to group.

    Returns:
        (M,) int64 index of the centre, 0..P-1; the first one wins a tie.
    """
    width = offset.shape[2]
    votes = torch.stack([pixels // width, pixels % width], dim=1) + offset.flatten(1)[:, pixels].T
    points = centers.to(votes.dtype)
    block = max(1, _BLOCK // len(points))
    nearest = [
        # Squared distances by subtraction: the expanded form cancels for far-away points.
        (
            (part[:, None, 0] - points[None, :, 0]) ** 2
            + (part[:, None, 1] - points[None, :, 1]) ** 2
        ).argmin(dim=1)
        for part in votes.split(block)
    ]
    return torch.cat(nearest) if nearest else pixels.new_zeros(0)


def panoptic_from_centers(
    sem_logits: Tensor,
    center: Tensor,
    offset: Tensor,
    *,
    thing_ids: Sequence[int],
    settings: PanopticSettings | None = None,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Merges the three predictions into a panoptic map that covers each pixel at most once.

    Args:
        sem_logits: (K, H, W) float, one plane per class id.
        center: (1, H, W) or (H, W) float heat map.
        offset: (2, H, W) float, (dy, dx) in pixels from a pixel to its centre.
        thing_ids: class ids whose instances are counted.
        settings: thresholds.

    Returns:
        (H, W) int32 segment ids, 0 = void and 1..S; and S dictionaries with ``id``,
        ``category_id`` (class id), ``isthing``, ``area`` (pixels), ``score`` (0..1: mean
        probability of the class, for things times the centre's height).

    Raises:
        ValueError: the three maps do not have one size.
    """
    settings = settings or PanopticSettings()
    num_classes = sem_logits.shape[0]
    center = center.reshape(center.shape[-2:])
    if not sem_logits.shape[1:] == center.shape == offset.shape[1:]:
        raise ValueError(
            f"maps of different sizes: semantic {tuple(sem_logits.shape[1:])}, "
            f"centre {tuple(center.shape)}, offset {tuple(offset.shape[1:])}"
        )
    labels = sem_logits.argmax(dim=0).flatten()
    is_thing = torch.zeros(num_classes, dtype=torch.bool, device=labels.device)
    is_thing[list(thing_ids)] = True
    pixels = is_thing[labels].nonzero()[:, 0]
    centers, heights = find_centers(center, settings)

    segments = torch.zeros_like(labels)
    classes, scores = labels.new_zeros(0), sem_logits.new_zeros(0)
    if len(centers) and len(pixels):
        instance = group_pixels(centers, offset, pixels)
        votes = torch.bincount(
            instance * num_classes + labels[pixels], minlength=len(centers) * num_classes
        ).view(len(centers), num_classes)
        used = votes.sum(dim=1) > 0
        segments[pixels] = used.cumsum(0)[instance]
        classes, scores = votes.argmax(dim=1)[used], heights[used].clamp(0, 1)
    stuff_areas = torch.bincount(labels, minlength=num_classes)
    stuff = ((stuff_areas >= max(1, settings.stuff_area)) & ~is_thing).nonzero()[:, 0]
    stuff_segment = torch.zeros_like(stuff_areas)
    stuff_segment[stuff] = torch.arange(len(stuff), device=stuff.device) + len(classes) + 1
    segments = torch.where(is_thing[labels], segments, stuff_segment[labels])
    classes = torch.cat([classes, stuff])
    scores = torch.cat([scores, scores.new_ones(len(stuff))])
    table = _segment_table(segments, classes, scores, sem_logits, is_thing)
    return segments.view(center.shape).to(torch.int32), table


def _segment_table(
    segments: Tensor, classes: Tensor, scores: Tensor, sem_logits: Tensor, is_thing: Tensor
) -> list[dict[str, Any]]:
    """Lists the segments; the one place where results are copied to the host."""
    count = len(classes)
    areas = torch.bincount(segments, minlength=count + 1)[1:]
    # Probability of each pixel's segment class; void pixels fall into bin 0 and are dropped.
    of_pixel = torch.cat([classes.new_zeros(1), classes])[segments]
    flat = sem_logits.flatten(1)
    probability = (flat.gather(0, of_pixel[None])[0] - flat.logsumexp(dim=0)).exp()
    sums = torch.bincount(segments, weights=probability.double(), minlength=count + 1)[1:]
    scores = scores * sums / areas
    rows = zip(
        classes.tolist(),
        is_thing[classes].tolist(),
        areas.tolist(),
        scores.tolist(),
        strict=True,
    )
    return [
        {"id": i, "category_id": c, "isthing": thing, "area": area, "score": score}
        for i, (c, thing, area, score) in enumerate(rows, start=1)
    ]


def instances_of(panoptic_map: Tensor, segments_info: Sequence[dict[str, Any]]) -> Instances:
    """Lists the things of a panoptic map as Detectron2 ``Instances``; empty where there is none.

    Args:
        panoptic_map: (H, W) int segment ids.
        segments_info: of :func:`panoptic_from_centers`.

    Returns:
        Instances with ``pred_classes`` (class ids), ``scores`` (0..1), ``pred_masks`` (S, H, W)
        bool and ``pred_boxes`` (x0, y0, x1, y1), ends exclusive.
    """
    things = [s for s in segments_info if s["isthing"]]
    device = panoptic_map.device
    ids = torch.tensor([s["id"] for s in things], dtype=panoptic_map.dtype, device=device)
    masks = panoptic_map[None] == ids[:, None, None]
    instances = Instances(tuple(panoptic_map.shape))
    instances.pred_classes = torch.tensor(
        [s["category_id"] for s in things], dtype=torch.int64, device=device
    )
    instances.scores = torch.tensor(
        [s["score"] for s in things], dtype=torch.float32, device=device
    )
    instances.pred_masks = masks
    instances.pred_boxes = Boxes(_boxes_of(masks))
    return instances


def _boxes_of(masks: Tensor) -> Tensor:
    rows, columns = masks.any(dim=2), masks.any(dim=1)
    first = [axis.int().argmax(dim=1) for axis in (columns, rows)]
    last = [axis.shape[1] - axis.flip(1).int().argmax(dim=1) for axis in (columns, rows)]
    return torch.stack([*first, *last], dim=1).float()
