"""Merges the queries' outputs into semantic logits and a panoptic map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.modeling.mask2former.resampling import Frame


def semantic_logits(classes: Tensor, masks: Tensor) -> Tensor:
    """Computes the log-probabilities of classes from the queries' outputs.

    With s_c = sum_q p_q(c) sigmoid(m_q), as Mask2Former scores classes, and R = max(0, 1 - sum_c
    s_c), the probability that no query claims, p_c = (s_c + R / K) / (sum_c s_c + R): where no
    query is active the prediction is uniform.

    Args:
        classes: (N, Q, K + 1) logits, "no object" last.
        masks: (N, Q, h, w) logits.

    Returns:
        (N, K, h, w) float32.
    """
    with torch.autocast(classes.device.type, enabled=False):
        probabilities = classes.float().softmax(2)[:, :, :-1]
        scores = torch.einsum("nqk,nqhw->nkhw", probabilities, masks.float().sigmoid())
        claimed = scores.sum(1, keepdim=True)
        rest = (1 - claimed).clamp(min=0)
        # Both claimed + rest and 1 are the sum of all, up to rounding, where little is claimed.
        shares = (scores + rest / scores.shape[1]) / (claimed + rest)
        return shares.clamp(min=torch.finfo(torch.float32).tiny).log()


@dataclass(frozen=True)
class SegmentSettings:
    """Thresholds of the panoptic inference (Mask2Former, maskformer_model.py of the reference).

    Args:
        class_threshold: least probability of a query's class, 0..1, exclusive.
        overlap: least share of a mask's own pixels that it wins, 0..1.
    """

    class_threshold: float = 0.8
    overlap: float = 0.8


@dataclass(frozen=True)
class Segments:
    """The segments of one image, all on the device.

    Attributes:
        slots: (H, W) int64: 0 = void, c + 1 = the stuff of class c, K + 1 + q = query q's thing.
        classes: (1 + K + Q,) int64, the classes of the slots.
        confidence: (H, W) float32, class times mask probability of the pixel's own segment.
        greatest: (H, W) float32, maximum over all segments; None if not requested.
    """

    slots: Tensor
    classes: Tensor
    confidence: Tensor
    greatest: Tensor | None = None


def query_segments(
    classes: Tensor,
    masks: Tensor,
    frame: Frame,
    is_thing: Tensor,
    settings: SegmentSettings,
    with_greatest: bool = False,
) -> Segments:
    """Assigns each pixel to the query with the highest rho = class times mask probability.

    A pixel is a segment's where its own mask has it (sigmoid >= 0.5); segments that win too little
    of their mask are dropped, and the stuff of a class is one segment.

    Args:
        classes: (Q, K + 1) logits, "no object" last.
        masks: (Q, h, w) logits.
        frame: where the picture's pixels lie in the masks.
        is_thing: (K,) bool.
        settings: thresholds.
        with_greatest: whether ``greatest`` is wanted, for a second pass over the masks.
    """
    count, num_classes = classes.shape[0], classes.shape[1] - 1
    probabilities = classes.float().softmax(1)
    best, found = probabilities[:, :-1].max(1)
    kept = (probabilities.argmax(1) != num_classes) & (best > settings.class_threshold)
    gains = torch.where(kept, best, -1.0)

    size, device = frame.size, masks.device
    top = torch.empty(size, device=device)
    winner = torch.empty(size, dtype=torch.int32, device=device)
    claimed = torch.zeros(count, device=device)
    for rows, part in frame.pieces(masks.float()):
        probable = part.sigmoid_()
        claimed += (probable >= 0.5).sum((1, 2))
        greatest = probable.mul_(gains.view(-1, 1, 1)).max(0)
        top[rows], winner[rows] = greatest
    winner = winner.long()
    some = top > 0
    won = torch.zeros(count, device=device).scatter_add_(
        0, winner.flatten(), some.flatten().float()
    )
    # A comparison of products, so that an empty mask needs no special case.
    alive = kept & (won > 0) & (claimed > 0) & (won >= settings.overlap * claimed)
    inside = some & (top >= 0.5 * gains[winner]) & alive[winner]
    things = num_classes + 1 + torch.arange(count, device=device)
    slot = torch.where(is_thing[found], things, found + 1)
    stuff = torch.arange(num_classes, device=device)
    table = torch.cat([stuff.new_full((1,), IGNORE_LABEL), stuff, found])
    return Segments(
        torch.where(inside, slot[winner], 0),
        table,
        torch.where(inside, top, 0.0),
        _greatest(masks, frame, torch.where(alive, best, 0.0)) if with_greatest else None,
    )


def _greatest(masks: Tensor, frame: Frame, gains: Tensor) -> Tensor:
    result = torch.empty(frame.size, device=masks.device)
    for rows, part in frame.pieces(masks.float()):
        result[rows] = part.sigmoid_().mul_(gains.view(-1, 1, 1)).amax(0)
    return result


def panoptic_result(
    classes: Tensor,
    masks: Tensor,
    frame: Frame,
    thing_ids: Sequence[int],
    settings: SegmentSettings,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Makes Detectron2's panoptic result of one picture; arguments as :func:`query_segments`.

    Returns:
        (H, W) int32 segment ids, 0 = void and 1..S; and S dictionaries with ``id``,
        ``category_id`` (class id), ``isthing``, ``area`` (pixels), ``score`` (0..1: mean of class
        times mask probability).
    """
    num_classes = classes.shape[1] - 1
    is_thing = torch.zeros(num_classes, dtype=torch.bool, device=masks.device)
    is_thing[list(thing_ids)] = True
    # Queries without a class win no pixel, and most queries have none.
    kept = classes.float().softmax(1)[:, :-1].amax(1) > settings.class_threshold
    if not bool(kept.any()):
        return torch.zeros(frame.size, dtype=torch.int32, device=masks.device), []
    segments = query_segments(classes[kept], masks[kept], frame, is_thing, settings)
    flat, slots = segments.slots.flatten(), len(segments.classes)
    areas = torch.bincount(flat, minlength=slots)
    sums = torch.bincount(flat, segments.confidence.flatten().double(), minlength=slots)
    areas[0] = 0
    numbers = torch.where(areas > 0, (areas > 0).cumsum(0), 0)
    rows = torch.stack([segments.classes, areas, sums / areas.clamp(min=1)], dim=1)[areas > 0]
    table = [
        {
            "id": number,
            "category_id": int(category),
            "isthing": int(category) in set(thing_ids),
            "area": int(area),
            "score": score,
        }
        for number, (category, area, score) in enumerate(rows.tolist(), start=1)
    ]
    return numbers[segments.slots].to(torch.int32), table
