"""Merges semantic logits, a centre heat map and offsets into a panoptic map.

Panoptic-DeepLab (Cheng et al., CVPR 2020), section 3.3.

The maps are those of Detectron2's ``get_panoptic_segmentation``, ties included:

* equal heat map values within one window are all peaks; of ``top_k`` or more peaks only those
  strictly above the ``top_k``-th highest value are kept;
* of two centres at the same distance (as ``torch.norm`` rounds it) the first in raster order wins;
* of two classes with as many pixels in an instance, and of two equal logits, the smaller id wins.

It is faster than Detectron2's, which makes a table of all pixels x centres: here a grid of tiles
lists the centres that can be the nearest for a vote in a tile, mostly one or two.
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

# Elements in one block of a table of distances or probabilities: 4 MB in float32.
_BLOCK = 1 << 20
# Side of the tiles that share a list of near centres, in pixels.
_TILE = 16
# Two squared distances with a smaller relative difference may be equal distances in float32.
_ROUNDING = 2e-6


@dataclass(frozen=True)
class PanopticSettings:
    """Thresholds of the post-processing.

    Args:
        center_threshold: a centre is a heat map value above this, 0..1.
        nms_kernel: side of the window in which a centre must be the maximum, pixels, odd.
        top_k: of so many peaks or more, only those strictly above the ``top_k``-th highest value
            are centres, as in Detectron2.
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
        (P, 2) int64 (y, x) in raster order, and (P,) scores; P < top_k.
    """
    side, pad = settings.nms_kernel, settings.nms_kernel // 2
    pooled = F.max_pool2d(center[None, None], (side, 1), stride=1, padding=(pad, 0))
    pooled = F.max_pool2d(pooled, (1, side), stride=1, padding=(0, pad))[0, 0]
    peaks = ((center == pooled) & (center > max(settings.center_threshold, 0.0))).nonzero()
    scores = center[peaks[:, 0], peaks[:, 1]]
    if len(peaks) >= settings.top_k:
        kept = scores > scores.topk(settings.top_k).values[-1]
        peaks, scores = peaks[kept], scores[kept]
    return peaks, scores


def group_pixels(centers: Tensor, offset: Tensor, pixels: Tensor) -> Tensor:
    """Assigns each pixel to the centre nearest to the point that it votes for.

    Args:
        centers: (P, 2) (y, x), P >= 1.
        offset: (2, H, W) (dy, dx) in pixels.
        pixels: (M,) flat indices of the pixels to group.

    Returns:
        (M,) int64 index of the centre, 0..P-1; the first one wins a tie.
    """
    height, width = offset.shape[1:]
    y = pixels.div(width, rounding_mode="floor")
    flat = offset.flatten(1)
    votes_y = y + flat[0, pixels]
    votes_x = (pixels - y * width) + flat[1, pixels]
    near, count = _near_centers(centers, height, width)
    columns = -(-width // _TILE)
    # False also for NaN.
    inside = (votes_y >= 0) & (votes_y < height) & (votes_x >= 0) & (votes_x < width)
    tile = (votes_y / _TILE).long() * columns + (votes_x / _TILE).long()
    tile = torch.where(inside, tile, 0)
    nearest = near[tile, 0]
    candidates = torch.where(inside, count[tile], len(centers))
    # Grouped by powers of four, so that the few votes with many candidates do not enlarge the table
    # of all votes.
    low, wide = 1, near.shape[1]
    while low < wide:
        high = min(4 * low, wide)
        some = (inside & (candidates > low) & (candidates <= high)).nonzero()[:, 0]
        for part in some.split(max(1, _BLOCK // high)):
            rows = near[tile[part], :high]
            nearest[part] = _nearest(votes_y[part], votes_x[part], centers, rows)
        low = high
    everyone = torch.arange(len(centers), device=centers.device)[None]
    for part in (~inside).nonzero()[:, 0].split(max(1, _BLOCK // len(centers))):
        nearest[part] = _nearest(votes_y[part], votes_x[part], centers, everyone)
    return nearest


def _near_centers(centers: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Lists for each tile the centres that can be nearest to a point in it.

    Returns:
        (T, C) int64 indices of centres, ascending, padded with -1; (T,) number of centres.
    """
    # A centre is excluded if its distance to the tile's nearest point exceeds another's to the
    # farthest point.
    inner, outer = [], []
    for axis, length in enumerate((height, width)):
        start = torch.arange(0, length, _TILE, device=centers.device)[:, None]
        before, after = start - centers[:, axis], centers[:, axis] - (start + _TILE)
        inner.append(torch.maximum(before, after).clamp(min=0).float().square())
        outer.append(torch.maximum(before.abs(), after.abs()).float().square())
    shape = (-1, len(centers))
    closest = (inner[0][:, None] + inner[1][None]).view(shape).sqrt()
    bound = (outer[0][:, None] + outer[1][None]).view(shape).amin(dim=1, keepdim=True).sqrt()
    # The slack covers the rounding of float32 distances.
    possible = closest <= bound + 1e-5 * (height + width)
    count = possible.sum(dim=1)
    tile, index = possible.nonzero(as_tuple=True)
    rank = torch.arange(len(tile), device=tile.device) - (count.cumsum(0) - count)[tile]
    near = index.new_full((len(count), int(count.max())), -1)
    near[tile, rank] = index
    return near, count


