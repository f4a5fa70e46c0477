"""Labels boxes as objects or background, and samples those to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher

# Share of a box's pixels from which on an ignore region makes it neither object nor background.
IGNORED_SHARE = 0.5


def image_generators(
    draws: Sequence[np.random.Generator] | None, images: int, device: torch.device
) -> list[torch.Generator | None]:
    """Returns one generator per image, which depends on the image's own draws alone.

    Args:
        draws: one per image; None takes torch's own generator, as Detectron2 does.
        images: N.
        device: where boxes are drawn.
    """
    if draws is None:
        return [None] * images
    return [
        torch.Generator(device).manual_seed(int(draw.integers(2**63, dtype=np.uint64)))
        for draw in draws
    ]


def match_boxes(
    boxes: Tensor, there: Tensor, candidates: Tensor, matcher: Matcher
) -> tuple[Tensor, Tensor]:
    """Finds the instance that each candidate overlaps most, and labels the candidate.

    Detectron2's ``Matcher``, but without a look at values, and an instance that no candidate
    overlaps claims none (Detectron2's makes objects of all candidates that overlap it by 0).

    Args:
        boxes: (S, 4) of the instances.
        there: (S,) bool, False for rows without an instance.
        candidates: (M, 4).
        matcher: holds thresholds and labels.

    Returns:
        (M,) int64 row of the instance, and (M,) int64 label: 1 object, 0 background, -1 neither.
    """
    device, count = candidates.device, len(candidates)
    labels = torch.tensor(matcher.labels).to(device, non_blocking=True)
    if not len(boxes):
        return torch.zeros(count, dtype=torch.int64, device=device), labels[0].expand(count)
    overlap = box_overlaps(boxes.masked_fill(~there.unsqueeze(1), 0), candidates)
    best, rows = overlap.max(dim=0)
    limits = torch.tensor(matcher.thresholds[1:-1]).to(device, non_blocking=True)
    found = labels[torch.bucketize(best, limits, right=True)]
    if matcher.allow_low_quality_matches:
        most = overlap.max(dim=1, keepdim=True).values
        claimed = (overlap == most.masked_fill(most == 0, torch.inf)).any(dim=0)
        found = torch.where(claimed, torch.ones_like(found), found)
    return rows, found


def box_overlaps(boxes: Tensor, candidates: Tensor) -> Tensor:
    """Computes intersection over union, bit for bit as Detectron2's ``pairwise_iou``.

    Columns and rows by themselves and in place: Detectron2's pairs of (S, M, 2), of which the last
    axis is too short for vector instructions, take most of the time of matching anchors.

    Args:
        boxes: (S, 4) x0, y0, x1, y1.
        candidates: (M, 4) likewise.

    Returns:
        (S, M), 0..1; 0 where a box has no area.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    other = (candidates[:, 2] - candidates[:, 0]) * (candidates[:, 3] - candidates[:, 1])
    x0, y0, x1, y1 = boxes.t().unsqueeze(2)
    left, top, right, bottom = candidates.t().contiguous()
    shared = torch.minimum(x1, right).sub_(torch.maximum(x0, left)).clamp_(min=0)
    shared *= torch.minimum(y1, bottom).sub_(torch.maximum(y0, top)).clamp_(min=0)
    # Nothing is shared with a box without area: any divisor but 0 does.
    area = area.masked_fill(area == 0, 1).unsqueeze(1)
    return shared.div_((area + other).sub_(shared))


def ignored_shares(ignored: Tensor, boxes: Tensor) -> Tensor:
    """Computes the share of each box's pixels inside the image that lies in ignore regions.

    Args:
        ignored: (H, W) bool.
        boxes: (M, 4) x0, y0, x1, y1, rounded to whole pixels, and cut off at the image.

    Returns:
        (M,) float32, 0..1; 0 for a box without pixels.
    """
    height, width = ignored.shape
    sums = torch.zeros(height + 1, width + 1, dtype=torch.int32, device=ignored.device)
    sums[1:, 1:] = ignored.cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)
    x0, x1 = boxes[:, 0::2].round().clamp(0, width).long().unbind(1)
    y0, y1 = boxes[:, 1::2].round().clamp(0, height).long().unbind(1)
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0)).clamp(min=1)


def without_ignored(labels: Tensor, background: int, ignored: Tensor, candidates: Tensor) -> Tensor:
    """Makes -1 of the background labels (M,) of boxes that mostly lie in ignore regions (H, W)."""
    unknown = ignored_shares(ignored, candidates) >= IGNORED_SHARE
    return labels.masked_fill((labels == background) & unknown, -1)


@dataclass(frozen=True)
class DrawnRows:
    """Which boxes of each image are learned from: as many places as may be drawn, some unused.

    Attributes:
        objects: (N, O) int64, rows of the objects.
        is_object: (N, O) bool, which of these places are used, those first.
        rest: (N, B) int64, rows of the background.
        is_rest: (N, B) bool, likewise.
    """

    objects: Tensor
    is_object: Tensor
    rest: Tensor
    is_rest: Tensor


def draw_rows(
    labels: Tensor,
    number: int,
    positive_fraction: float,
    background: int,
    generators: Sequence[torch.Generator | None],
) -> DrawnRows:
    """Draws boxes to learn from as Detectron2's ``subsample_labels`` does, of all images at once.

    Each box draws a number, and those with the greatest are taken. Shapes do not depend on how many
    objects there are, so that the host does not wait; the price is that the draws are not those of
    Detectron2's own permutations.

    Args:
        labels: (N, M), -1 = neither, ``background``, or an object's class.
        number: boxes wanted of each image in all.
        positive_fraction: most of them that are objects, 0..1.
        background: label of the background.
        generators: one per image, on the labels' device; None for torch's own.
    """
    device, count = labels.device, labels.shape[1]
    draws = torch.stack([torch.rand(count, generator=g, device=device) for g in generators])
    background_here = labels == background
    objects = (labels != -1) & ~background_here
    most = min(count, int(number * positive_fraction))
    first, rows = draws.masked_fill(~objects, -1).topk(most, dim=1)
    is_object = first >= 0
    second, other = draws.masked_fill(~background_here, -1).topk(min(count, number), dim=1)
    places = torch.arange(second.shape[1], device=device)
    is_rest = (second >= 0) & (places < number - is_object.sum(1, keepdim=True))
    return DrawnRows(rows, is_object, other, is_rest)


def box_deltas(transform: Box2BoxTransform, boxes: Tensor, truth: Tensor) -> Tensor:
    """Computes what moves ``boxes`` to ``truth``, both (..., 4), as Detectron2's ``get_deltas``.

    It does not check the widths, for which the host would wait.
    """
    size, true_size = boxes[..., 2:] - boxes[..., :2], truth[..., 2:] - truth[..., :2]
    center, true_center = boxes[..., :2] + 0.5 * size, truth[..., :2] + 0.5 * true_size
    deltas = torch.cat([(true_center - center) / size, (true_size / size).log()], dim=-1)
    weights = torch.tensor(transform.weights, dtype=deltas.dtype)
    return deltas * weights.to(deltas.device, non_blocking=True)