def _nearest(votes_y: Tensor, votes_x: Tensor, centers: Tensor, rows: Tensor) -> Tensor:
    """Returns (M,) indices of the nearest centre among ``rows``, (M, C) or (1, C), -1 = none."""
    dy = centers[rows, 0] - votes_y[:, None]
    dx = centers[rows, 1] - votes_x[:, None]
    # By subtraction: the expanded form of the square cancels for far-away points.
    squared = (dy * dy + dx * dx).masked_fill_(rows < 0, torch.inf)
    least, place = squared.min(dim=1)
    close = (squared <= least[:, None] * (1 + _ROUNDING)).sum(dim=1) > 1
    tied = close.nonzero()[:, 0]
    # The square root is needed: its rounding makes ties of distances that differ in the last bit.
    distance = torch.stack([dy[tied], dx[tied]], dim=-1).norm(dim=-1)
    none = (rows < 0).expand(len(votes_y), -1)[tied]
    place[tied] = distance.masked_fill_(none, torch.inf).argmin(dim=1)
    return rows.expand(len(votes_y), -1).gather(1, place[:, None])[:, 0]


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
    # On the CPU this is three times as fast as argmax.
    highest, labels = (part.flatten() for part in sem_logits.max(dim=0))
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
    classes_of = torch.cat([classes.new_zeros(1), classes])
    probability = class_probabilities(sem_logits.flatten(1), highest, classes_of[segments])
    table = segment_table(segments, classes, scores, probability, is_thing)
    return segments.view(center.shape).to(torch.int32), table


def class_probabilities(logits: Tensor, highest: Tensor, classes: Tensor) -> Tensor:
    """Computes the softmax of (K, M) logits at one class per pixel (M,).

    Args:
        logits: (K, M).
        highest: (M,) their maximum.
        classes: (M,) int64.

    Returns:
        (M,) probabilities.
    """
    block = max(1, _BLOCK // len(logits))
    parts = zip(logits.split(block, dim=1), highest.split(block), classes.split(block), strict=True)
    return torch.cat(
        [
            (part.gather(0, chosen[None])[0] - top).exp() / (part - top).exp_().sum(dim=0)
            for part, top, chosen in parts
        ]
    )


def segment_table(
    segments: Tensor, classes: Tensor, scores: Tensor, probability: Tensor, is_thing: Tensor
) -> list[dict[str, Any]]:
    """Lists the segments; the only place where results are copied to the host.

    Args:
        segments: (M,) segment number of each pixel, 0 = void, 1..S.
        classes: (S,) class ids.
        scores: (S,) score of each segment, 0..1.
        probability: (M,) 0..1; its mean over a segment is a factor of the score.
        is_thing: (K,) bool.

    Returns:
        S dictionaries with ``id``, ``category_id``, ``isthing``, ``area`` (pixels), ``score``.
    """
    count = len(classes)
    areas = torch.bincount(segments, minlength=count + 1)[1:]
    # Void pixels fall into bin 0 and are dropped.
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
    """Returns the things of a panoptic map as Detectron2 ``Instances``, possibly empty.

    Args:
        panoptic_map: (H, W) int segment ids.
        segments_info: the table of :func:`panoptic_from_centers`.

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
    instances.pred_boxes = Boxes(boxes_of_masks(masks))
    return instances


def boxes_of_masks(masks: Tensor) -> Tensor:
    rows, columns = masks.any(dim=2), masks.any(dim=1)
    first = [axis.int().argmax(dim=1) for axis in (columns, rows)]
    last = [axis.shape[1] - axis.flip(1).int().argmax(dim=1) for axis in (columns, rows)]
    return torch.stack([*first, *last], dim=1).float()
